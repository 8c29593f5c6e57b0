//! The history of a document, of a collection and of the whole store, page by page.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CollectionName, DocumentId, Operation,
    access::Right,
    context::MAX_LEN,
    history::{
        ChangeNote, DEFAULT_PAGE, HistoryFilter, HistoryItem, HistoryPage, MAX_PAGE, MAX_TEXT,
        difference,
    },
};
use serde::Deserialize;
use service::http::{caller::Caller, problem::ProblemError};
use tokio::time::Instant;

use crate::{
    api::{Api, error::ApiError, past::instant},
    store::past::history::{HistoryChange, HistoryQuery, Previous},
};

/// The parameters of a page.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    id: Option<String>,
    user: Option<String>,
    op: Option<String>,
    from: Option<String>,
    to: Option<String>,
    text: Option<String>,
    set: Option<String>,
    limit: Option<String>,
    before: Option<String>,
}

pub(super) async fn of_store(
    api: web::Data<Api>,
    caller: Caller,
    parameters: web::Query<Parameters>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let collections = api.visible(&caller, &[Right::Read]);
    page(&api, &request, collections, &parameters, None).await
}

pub(super) async fn of_collection(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    parameters: web::Query<Parameters>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let collections = BTreeSet::from([api.collection(&caller, &name)?]);
    page(&api, &request, collections, &parameters, None).await
}

pub(super) async fn of_document(
    api: web::Data<Api>,
    caller: Caller,
    key: web::Path<(String, String)>,
    parameters: web::Query<Parameters>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (collection, id) = api.document_key(&caller, &key)?;
    let collections = BTreeSet::from([collection]);
    page(&api, &request, collections, &parameters, Some(id)).await
}

async fn page(
    api: &Api,
    request: &HttpRequest,
    collections: BTreeSet<CollectionName>,
    parameters: &Parameters,
    id: Option<DocumentId>,
) -> Result<HttpResponse, ApiError> {
    let mut filter = parameters.filter()?;
    filter.id = id.or(filter.id);
    let before = parameters.before.as_deref().map(|before| {
        before
            .parse()
            .map_err(|error| ProblemError::bad_request("before", error))
    });
    let query = HistoryQuery {
        collections,
        filter,
        before: before.transpose()?,
        limit: parameters.limit()?,
    };
    let _slot = api.history_slot(request).await?;
    let page = api.store.history(&query).await?;
    let bytes = page.items.iter().map(bytes).sum();
    let found = page.items;
    let describe = move || found.iter().map(item).collect();
    let items = api
        .writer
        .large_work()
        .run(Instant::now(), bytes, describe)
        .await?;
    Ok(HttpResponse::Ok().json(HistoryPage {
        items,
        unreadable: page.unreadable,
        next: page.next.map(|next| next.to_string()),
    }))
}

impl Parameters {
    fn limit(&self) -> Result<usize, ApiError> {
        let Some(limit) = &self.limit else {
            return Ok(DEFAULT_PAGE);
        };
        let number = limit.parse::<u64>().map_err(|_other| {
            ProblemError::bad_request("limit", "expected a number of changes, 0 to 2^64 - 1")
        })?;
        Ok(usize::try_from(number)
            .unwrap_or(MAX_PAGE)
            .clamp(1, MAX_PAGE))
    }

    fn filter(&self) -> Result<HistoryFilter, ApiError> {
        let time = |field, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| instant(field, text)).transpose()
        };
        let op = self.op.as_deref().map(|op| match op {
            "Create" => Ok(Operation::Create),
            "Update" => Ok(Operation::Update),
            "Delete" => Ok(Operation::Delete),
            _other => {
                let detail = "expected Create, Update or Delete";
                Err(ProblemError::bad_request("op", detail))
            }
        });
        let id = self.id.as_deref().map(|id| {
            id.parse()
                .map_err(|error| ProblemError::bad_request("id", error))
        });
        Ok(HistoryFilter {
            id: id.transpose()?,
            user: bounded("user", &self.user, MAX_LEN)?,
            op: op.transpose()?,
            from: time("from", &self.from)?,
            to: time("to", &self.to)?,
            text: bounded("text", &self.text, MAX_TEXT)?,
            set: bounded("set", &self.set, MAX_LEN)?,
        })
    }
}

/// A text of a request that is compared with stored ones.
fn bounded(field: &str, text: &Option<String>, max: usize) -> Result<Option<String>, ProblemError> {
    match text {
        Some(text) if text.is_empty() || text.len() > max => {
            let detail = format!("expected 1 to {max} bytes");
            Err(ProblemError::bad_request(field, detail))
        }
        text => Ok(text.clone()),
    }
}

fn bytes(HistoryChange { change, previous }: &HistoryChange) -> usize {
    let before = match previous {
        Previous::Value(value) => value.as_str().len(),
        Previous::Absent | Previous::NotKept => 0,
    };
    let after = change.config_data.as_ref();
    before + after.map_or(0, |after| after.as_str().len())
}

fn item(HistoryChange { change, previous }: &HistoryChange) -> HistoryItem {
    let before = match previous {
        Previous::Absent => Some(None),
        Previous::Value(value) => Some(Some(value)),
        Previous::NotKept => None,
    };
    let diff = before.map(|before| difference(before, change.config_data.as_ref()));
    HistoryItem {
        change: ChangeNote::from(change),
        crc: change.crc,
        diff_truncated: diff.as_ref().is_some_and(|diff| diff.truncated),
        diff: diff.map(|diff| diff.differences),
    }
}
