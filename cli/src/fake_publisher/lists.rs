//! Lists and snapshots of a fake publisher, complete or cut off.

use std::{io, sync::Mutex};

use actix_web::{
    HttpResponse,
    web::{Bytes, Data},
};
use contract::{
    listing::{self, ListFormat, ListWriter},
    snapshot::SnapshotStart,
};
use futures_util::stream;

use super::{Cut, Store, collection};

pub(super) async fn snapshot(store: Data<Mutex<Store>>) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    store.snapshots += 1;
    let head = store.head();
    let sent = if store.cut == Cut::Item {
        store.documents.len() - 1
    } else {
        store.documents.len()
    };
    let mut body = Vec::new();
    listing::start_line(
        &SnapshotStart {
            epoch: head.epoch,
            heads: vec![head],
        },
        &mut body,
    );
    for document in store.documents.values().take(sent) {
        document.snapshot_line(&collection(), &mut body);
    }
    answer(body, sent, store.cut)
}

pub(super) async fn list(store: Data<Mutex<Store>>) -> HttpResponse {
    let store = store.lock().expect("no panic");
    let mut body = Vec::new();
    let mut listing = ListWriter::open(ListFormat::NdJson, &store.head(), &mut body);
    for document in store.documents.values() {
        listing.item(document, &mut body);
    }
    answer(body, store.documents.len(), store.cut)
}

/// The answer with the end line, unless that is cut off.
fn answer(body: Vec<u8>, sent: usize, cut: Cut) -> HttpResponse {
    let end = match cut {
        Cut::Connection => Err(io::Error::other("cut")),
        Cut::EndLine => Ok(Bytes::new()),
        Cut::Nothing | Cut::Item => {
            let mut line = Vec::new();
            listing::end_line(sent as u64, &mut line);
            Ok(line.into())
        }
    };
    HttpResponse::Ok()
        .content_type(listing::NDJSON)
        .streaming(stream::iter([Ok(Bytes::from(body)), end]))
}
