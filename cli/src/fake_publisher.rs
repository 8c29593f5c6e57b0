//! A small publisher for the tests of this crate, which answers as a replica as well: real HTTP,
//! documents in memory, answers that can be cut off.

mod applied;
mod change_sets;
mod history;
mod lists;
pub(crate) mod replicas;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    web::{self, Bytes, Data},
};
use client::Endpoint;
use contract::{
    CanonicalJson, CollectionName, Digest, Document, Epoch, Head, Heads, Problem, Written,
    fleet::{ReplicaList, RestoreEpochRequest},
};
use tokio::task::JoinSet;

use crate::{
    credentials::CredentialArgs,
    target::{endpoint, service_url},
};

/// Runs until it is dropped.
pub(crate) struct FakePublisher {
    url: String,
    store: Data<Mutex<Store>>,
    _server: JoinSet<io::Result<()>>,
}

/// What a list or a snapshot lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Cut {
    #[default]
    Nothing,
    /// The connection breaks before the end line.
    Connection,
    /// It ends without an error and without the end line.
    EndLine,
    /// The last item is missing, and the end line does not count it.
    Item,
}

#[derive(Default)]
struct Store {
    documents: BTreeMap<(String, String), Document>,
    revision: u64,
    cut: Cut,
    /// Without one it is a publisher that keeps no list of replicas.
    replicas: Option<ReplicaList>,
    /// Why it cannot do its work.
    not_ready: Option<String>,
    /// The requests for a new epoch.
    epoch_requests: Vec<RestoreEpochRequest>,
    /// It is an older publisher, without change sets.
    no_change_sets: bool,
    snapshots: u32,
    /// Number of changes in its history.
    history: u64,
    /// The answers of the next requests for `applied`, first to last.
    applied: VecDeque<applied::Script>,
    /// The queries of the requests for `applied`.
    applied_queries: Vec<String>,
    /// The number of writes of single documents that were asked for.
    puts: usize,
}

impl FakePublisher {
    pub(crate) async fn start() -> Self {
        let store = Data::from(Arc::new(Mutex::new(Store::default())));
        let shared = store.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/v1/collections", web::get().to(heads))
                .route("/v1/snapshot", web::get().to(lists::snapshot))
                .route(
                    "/v1/collections/{collection}/documents",
                    web::get().to(lists::list),
                )
                .route(
                    "/v1/collections/{collection}/documents/{id}",
                    web::put().to(put),
                )
                .route(
                    "/v1/collections/{collection}/documents/{id}",
                    web::get().to(get),
                )
                .configure(replicas::routes)
                .configure(applied::routes)
                .configure(change_sets::routes)
                .configure(history::routes)
                .default_service(web::to(no_such_route))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .expect("a free port");
        let url = format!("http://{}", server.addrs()[0]);
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run());
        Self {
            url,
            store,
            _server: tasks,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(
            &service_url(&self.url).expect("a URL"),
            &CredentialArgs::default(),
        )
        .expect("a client")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn documents(&self) -> usize {
        self.store.lock().expect("no panic").documents.len()
    }

    pub(crate) fn config(&self, collection: &str, id: &str) -> Option<String> {
        let store = self.store.lock().expect("no panic");
        let document = store
            .documents
            .get(&(collection.to_owned(), id.to_owned()))?;
        Some(String::from_utf8_lossy(document.config_data()).into_owned())
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.store.lock().expect("no panic").cut = cut;
    }

    /// Loses a document without a new revision, as no real publisher does.
    pub(crate) fn lose(&self, id: &str) {
        self.store
            .lock()
            .expect("no panic")
            .documents
            .retain(|(_collection, stored), _document| stored != id);
    }

    /// The number of writes of single documents that were asked for.
    pub(crate) fn puts(&self) -> usize {
        self.store.lock().expect("no panic").puts
    }

    /// The number of snapshots that were read.
    pub(crate) fn snapshots(&self) -> u32 {
        self.store.lock().expect("no panic").snapshots
    }
}

impl Store {
    /// The refusal of documents that need others (`needs`: ids of the same collection) which would not
    /// be there.
    fn dangling<'a>(
        &self,
        written: impl IntoIterator<Item = (&'a (String, String), &'a CanonicalJson)>,
    ) -> Option<HttpResponse> {
        let written: BTreeMap<_, _> = written.into_iter().collect();
        let mut references = Vec::new();
        for (key, config) in &written {
            let value = config.to_value().expect("JSON");
            for needed in value["needs"].as_array().into_iter().flatten() {
                let needed = (key.0.clone(), needed.as_str().expect("an id").to_owned());
                if !written.contains_key(&needed) && !self.documents.contains_key(&needed) {
                    references.push(serde_json::json!({
                        "collection": key.0, "id": key.1, "pointer": "/needs",
                        "refersTo": {"collection": needed.0, "id": needed.1},
                    }));
                }
            }
        }
        if references.is_empty() {
            return None;
        }
        let kind = contract::ProblemKind::DanglingReference;
        let mut problem = Problem::new(kind, "on purpose");
        let references = serde_json::Value::from(references);
        problem.references = serde_json::from_value(references).expect("references");
        Some(HttpResponse::Conflict().json(problem))
    }

