//! `state.confcast`: the documents as values of a state store.
//!
//! Reads come from the replica in this program, or from a publisher where the caller asks for strong
//! consistency. Writes go to a publisher, which decides, and are answered when the replica has them too,
//! so that a caller reads what it wrote. Secrets stay sealed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{
    CollectionName, Expected, ProblemKind, Revision, document::JSON, set::MAX_OPERATIONS,
};
use replica::Replica;
use tonic::{Code, Status};

use crate::{
    instances::{Instance, Instances},
    proto::{
        BulkDeleteRequest, BulkGetRequest, BulkGetResponse, BulkItem, BulkSetRequest,
        DeleteRequest, Empty, Etag, GetRequest, GetResponse, MultiMaxSizeResponse, SetRequest,
        TransactRequest,
    },
    publisher::Publisher,
    status::{check_bulk, of_client, of_field},
};

use self::{
    conditions::{expected, refused, value, version},
    key::Key,
};

mod conditions;
pub(crate) mod key;
mod transaction;

/// Bytes of all values of one answer: a sidecar takes 4 MiB.
const MAX_VALUES: usize = 3 << 20;
/// How long the answer to a write waits for the replica.
const APPLY_DEADLINE: Duration = Duration::from_secs(1);
/// [`GetRequest::consistency`]: strong.
const STRONG: i32 = 2;

/// The component. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct StateStore {
    replica: Replica,
    publisher: Arc<Publisher>,
    instances: Arc<Instances>,
}

/// A value, and the version that it has.
type Found = Option<(Vec<u8>, String)>;

impl StateStore {
    /// The component of a replica.
    pub(crate) fn new(
        replica: &Replica,
        publisher: &Arc<Publisher>,
        instances: &Arc<Instances>,
    ) -> Self {
        Self {
            replica: replica.clone(),
            publisher: Arc::clone(publisher),
            instances: Arc::clone(instances),
        }
    }

    /// The document of a key of the component with this name.
    fn key(
        &self,
        instance: &Instance,
        key: &str,
        metadata: &HashMap<String, String>,
    ) -> Result<Key, Status> {
        let default = self.instances.collection_of(instance).ok_or_else(|| {
            Status::failed_precondition(format!(
                "no sidecar has initialised the component {} since confcast-component started: \
                 restart the sidecar",
                instance.name
            ))
        })?;
        Key::read(key, metadata, default, self.replica.config())
    }

    /// `Get`. A key without a value is answered with nothing.
    ///
    /// # Errors
    /// When the key is wrong, or nothing was loaded yet.
    pub(crate) async fn get(
        &self,
        instance: &Instance,
        request: GetRequest,
    ) -> Result<GetResponse, Status> {
        let key = self.key(instance, &request.key, &request.metadata)?;
        let Some((data, etag)) = self.value(&key, request.consistency == STRONG).await? else {
            return Ok(GetResponse::default());
        };
        Ok(GetResponse {
            data,
            etag: Some(Etag { value: etag }),
            metadata: HashMap::new(),
            content_type: JSON.to_owned(),
        })
    }

    async fn value(&self, key: &Key, strong: bool) -> Result<Found, Status> {
        let Key { collection, id } = key;
        if strong {
            return match self.publisher.document(collection, id).await {
                Ok(stored) => {
                    let etag = format!("{}-{}", stored.revision, stored.crc);
                    Ok(Some((
                        stored.config_data.as_str().as_bytes().to_vec(),
                        etag,
                    )))
                }
                Err(error) if error.kind() == Some(ProblemKind::NoData) => Ok(None),
                Err(error) => Err(of_client(&error)),
            };
        }
        let view = self.replica.view();
        // "Does not exist" and "not loaded yet" must never look the same.
        if !view.loaded_of(collection) {
            return Err(if view.loaded_as_served() {
                let text = format!("no publisher serves a collection {collection}");
                of_field(Code::NotFound, key::COLLECTION, text)
            } else {
                Status::unavailable(format!(
                    "collection {collection} is not loaded yet; /v1/status of confcast-component says what it waits for"
                ))
            });
        }
        let document = view.root().get(collection, id);
        Ok(document.map(|document| (document.config_data().to_vec(), version(document))))
    }

