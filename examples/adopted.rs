//! A service that was there before, and what it takes to have its greetings from the configuration:
//! the lines that are numbered.
//!
//! ```text
//! PUBLISHER=http://127.0.0.1:8080 LISTEN=127.0.0.1:8090 target/debug/adopted
//! curl http://127.0.0.1:8090/greet/whatsapp-es
//! ```

use std::error::Error;

use actix_web::{App, HttpResponse, HttpServer, web};
use replica::{Builder, Collection, Config, Events, actix};
use serde::Deserialize;

/// Of each channel this service wants to know its name; what else is in a document is nothing to
/// it.
#[derive(Debug, Deserialize)]
struct Channel {
    name: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let setting =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_unset| default.to_owned());
    let listen = setting("LISTEN", "127.0.0.1:8090");
    let config = Config {
        events: Events::Local,
        base_url: Some(format!("http://{listen}").parse()?),
        ..Config::new(
            &listen,
            [setting("PUBLISHER", "http://127.0.0.1:8080")],
            ["ChannelConfiguration"],
        )?
    };

    // 1. A replica that reads the collection as a type.
    let replica = Builder::new(config)
        .collection::<Channel>("ChannelConfiguration")?
        .build()?;
    let channels = replica.collection::<Channel>("ChannelConfiguration")?;

    let dapr = replica.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(channels.clone()))
            .route("/greet/{channel}", web::get().to(greet))
            // 2. The two routes of a sidecar, beside its own.
            .service(actix::scope(&dapr, &actix::Options::default()))
    })
    .workers(2)
    .bind(&listen)?
    .run();

    // 3. It follows for as long as the service runs. Before, this was `server.await`.
    Ok(replica.run(server).await?)
}

async fn greet(
    channel: web::Path<String>,
    channels: web::Data<Collection<Channel>>,
) -> HttpResponse {
    let name = channels
        .get(channel.as_str())
        .map(|channel| channel.name.clone());
    HttpResponse::Ok().body(format!("Welcome to {}", name.as_deref().unwrap_or("us")))
}
