//! A publisher of a few lines for the tests of this crate: real HTTP, documents in memory, answers that can be cut.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    web::{self, Bytes, Data},
};
use contract::{
    CanonicalJson, CollectionName, Digest, Document, Epoch, Head, Heads, Problem,
    listing::{self, Form, Listing},
    snapshot,
};
use futures_util::stream;
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::{Api, service_url};

/// Runs until it is dropped.
pub(crate) struct StandIn {
    url: String,
    store: Data<Mutex<Store>>,
    _server: JoinSet<io::Result<()>>,
}

/// What a snapshot lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Cut {
    #[default]
    Nothing,
    /// The connection breaks before the end line.
    Connection,
    /// It ends as if all was well, without the end line.
    EndLine,
    /// The last item, and the end line does not count it.
    Item,
}

#[derive(Default)]
struct Store {
    documents: BTreeMap<(String, String), Document>,
    revision: u64,
    cut: Cut,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let store = Data::from(Arc::new(Mutex::new(Store::default())));
        let shared = store.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/v1/collections", web::get().to(heads))
                .route("/v1/snapshot", web::get().to(whole))
                .route("/v1/collections/{collection}/documents", web::get().to(list))
                .route("/v1/collections/{collection}/documents/{id}", web::put().to(put))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .expect("a free port");
        let url = format!("http://{}", server.addrs()[0]);
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run());
        Self { url, store, _server: tasks }
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(service_url(&self.url).expect("a URL")).expect("a client")
    }

    pub(crate) fn documents(&self) -> usize {
        self.store.lock().expect("no panic").documents.len()
    }

    pub(crate) fn config(&self, collection: &str, id: &str) -> Option<String> {
        let store = self.store.lock().expect("no panic");
        let document = store.documents.get(&(collection.to_owned(), id.to_owned()))?;
        Some(String::from_utf8_lossy(&document.config_data()).into_owned())
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.store.lock().expect("no panic").cut = cut;
    }
}

impl Store {
    fn head(&self) -> Head {
        let digest = (self.documents.values())
            .fold(Digest::default(), |sum, document| sum.with(document.id(), document.revision(), document.crc()));
        let empty = Head::empty(collection(), Epoch { lineage: 1, counter: 1 });
        Head { revision: self.revision, count: self.documents.len() as u64, digest, ..empty }
    }
}

fn collection() -> CollectionName {
    "ChannelConfiguration".parse().expect("valid")
}

async fn heads(store: Data<Mutex<Store>>) -> HttpResponse {
    HttpResponse::Ok().json(Heads { heads: vec![store.lock().expect("no panic").head()] })
}

async fn put(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    body: Bytes,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    let key = path.into_inner();
    if key.1 == "refused" {
        let problem = Problem::new(422, "schema", "The schema refuses it", "on purpose").at("/name");
        return HttpResponse::UnprocessableEntity().json(problem);
    }
    match (store.documents.contains_key(&key), request.headers().contains_key("If-None-Match")) {
        (false, false) => return HttpResponse::NotFound().finish(),
        (true, true) => return HttpResponse::PreconditionFailed().finish(),
        (true, false) | (false, true) => {}
    }
    store.revision += 1;
    let config = CanonicalJson::parse(&body).expect("a JSON body");
    let document = Document::new(key.1.parse().expect("an id"), store.revision, &config);
    store.documents.insert(key, document);
    HttpResponse::Ok().json(json!({ "revision": store.revision }))
}

async fn whole(store: Data<Mutex<Store>>) -> HttpResponse {
    let store = store.lock().expect("no panic");
    let head = store.head();
    let sent = if store.cut == Cut::Item { store.documents.len() - 1 } else { store.documents.len() };
    let mut body = Vec::new();
    listing::start_line(&snapshot::Start { epoch: head.epoch, heads: vec![head] }, &mut body);
    for document in store.documents.values().take(sent) {
        document.snapshot_line(&collection(), &mut body);
    }
    answer(body, sent, store.cut)
}

async fn list(store: Data<Mutex<Store>>) -> HttpResponse {
    let store = store.lock().expect("no panic");
    let mut body = Vec::new();
    let mut listing = Listing::open(Form::NdJson, &store.head(), &mut body);
    for document in store.documents.values() {
        listing.item(document, &mut body);
    }
    answer(body, store.documents.len(), store.cut)
}

/// The end of a list or snapshot, or what is left of it.
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
    HttpResponse::Ok().content_type(listing::NDJSON).streaming(stream::iter([Ok(Bytes::from(body)), end]))
}
