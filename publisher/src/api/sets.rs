//! `POST /v1/changes`: several documents that change together or not at all.
//!
//! The body is read change by change, so that an error names the change that has it. The rules of
//! every set are in [`crate::write::change_set`], the rules of a change in [`crate::decide`].

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CanonicalJson, Revision,
    set::{ChangeRequest, ChangeSetWritten, MAX_OPERATIONS, RequestOperation},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use service::http::JSON;
use uuid::Uuid;

use crate::{
    api::{Api, body, body::Body, error::ApiError, origin},
    decide::{Set, Write},
    write::{
        change_set as members,
        change_set::{Members, refused},
    },
};

/// [`contract::set::ChangeSetRequest`], its members not yet read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
}

/// [`contract::set::ChangeRequest`], not yet checked. An `expected` with a typing error must not be
/// passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Member<'a> {
    collection: String,
    op: RequestOperation,
    id: String,
    #[serde(borrow)]
    config_data: Option<&'a RawValue>,
    expected: Option<Revision>,
}

pub(super) async fn commit(
    api: web::Data<Api>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let members = api.members(&request, body.of_type(&request, JSON)?)?;
    let places = members
        .iter()
        .map(|write| (write.collection.clone(), write.id.clone()))
        .collect();
    let id = Uuid::now_v7().to_string();
    let done = api
        .writer
        .write_set(Set {
            id: id.clone(),
            members,
        })
        .await?;
    Ok(HttpResponse::Ok().json(ChangeSetWritten {
        id,
        items: members::items(places, &done),
    }))
}

impl Api {
    fn members(&self, request: &HttpRequest, body: &[u8]) -> Result<Vec<Write>, ApiError> {
        let Changes { changes } = body::object(body).map_err(|error| refused("", error))?;
        if changes.is_empty() {
            return Err(refused("/changes", "A set has at least one change"));
        }
        if changes.len() > MAX_OPERATIONS {
            return Err(ApiError::set_too_large(MAX_OPERATIONS));
        }
        let (context, mut members) = (origin::context(request)?, Members::default());
        for (index, member) in changes.into_iter().enumerate() {
            let member = self
                .member(member)
                .map_err(|error| error.of_member(index))?;
            members.add(&self.terms, &context, member)?;
        }
        Ok(members.into_writes())
    }

    fn member(&self, member: &RawValue) -> Result<ChangeRequest, ApiError> {
        let Member {
            collection,
            op,
            id,
            config_data,
            expected,
        } = body::object(member.get().as_bytes()).map_err(|error| refused("", error))?;
        let (collection, id) = self.document_key(&(collection, id))?;
        let config = config_data
            .map(|config| CanonicalJson::parse(config.get().as_bytes()))
            .transpose();
        let config_data =
            config.map_err(|refusal| ApiError::bad_body(refusal).under("/configData"))?;
        Ok(ChangeRequest {
            collection,
            op,
            id,
            config_data,
            expected,
        })
    }
}
