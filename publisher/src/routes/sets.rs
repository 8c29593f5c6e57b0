//! `POST /v1/changes`: several documents that change together or not at all.
//!
//! The body is read member by member, so that a fault is told of the member that has it. What a member does is decided where
//! every write is, in [`crate::fold`].

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CanonicalJson, Problem, Revision,
    set::{MAX_BYTES, MAX_OPERATIONS, SetDone, SetItem, SetOperation},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Api,
    body::{self, Body},
    origin,
};
use crate::{
    error::ApiError,
    fold::{Action, Condition, Set, Write},
};

/// [`contract::set::SetRequest`], its members not yet read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
}

/// [`contract::set::SetMember`], not yet checked. An `expected` with a typing error must not be passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Member<'a> {
    collection: String,
    op: SetOperation,
    id: String,
    #[serde(borrow)]
    config_data: Option<&'a RawValue>,
    expected: Option<Revision>,
}

pub(super) async fn commit(api: web::Data<Api>, request: HttpRequest, body: Body) -> Result<HttpResponse, ApiError> {
    let members = api.members(&request, body.of_type(&request, body::JSON)?)?;
    let places: Vec<_> = members.iter().map(|write| (write.collection.clone(), write.id.clone())).collect();
    let id = Uuid::now_v7().to_string();
    let done = api.writer.write_set(Set { id: id.clone(), members }).await?;
    let revisions = done.iter().map(|done| done.revision);
    let items = places.into_iter().zip(revisions);
    let items = items.map(|((collection, id), revision)| SetItem { collection, id, revision }).collect();
    Ok(HttpResponse::Ok().json(SetDone { id, items }))
}

impl Api {
    fn members(&self, request: &HttpRequest, body: &[u8]) -> Result<Vec<Write>, ApiError> {
        let Changes { changes } = serde_json::from_slice(body).map_err(|error| refused("", error))?;
        if changes.is_empty() {
            return Err(refused("/changes", "A set has at least one change"));
        }
        if changes.len() > MAX_OPERATIONS {
            return Err(ApiError::set_too_large(MAX_OPERATIONS));
        }
        let (correlation_id, traceparent) = (origin::correlation_id(request)?, origin::traceparent(request));
        let (mut members, mut places, mut bytes) = (Vec::with_capacity(changes.len()), HashMap::new(), 0);
        for (index, member) in changes.into_iter().enumerate() {
            let (write, size) = self.member(member).map_err(|error| error.of_member(index))?;
            bytes += size;
            if bytes > MAX_BYTES {
                return Err(ApiError::set_too_large(index));
            }
            if let Some(other) = places.insert((write.collection.clone(), write.id.clone()), index) {
                let twice = format!("/changes/{other} has the same document; a set has a document once");
                return Err(refused("/id", twice).of_member(index));
            }
            let (correlation_id, traceparent) = (correlation_id.clone(), traceparent.clone());
            members.push(Write { correlation_id, traceparent, ..write });
        }
        Ok(members)
    }

    /// A member, and the bytes of its value.
    fn member(&self, member: &RawValue) -> Result<(Write, usize), ApiError> {
        let Member { collection, op, id, config_data, expected } =
            serde_json::from_str(member.get()).map_err(|error| refused("", error))?;
        let (collection, id) = self.place(&(collection, id))?;
        let config = config_data.map(|config| CanonicalJson::parse(config.get().as_bytes())).transpose();
        let config = config.map_err(|refusal| ApiError::bad_body(refusal).under("/configData"))?;
        let size = config.as_ref().map_or(0, |config| config.as_str().len());
        let action = match (op, config) {
            (SetOperation::Delete, None) => Action::Delete,
            (SetOperation::Delete, Some(_)) => {
                return Err(refused("/configData", "A Delete has no value; leave it out"));
            }
            (_, None) => return Err(refused("/configData", "The value is missing; only a Delete has none")),
            (SetOperation::Create, Some(config)) => Action::Create(config),
            (SetOperation::Update, Some(config)) => Action::Put(config),
            (SetOperation::Patch, Some(patch)) => {
                Action::Patch(serde_json::from_str(patch.as_str()).map_err(|error| refused("/configData", error))?)
            }
        };
        let condition = match expected {
            None => Condition::Any,
            Some(0) => Condition::Absent,
            Some(revision) => Condition::At(revision, None),
        };
        Ok((Write { collection, id, action, condition, correlation_id: None, traceparent: None }, size))
    }
}

fn refused(pointer: &str, detail: impl std::fmt::Display) -> ApiError {
    Problem::new(400, "bad-set", "The body is not a change set", detail.to_string()).at(pointer).into()
}
