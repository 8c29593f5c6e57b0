//! Bank accounts as event sourcing: a server that answers from the events in Redis, and a projector
//! that keeps a row for each account in MongoDB.
//!
//! ```text
//! target/debug/examples/bank server       # LISTEN=127.0.0.1:8090 REDIS=redis://127.0.0.1:6379
//! target/debug/examples/bank projector    # also MONGODB=mongodb://127.0.0.1:27017 DATABASE=bank
//!
//! curl -i localhost:8090/accounts --json '{"id": "alice", "amount": 500}'
//! curl -i localhost:8090/accounts/alice/deposits --json '{"amount": 250}' -H 'Idempotency-Key: 1'
//! curl -i localhost:8090/accounts/alice
//! ```
//!
//! `REPLICAS=1` answers a change only after that number of replicas of Redis confirmed it. Any number
//! of servers and projectors may run at once. There is no authentication: it is an example.

mod account;
mod http;

use std::{error::Error, time::Duration};

use actix_web::{App, HttpServer, web};
use journal::{Consumer, ConsumerOptions, Journal, MongoProjection, Replicas};
use mongodb::{Client, options::ClientOptions};
use tokio::signal::unix::{SignalKind, signal};

use account::{Account, Balance};

/// The collection of the projection (requirement E7).
const ROWS: &str = "accountCollection";

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let journal = journal()?;
    match std::env::args().nth(1).as_deref() {
        Some("server") => serve(journal).await,
        Some("projector") => project(journal).await,
        _ => Err("expected one argument: server or projector".into()),
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_unset| default.to_owned())
}

fn journal() -> Result<Journal<Account>, Box<dyn Error>> {
    let address = setting("REDIS", "redis://127.0.0.1:6379").parse()?;
    let journal = Journal::new(address, "account".parse()?);
    Ok(match setting("REPLICAS", "0").parse()? {
        0 => journal,
        count => journal.with_replicas(Replicas {
            count,
            within: Duration::from_millis(500),
        })?,
    })
}

/// Serves the HTTP API until the process is asked to stop.
async fn serve(journal: Journal<Account>) -> Result<(), Box<dyn Error>> {
    let listen = setting("LISTEN", "127.0.0.1:8090");
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(journal.clone()))
            .configure(http::routes)
    });
    server.workers(2).bind(listen)?.run().await?;
    Ok(())
}

/// Feeds the rows until the process is asked to stop.
async fn project(journal: Journal<Account>) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let url = setting("MONGODB", "mongodb://127.0.0.1:27017");
    let mut options = ClientOptions::parse(url).await?;
    options.server_selection_timeout = Some(Duration::from_secs(3));
    options.connect_timeout = Some(Duration::from_secs(2));
    let database = Client::with_options(options)?.database(&setting("DATABASE", "bank"));
    let projection = MongoProjection::<_, Balance>::new(journal.clone(), &database, ROWS);
    let take_over_after = Duration::from_millis(setting("TAKE_OVER_AFTER_MS", "30000").parse()?);
    let options = ConsumerOptions {
        take_over_after,
        ..ConsumerOptions::default()
    };
    let consumer = Consumer::new(journal, "accountProjector".parse()?, options);
    let stop = async move {
        terminate.recv().await;
    };
    consumer.run(&projection, stop).await;
    Ok(())
}
