//! The history of a fake publisher: changes of one document, in small pages; and its named snapshots.

mod snapshots;

use std::sync::Mutex;

use actix_web::{
    HttpResponse,
    web::{self, Data, Query, ServiceConfig},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FakePublisher, Store};

/// Changes in a page. Every second page is empty.
const PAGE: u64 = 2;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.route("/v1/history", web::get().to(history));
    snapshots::routes(config);
}

impl FakePublisher {
    /// Has this number of changes in its history from now on.
    pub(crate) fn has_history(&self, changes: u64) {
        self.store.lock().expect("no panic").history = changes;
    }
}

#[derive(Deserialize)]
struct PageQuery {
    limit: u64,
    /// `REVISION`, and `REVISION-empty` after an empty page.
    before: Option<String>,
}

async fn history(query: Query<PageQuery>, store: Data<Mutex<Store>>) -> HttpResponse {
    let newest = store.lock().expect("no panic").history + 1;
    let before = query.before.as_deref().unwrap_or_default();
    let (position, is_after_empty) = match before.strip_suffix("-empty") {
        Some(position) => (position, true),
        None => (before, false),
    };
    let before: u64 = position.parse().unwrap_or(newest);
    if before != newest && !is_after_empty {
        return HttpResponse::Ok().json(json!({"items": [], "next": format!("{before}-empty")}));
    }
    let end = before.saturating_sub(query.limit.min(PAGE)).max(1);
    let items: Vec<Value> = (end..before).rev().map(item).collect();
    let next = (end > 1).then(|| end.to_string());
    HttpResponse::Ok().json(json!({"items": items, "next": next}))
}

fn item(revision: u64) -> Value {
    json!({
        "collection": "ChannelConfiguration", "id": "a", "revision": revision,
        "epoch": "00000001-1", "op": "Update", "time": "2026-11-28T09:00:00Z",
        "diff": [{"pointer": "/n", "before": revision - 1, "after": revision}],
    })
}