    /// `BulkGet`. What is wrong with one key is said of it alone.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) async fn bulk_get(
        &self,
        instance: &Instance,
        request: BulkGetRequest,
    ) -> Result<BulkGetResponse, Status> {
        check_bulk("items", request.items.len())?;
        let mut items = Vec::with_capacity(request.items.len());
        let mut bytes = 0;
        for asked in request.items {
            let mut item = BulkItem {
                key: asked.key.clone(),
                ..BulkItem::default()
            };
            match self.get(instance, asked).await {
                Ok(found) if bytes + found.data.len() > MAX_VALUES => {
                    "the values of these keys are more than a sidecar takes at once: ask for fewer"
                        .clone_into(&mut item.error);
                }
                Ok(found) => {
                    bytes += found.data.len();
                    item.data = found.data;
                    item.etag = found.etag;
                    item.content_type = found.content_type;
                }
                Err(refusal) => refusal.message().clone_into(&mut item.error),
            }
            items.push(item);
        }
        Ok(BulkGetResponse { items })
    }

    /// `Set`.
    ///
    /// # Errors
    /// When the key, the value or the version is wrong, or a publisher refuses the write.
    pub(crate) async fn set(
        &self,
        instance: &Instance,
        request: SetRequest,
    ) -> Result<Empty, Status> {
        let written = self.write(instance, request).await?;
        self.applied([written]).await;
        Ok(Empty {})
    }

    async fn write(&self, instance: &Instance, request: SetRequest) -> Result<Written, Status> {
        let key = self.key(instance, &request.key, &request.metadata)?;
        let value = value(&request)?;
        let expected = expected(request.etag.as_ref(), request.options)?;
        let document = (&key.collection, &key.id);
        let written = self
            .publisher
            .put(document, value.as_str().as_bytes(), &expected, true);
        let revision = written.await.map_err(|error| refused(&error, &expected))?;
        Ok((key.collection, revision))
    }

    /// `Delete`. A key without a value is no error, unless a version was expected.
    ///
    /// # Errors
    /// As [`StateStore::set`].
    pub(crate) async fn delete(
        &self,
        instance: &Instance,
        request: DeleteRequest,
    ) -> Result<Empty, Status> {
        let written = self.remove(instance, request).await?;
        self.applied(written).await;
        Ok(Empty {})
    }

    async fn remove(
        &self,
        instance: &Instance,
        request: DeleteRequest,
    ) -> Result<Option<Written>, Status> {
        let key = self.key(instance, &request.key, &request.metadata)?;
        // The first writer wins over nobody where nothing is created.
        let expected = match request.etag {
            Some(_) => expected(request.etag.as_ref(), request.options)?,
            None => Expected::Any,
        };
        let deleted = (self.publisher).delete((&key.collection, &key.id), &expected);
        let deleted = deleted.await.map_err(|error| refused(&error, &expected))?;
        Ok(deleted.map(|revision| (key.collection, revision)))
    }

    /// `BulkSet`: each key on its own, in their order.
    ///
    /// # Errors
    /// The first refusal, with the keys of all; the others were written.
    pub(crate) async fn bulk_set(
        &self,
        instance: &Instance,
        request: BulkSetRequest,
    ) -> Result<Empty, Status> {
        check_bulk("items", request.items.len())?;
        let (mut bulk, mut written) = (Refusals::default(), Vec::new());
        for item in request.items {
            let key = item.key.clone();
            let Some(result) = bulk.unless_unreachable(self.write(instance, item)).await else {
                bulk.keys.push(key);
                continue;
            };
            written.extend(bulk.note(key, result));
        }
        self.applied(written).await;
        bulk.result()
    }

    /// `BulkDelete`, as [`StateStore::bulk_set`].
    ///
    /// # Errors
    /// As [`StateStore::bulk_set`].
    pub(crate) async fn bulk_delete(
        &self,
        instance: &Instance,
        request: BulkDeleteRequest,
    ) -> Result<Empty, Status> {
        check_bulk("items", request.items.len())?;
        let (mut bulk, mut written) = (Refusals::default(), Vec::new());
        for item in request.items {
            let key = item.key.clone();
            let Some(result) = bulk.unless_unreachable(self.remove(instance, item)).await else {
                bulk.keys.push(key);
                continue;
            };
            written.extend(bulk.note(key, result).flatten());
        }
        self.applied(written).await;
        bulk.result()
    }

    /// `Transact`: all operations or none.
    ///
    /// # Errors
    /// As [`StateStore::set`]; no operation has an effect then.
    pub(crate) async fn transact(
        &self,
        instance: &Instance,
        request: TransactRequest,
    ) -> Result<Empty, Status> {
        let set = transaction::Transaction::read(request, |key, metadata| {
            self.key(instance, key, metadata)
        })?;
        let written = set.write(&self.publisher, &self.replica).await?;
        self.applied(written).await;
        Ok(Empty {})
    }

    /// `MultiMaxSize`: most operations of a transaction.
    pub(crate) fn largest_transaction() -> MultiMaxSizeResponse {
        MultiMaxSizeResponse {
            max_size: i64::try_from(MAX_OPERATIONS).unwrap_or(i64::MAX),
        }
    }

    /// Waits until the replica has what was written. A replica that is late delays no writer for long.
    /// One deadline is for all.
    async fn applied(&self, written: impl IntoIterator<Item = Written>) {
        let deadline = Instant::now() + APPLY_DEADLINE;
        let mut newest = HashMap::new();
        for (collection, revision) in written {
            let last = newest.entry(collection).or_insert(revision);
            *last = revision.max(*last);
        }
        for (collection, revision) in newest {
            let waited = self
                .replica
                .wait_for_revision(&collection, revision, deadline);
            if let Err(late) = waited.await {
                tracing::debug!(%collection, revision, "a write is answered before the replica has it: {late}");
            }
        }
    }
}

/// The collection of a write, and its revision.
type Written = (CollectionName, Revision);

/// The refusals of the items of a bulk.
#[derive(Default)]
struct Refusals {
    first: Option<Status>,
    last: Option<Status>,
    keys: Vec<String>,
}

impl Refusals {
    /// Tries an item; `None` after one for which no publisher could be reached: each would wait as long.
    async fn unless_unreachable<T>(&self, attempt: impl Future<Output = T>) -> Option<T> {
        let is_unreachable = |refusal: &Status| refusal.code() == Code::Unavailable;
        match self.last.as_ref().is_some_and(is_unreachable) {
            true => None,
            false => Some(attempt.await),
        }
    }

    fn note<T>(&mut self, key: String, result: Result<T, Status>) -> Option<T> {
        match result {
            Ok(written) => Some(written),
            Err(refusal) => {
                self.first.get_or_insert_with(|| refusal.clone());
                self.last = Some(refusal);
                self.keys.push(key);
                None
            }
        }
    }

    fn result(self) -> Result<Empty, Status> {
        let Some(first) = self.first else {
            return Ok(Empty {});
        };
        let text = format!(
            "{} (refused: {}; the others were written)",
            first.message(),
            self.keys.join(", ")
        );
        // The details stay: they are how a sidecar knows a conflict.
        Err(Status::with_details(
            first.code(),
            text,
            first.details().to_vec().into(),
        ))
    }
}
