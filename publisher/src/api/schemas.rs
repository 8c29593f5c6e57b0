//! The schemas of the collections: a reader of an event can fetch the schema that its `dataschema`
//! names.
//!
//! Only the schemas in force are served. Earlier versions are not kept, and HTTP changes none.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use contract::{
    CollectionName,
    access::{Right, Target},
};
use serde::{Deserialize, Serialize};
use service::http::{JSON, caller::Caller, etag};

use crate::{
    api::{Api, error::ApiError},
    decide::schemas::{Schema, digits},
};

const JSON_SCHEMA: &str = "application/schema+json";

#[derive(Serialize, utoipa::ToSchema)]
struct ListedSchema<'a> {
    collection: &'a CollectionName,
    urn: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// Whether there is a sample.
    sample: bool,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SchemaList<'a> {
    schemas: Vec<ListedSchema<'a>>,
}

/// `?urn=…`: only this version.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    urn: Option<String>,
}

impl Api {
    fn schema(&self, caller: &Caller, collection: &str) -> Result<Arc<Schema>, ApiError> {
        let collection = self.collection(caller, collection)?;
        let without =
            || ApiError::no_schema(format!("{collection} has no schema; it takes any object"));
        self.policy
            .rules
            .schemas
            .get(&collection)
            .ok_or_else(without)
    }
}

pub(super) async fn list(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let schemas = api.policy.rules.schemas.all();
    let visible = schemas
        .iter()
        .filter(|(collection, _schema)| caller.may(Right::Read, Target::DocumentsOf(collection)));
    let listed = visible.map(|(collection, schema)| ListedSchema {
        collection,
        urn: &schema.urn,
        title: schema.title.as_deref(),
        description: schema.description.as_deref(),
        sample: schema.sample.is_some(),
    });
    HttpResponse::Ok().json(SchemaList {
        schemas: listed.collect(),
    })
}

pub(super) async fn get(
    api: web::Data<Api>,
    caller: Caller,
    collection: web::Path<String>,
    version: web::Query<Version>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let schema = api.schema(&caller, &collection)?;
    if let Some(urn) = version.into_inner().urn.filter(|urn| *urn != schema.urn) {
        return Err(ApiError::no_schema(format!(
            "{urn} is not in force here; {} is",
            schema.urn
        )));
    }
    Ok(answer(&request, JSON_SCHEMA, &schema.text))
}

pub(super) async fn sample(
    api: web::Data<Api>,
    caller: Caller,
    collection: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let schema = api.schema(&caller, &collection)?;
    let sample = schema.sample.as_ref();
    let sample =
        sample.ok_or_else(|| ApiError::no_schema(format!("{collection} has no sample")))?;
    Ok(answer(&request, JSON, sample))
}

fn answer(request: &HttpRequest, media_type: &str, text: &Bytes) -> HttpResponse {
    let etag = format!("\"{}\"", digits(text));
    let mut response = HttpResponse::Ok();
    etag::conditional(request, &mut response, &etag)
        .unwrap_or_else(|| response.content_type(media_type).body(text.clone()))
}
