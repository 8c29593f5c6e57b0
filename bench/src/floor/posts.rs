//! A bare POST to two receivers at once, over connections that stay open.

use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use contract::event::{MEDIA_TYPE, ROUTE};
use futures_util::future::try_join;
use reqwest::{Client, redirect::Policy};
use tokio::sync::watch;

use super::{
    payload::Payload,
    receiver::{Receiver, until},
};
use crate::carrier::Carrier;

/// A client and two receivers.
#[derive(Debug)]
pub(crate) struct Posts {
    client: Client,
    urls: [String; 2],
    body: Bytes,
    arrived: [watch::Receiver<u64>; 2],
    count: u64,
    _receivers: [Receiver; 2],
}

impl Posts {
    /// Starts all. Both receivers listen on return.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let body = Bytes::from(Payload::new()?.delivered);
        let receivers = [Receiver::start("", &[])?, Receiver::start("", &[])?];
        // The client has the options of our publisher's client.
        let client = e2e::http().redirect(Policy::none()).no_proxy().build()?;
        let urls = [&receivers[0], &receivers[1]]
            .map(|receiver| format!("http://127.0.0.1:{}{ROUTE}", receiver.port()));
        let arrived = [receivers[0].arrived(), receivers[1].arrived()];
        Ok(Self {
            client,
            urls,
            body,
            arrived,
            count: 0,
            _receivers: receivers,
        })
    }

    async fn post(&self, url: &str) -> anyhow::Result<()> {
        let post = self
            .client
            .post(url)
            .header("content-type", MEDIA_TYPE)
            .body(self.body.clone());
        post.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }
}

impl Carrier for Posts {
    async fn once(&mut self) -> anyhow::Result<Duration> {
        self.count += 1;
        let mut arrived = self.arrived.clone();
        let began = Instant::now();
        let arrival = async {
            until(&mut arrived, self.count).await?;
            anyhow::Ok(began.elapsed())
        };
        // The answers are read as well, but outside of the measured time.
        let (took, posted) = tokio::join!(
            arrival,
            try_join(self.post(&self.urls[0]), self.post(&self.urls[1]))
        );
        posted?;
        took
    }
}
