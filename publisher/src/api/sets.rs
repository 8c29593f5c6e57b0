//! `POST /v1/changes`: several documents that change together or not at all.
//!
//! The body is read member by member, so that a fault is told of the member that has it. What holds
//! for every set is in [`crate::write::change_set`], what a member does is decided where every write is, in
//! [`crate::decide`].

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CanonicalJson, Revision,
    set::{ChangeRequest, MAX_OPERATIONS, RequestOperation},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{Api, body, body::Body, error::ApiError, origin},
    decide::ChangeSetCommand,
    write::change_set::ChangeSetBuilder,
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
    let set = api.members(&request, body.of_type(&request, body::JSON)?)?;
    Ok(HttpResponse::Ok().json(api.writer.write_set(set).await?))
}

impl Api {
    fn members(&self, request: &HttpRequest, body: &[u8]) -> Result<ChangeSetCommand, ApiError> {
        let Changes { changes } =
            body::object(body).map_err(|error| ApiError::bad_set("", error))?;
        if changes.is_empty() {
            return Err(ApiError::bad_set(
                "/changes",
                "A set has at least one change",
            ));
        }
        if changes.len() > MAX_OPERATIONS {
            return Err(ApiError::set_too_large(MAX_OPERATIONS));
        }
        let (context, mut members) = (origin::context(request)?, ChangeSetBuilder::default());
        for (index, member) in changes.into_iter().enumerate() {
            let member = self
                .member(member)
                .map_err(|error| error.of_member(index))?;
            members.add(&self.terms, &context, member)?;
        }
        Ok(members.build())
    }

    fn member(&self, member: &RawValue) -> Result<ChangeRequest, ApiError> {
        let Member {
            collection,
            op,
            id,
            config_data,
            expected,
        } = body::object(member.get().as_bytes()).map_err(|error| ApiError::bad_set("", error))?;
        let (collection, id) = self.place(&(collection, id))?;
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
