//! The process: a subscriber, and the socket of the components.

use std::{future::Future, sync::Arc};

use anyhow::Context;
use subscriber::app::App as Subscriber;

use crate::{
    door::Door, instances::Instances, publisher::Publisher, pubsub::PubSub, settings::Settings,
    socket::Socket, state::StateStore,
};

/// A component that listens and does not answer yet.
pub struct App {
    subscriber: Subscriber,
}

impl App {
    /// Opens the port and the socket.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let instances = Arc::new(Instances::default());
        let mut subscriber = Subscriber::with_readiness(settings.replica, instances.clone())?;
        let replica = subscriber.replica().clone();
        let publisher = Publisher::new(replica.config()).context("cannot create an HTTP client")?;
        let publisher = Arc::new(publisher);
        let stop = subscriber.stop();
        let pubsub = PubSub::new(
            &replica,
            &publisher,
            &instances,
            settings.ack_deadline,
            stop.clone(),
        );
        let state = StateStore::new(&replica, &publisher, &instances);
        let door = Door::new(instances, pubsub, state)?;
        let socket = Socket::open(&settings.folder, &settings.name, settings.mode).await?;
        tracing::info!("the component listens on {}", socket.path().display());
        subscriber.spawn("components", door.serve(socket, stop));
        Ok(Self { subscriber })
    }

    /// See [`Subscriber::drain`].
    pub fn drain(&self) -> service::runtime::drain::Drain {
        self.subscriber.drain()
    }

    /// Answers until `shutdown` resolves.
    ///
    /// # Errors
    /// As [`Subscriber::run`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.subscriber.run(shutdown).await
    }
}