    fn head(&self) -> Head {
        let digest = (self.documents.values()).fold(Digest::default(), |sum, document| {
            sum.with(document.id(), document.revision(), document.crc())
        });
        let empty = Head::empty(
            collection(),
            Epoch {
                lineage: 1,
                counter: 1,
            },
        );
        Head {
            revision: self.revision,
            count: self.documents.len() as u64,
            digest,
            ..empty
        }
    }
}

pub(crate) fn collection() -> CollectionName {
    "ChannelConfiguration".parse().expect("valid")
}

async fn heads(store: Data<Mutex<Store>>) -> HttpResponse {
    HttpResponse::Ok().json(Heads {
        heads: vec![store.lock().expect("no panic").head()],
    })
}

/// Only whether it exists.
async fn get(path: web::Path<(String, String)>, store: Data<Mutex<Store>>) -> HttpResponse {
    let key = path.into_inner();
    match store.lock().expect("no panic").documents.get(&key) {
        Some(document) => HttpResponse::Ok().body(document.body()),
        None => HttpResponse::NotFound().json(Problem::new(contract::ProblemKind::NoData, "none")),
    }
}

async fn put(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    body: Bytes,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    store.puts += 1;
    let key = path.into_inner();
    if key.1 == "refused" {
        let problem = Problem::new(contract::ProblemKind::Schema, "on purpose").at("/name");
        return HttpResponse::UnprocessableEntity().json(problem);
    }
    let exists = store.documents.contains_key(&key);
    let must_be_absent = request.headers().contains_key("If-None-Match");
    if exists && must_be_absent {
        return HttpResponse::PreconditionFailed().finish();
    }
    if !exists && !must_be_absent {
        return HttpResponse::NotFound().finish();
    }
    let config = CanonicalJson::parse(&body).expect("a JSON body");
    if let Some(refused) = store.dangling([(&key, &config)]) {
        return refused;
    }
    store.revision += 1;
    let document = Document::new(key.1.parse().expect("an id"), store.revision, &config);
    let written = Written {
        applied: None,
        id: document.id().clone(),
        revision: document.revision(),
        crc: Some(document.crc()),
        changed: true,
    };
    store.documents.insert(key, document);
    HttpResponse::Ok().json(written)
}

async fn no_such_route(request: HttpRequest) -> HttpResponse {
    missing_route(&request)
}

fn missing_route(request: &HttpRequest) -> HttpResponse {
    let detail = format!(
        "{} {} is not part of the API",
        request.method(),
        request.path()
    );
    HttpResponse::NotFound().json(Problem::new(contract::ProblemKind::NoSuchRoute, detail))
}
