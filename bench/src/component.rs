//! Measure 20: the time from before a write is sent until the applications behind two sidecars have its
//! event by `pubsub.confcast`, compared with the same two by `pubsub.redis`. One event at a time.
//!
//! Ours is a publisher with its embedded store, which answers when the write is durable, and a component
//! beside each sidecar. Theirs is a publish to a third sidecar, with nothing stored but in Redis. The
//! applications are the same, and acknowledge at once.

use std::time::{Duration, Instant};

use e2e::testbed::{
    FREE,
    services::Service,
    sidecar::{SUBSCRIBER, Sidecar},
    wait::eventually,
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use crate::{
    Bench,
    carrier::{Carrier, TIMEOUT, on_a_worker},
    figures::{Comparison, Durations, Row, Target, Unit},
    floor::{
        payload::Payload,
        receiver::{Receiver, until},
        sidecars::Sidecars,
    },
    prepare::id,
    values::value,
};

const WRITES: usize = 1_000;
const WARM_UP: usize = 100;
/// Length of a value, in bytes.
const BYTES: usize = 300;

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (_one, mut theirs) = Sidecars::start().await?;
    let mut ours = Ours::start().await?;
    let line = "PUT sent until two applications have the event, pubsub.confcast";
    let peer = "pubsub.redis of daprd, publish until both have it";
    let [mut median, mut tail] = ["median", "p99"].map(|figure| {
        let row = Comparison::new(20, Unit::Seconds, format!("{line}, {figure}"), peer);
        row.must(Target::AtMost(1.0))
    });
    for round in 0..bench.rounds {
        bench.say(&format!("measure 20, round {}", round + 1));
        let (here, there);
        if round % 2 == 0 {
            (theirs, there) = sample(bench, theirs).await?;
            (ours, here) = sample(bench, ours).await?;
        } else {
            (ours, here) = sample(bench, ours).await?;
            (theirs, there) = sample(bench, theirs).await?;
        }
        median.round(here[0], there[0]);
        tail.round(here[1], there[1]);
    }
    Ok([median, tail]
        .into_iter()
        .filter_map(Comparison::row)
        .collect())
}

/// Median and p99 of one round.
async fn sample<C: Carrier>(bench: &Bench, mut carrier: C) -> anyhow::Result<(C, [f64; 2])> {
    let (warm_up, writes) = (bench.sized(WARM_UP), bench.sized(WRITES));
    on_a_worker(async move {
        for _each in 0..warm_up {
            carrier.once().await?;
        }
        let mut durations = Durations::default();
        for _each in 0..writes {
            durations.add(carrier.once().await?);
        }
        Ok((carrier, [durations.at(50), durations.at(99)]))
    })
    .await
}

/// A publisher, and two applications with a component and a sidecar each.
struct Ours {
    arrived: Vec<watch::Receiver<u64>>,
    number: u64,
    // Killed before those that they call.
    _sidecars: Vec<Sidecar>,
    _components: Vec<Service>,
    _receivers: Vec<Receiver>,
    publisher: Service,
}

impl Ours {
    async fn start() -> anyhow::Result<Self> {
        let mut publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
        publisher.start().await?;
        let api = publisher.api();
        api.create(FREE, &json!({"id": id(0)})).await?.expect(201)?;
        let file =
            e2e::testbed::dependencies::repository_root().join("components/confcast/pubsub.yaml");
        let file = std::fs::read_to_string(file)?;
        let name = Payload::new()?.component;
        let mut ours = Self {
            arrived: Vec::new(),
            number: 0,
            _sidecars: Vec::new(),
            _components: Vec::new(),
            _receivers: Vec::new(),
            publisher,
        };
        for replica in ["component-0", "component-1"] {
            let receiver = Receiver::start(&name, &[FREE])?;
            let mut component = Service::component(replica, &[ours.publisher.url()])?;
            component.launch()?;
            eventually("the socket", async || {
                anyhow::ensure!(component.sockets().join("confcast.sock").exists());
                Ok(())
            })
            .await?;
            let sockets = component.sockets();
            let mut sidecar =
                Sidecar::with_sockets(SUBSCRIBER, receiver.port(), replica, &sockets)?;
            sidecar.add_component("pubsub", &file)?;
            sidecar.start().await?;
            component.until_ready().await?;
            // The document of now comes first.
            let mut arrived = [receiver.arrived()];
            timeout(TIMEOUT, until(&mut arrived, 1)).await??;
            ours.arrived.extend(arrived);
            ours._receivers.push(receiver);
            ours._components.push(component);
            ours._sidecars.push(sidecar);
        }
        Ok(ours)
    }
}

impl Carrier for Ours {
    async fn once(&mut self) -> anyhow::Result<Duration> {
        self.number += 1;
        let (api, value) = (self.publisher.api(), value(self.number, BYTES));
        let mut arrived = self.arrived.clone();
        let before: Vec<u64> = arrived.iter().map(|arrived| *arrived.borrow()).collect();
        let began = Instant::now();
        let arrival = async {
            for (one, before) in arrived.iter_mut().zip(before) {
                until(std::slice::from_mut(one), before + 1).await?;
            }
            anyhow::Ok(began.elapsed())
        };
        let written = async {
            api.put(FREE, &id(0), &value).await?.expect(200)?;
            anyhow::Ok(())
        };
        let (took, written) = tokio::join!(arrival, written);
        written?;
        took
    }
}
