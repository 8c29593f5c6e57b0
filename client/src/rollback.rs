//! Rollbacks, and the named snapshots that a rollback can go back to.

use contract::{
    CollectionName, DocumentId,
    history::SnapshotName,
    named_snapshot::{NamedSnapshot, NamedSnapshots},
    rollback::{Rollback, RollbackRequest, SetRollbackRequest},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Serialize;

use crate::{ClientError, Endpoint, answer::MAX_LIST, documents::document_path};

impl Endpoint {
    /// Gives a document the value back that it had, or shows what that would do.
    ///
    /// # Errors
    /// When there is no answer, the past is not kept (410), the document is not at the expected
    /// revision (412), or its value of then is not valid any more (422).
    pub async fn rollback_document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        request: &RollbackRequest,
    ) -> Result<Rollback, ClientError> {
        let path = format!("{}/rollback", document_path(collection, id));
        self.rollback(&path, request, request.dry_run).await
    }

    /// Gives all documents of a collection, or those that the request names, the values back that
    /// they had, or shows what that would do.
    ///
    /// # Errors
    /// As [`Endpoint::rollback_document`]; 413 when more documents change than a change set may have.
    pub async fn rollback_collection(
        &self,
        collection: &CollectionName,
        request: &RollbackRequest,
    ) -> Result<Rollback, ClientError> {
        let path = format!("/v1/collections/{collection}/rollback");
        self.rollback(&path, request, request.dry_run).await
    }

    /// Undoes a change set: each of its documents is afterwards as it was before the set.
    ///
    /// # Errors
    /// When there is no answer, there is no such set (404), or a document of it was changed since
    /// (409); `lastChange` of the problem is that change.
    pub async fn rollback_set(
        &self,
        set: &str,
        request: &SetRollbackRequest,
    ) -> Result<Rollback, ClientError> {
        let set = utf8_percent_encode(set, NON_ALPHANUMERIC);
        let path = format!("/v1/sets/{set}/rollback");
        self.rollback(&path, request, request.dry_run).await
    }

    async fn rollback(
        &self,
        path: &str,
        body: &impl Serialize,
        dry_run: bool,
    ) -> Result<Rollback, ClientError> {
        let request = if dry_run {
            self.maintenance_request(Method::POST, path)
        } else {
            self.set_request(path)
        };
        let request = request.json(body);
        let response = self.send_maintenance(self.authored(request)).await?;
        self.json(response).await
    }

    /// Makes a named snapshot of all collections.
    ///
    /// # Errors
    /// When there is no answer, or one of this name or too many exist (409).
    pub async fn create_snapshot(&self, name: &SnapshotName) -> Result<NamedSnapshot, ClientError> {
        let request = self.maintenance_request(Method::PUT, &snapshot_path(name));
        let response = self.send_maintenance(self.authored(request)).await?;
        self.json(response).await
    }

    /// All named snapshots, by name.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn snapshots(&self) -> Result<Vec<NamedSnapshot>, ClientError> {
        let response = self.get("/v1/snapshots").await?;
        let NamedSnapshots { items } = self.json_within(response, MAX_LIST).await?;
        Ok(items)
    }

    /// One named snapshot.
    ///
    /// # Errors
    /// When there is no answer, or none has the name (404).
    pub async fn named_snapshot(&self, name: &SnapshotName) -> Result<NamedSnapshot, ClientError> {
        self.json(self.get(&snapshot_path(name)).await?).await
    }

    /// Deletes a named snapshot: the state of its moment is then kept as long as any other.
    ///
    /// # Errors
    /// As [`Endpoint::named_snapshot`].
    pub async fn delete_snapshot(&self, name: &SnapshotName) -> Result<(), ClientError> {
        let request = self.maintenance_request(Method::DELETE, &snapshot_path(name));
        self.send_maintenance(self.authored(request))
            .await
            .map(drop)
    }
}

/// Path of a named snapshot. The name has no character that a URL escapes.
fn snapshot_path(name: &SnapshotName) -> String {
    format!("/v1/snapshots/{name}")
}
