//! A service that answers which features are on, from memory: `GET /flags/{id}`.
//!
//! ```text
//! AURA_CONFIGURATION_COLLECTIONS=FeatureFlags target/debug/publisher
//! PUBLISHER=http://127.0.0.1:8080 LISTEN=127.0.0.1:8090 target/debug/feature-flags
//! curl -X POST http://127.0.0.1:8080/v1/collections/FeatureFlags/documents \
//!   -H 'content-type: application/json' -d '{"id": "dark-mode", "enabled": true}'
//! curl http://127.0.0.1:8090/flags/dark-mode
//! ```
//!
//! No sidecar and no broker: the publisher on the same machine posts its events to replicas that checked
//! in, so a change is here milliseconds after it was made. Behind a sidecar nothing in here is
//! different.

use std::{error::Error, time::Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use replica::{
    Builder, Collection, Config, Events, Replica,
    actix::{Options, scope},
};
use serde::{Deserialize, Serialize};

/// What a document of the collection is. One that is anything else is refused, and the last good
/// one stays, if there was one.
#[derive(Debug, Serialize, Deserialize)]
struct Flag {
    enabled: bool,
    #[serde(default)]
    note: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let setting =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_unset| default.to_owned());
    let (publisher, listen) = (
        setting("PUBLISHER", "http://127.0.0.1:8080"),
        setting("LISTEN", "127.0.0.1:8090"),
    );

    let mut config = Config::new(&listen, [publisher], ["FeatureFlags"])?;
    config.events = Events::Local;
    config.base_url = Some(format!("http://{listen}").parse()?);
    let replica = Builder::new(config)
        .collection::<Flag>("FeatureFlags")?
        .build()?;
    let flags = replica.collection::<Flag>("FeatureFlags")?;

    let shared = replica.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(flags.clone()))
            .app_data(web::Data::new(shared.clone()))
            .service(scope(&shared, &Options::default()))
            .route("/flags/{id}", web::get().to(flag))
            .route("/status", web::get().to(status))
    })
    .workers(2)
    .bind(&listen)?
    .run();
    // The server ends when the process is asked to, and the replica with it.
    Ok(replica.run(server).await?)
}

/// Nothing is known before the first load, and not everything when values of it were refused: no flag
/// is reported as off then.
async fn flag(
    id: web::Path<String>,
    flags: web::Data<Collection<Flag>>,
    replica: web::Data<Replica>,
) -> HttpResponse {
    match flags.get(id.as_str()) {
        Some(flag) => HttpResponse::Ok().json(&*flag),
        None if replica.readiness().is_ok() => HttpResponse::NotFound().finish(),
        None => HttpResponse::ServiceUnavailable().finish(),
    }
}

/// How far the answers may be trusted, and what was refused.
async fn status(replica: web::Data<Replica>) -> HttpResponse {
    let state = replica.view().state(Instant::now());
    HttpResponse::Ok()
        .insert_header(("confcast-state", state.as_str()))
        .json(replica.status())
}
