//! A receiver that only counts and acknowledges messages. It never decodes them.

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context;
use contract::event::{DEAD_LETTER_TOPIC, ROUTE, SUBSCRIBE_ROUTE};
use e2e::testbed::ports::free_port;
use serde_json::json;
use tokio::sync::watch;

use crate::http::Http;

/// A server with one worker, ended when dropped.
#[derive(Debug)]
pub(crate) struct Receiver {
    port: u16,
    arrived: watch::Receiver<u64>,
    _server: Http,
}

impl Receiver {
    /// Starts a receiver whose sidecar subscribes to these topics.
    pub(crate) fn start(component: &str, topics: &[&str]) -> anyhow::Result<Self> {
        let port = free_port()?;
        // The same answer as that of our subscriber.
        let subscription = |topic: &&str| json!({"pubsubname": component, "topic": topic, "routes": {"default": ROUTE}, "deadLetterTopic": DEAD_LETTER_TOPIC});
        let subscriptions: Vec<_> = topics.iter().map(subscription).collect();
        // Wakes the waiting task by the same means as a replica does.
        let (sender, arrived) = watch::channel(0);
        let server = HttpServer::new(move || {
            let subscriptions = subscriptions.clone();
            let sender = sender.clone();
            let subscribe = move || std::future::ready(HttpResponse::Ok().json(&subscriptions));
            // The body is read, because an unread message does not count as delivered.
            let take = move |_body: web::Bytes| {
                sender.send_modify(|count| *count += 1);
                std::future::ready(HttpResponse::Ok().json(json!({"status": "SUCCESS"})))
            };
            App::new()
                .route(SUBSCRIBE_ROUTE, web::get().to(subscribe))
                .route(ROUTE, web::post().to(take))
        });
        let server = server
            .workers(1)
            .disable_signals()
            .bind(("127.0.0.1", port))
            .context("a receiver")?;
        Ok(Self {
            port,
            arrived,
            _server: Http::run(server.run())?,
        })
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The number of messages so far.
    pub(crate) fn arrived(&self) -> watch::Receiver<u64> {
        self.arrived.clone()
    }
}

/// Waits until each receiver has this number of messages.
pub(crate) async fn until(arrived: &mut [watch::Receiver<u64>], count: u64) -> anyhow::Result<()> {
    for one in arrived {
        one.wait_for(|so_far| *so_far >= count)
            .await
            .context("a receiver is gone")?;
    }
    Ok(())
}
