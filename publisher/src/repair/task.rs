//! Runs repairs, one at a time, in a task of their own: a client that goes away does not end a repair
//! between two of its steps. What a repair does is decided by [`repair`](super::repair).

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context;
use contract::{
    CollectionName,
    fleet::RestoreEpochRequest,
    repair::{RepairReport, RepairRequest},
};
use futures_util::FutureExt;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{fleet::Fleet, store::Store};

/// Gives repairs to the task.
#[derive(Debug)]
pub struct Repairs {
    /// Held by the one repair that may run, because each reads the whole store.
    alone: Arc<Mutex<()>>,
    orders: mpsc::Sender<Order>,
}

/// Examines and repairs in the background.
pub struct RepairTask {
    store: Store,
    fleet: Fleet,
    orders: mpsc::Receiver<Order>,
}

#[derive(Debug)]
struct Order {
    request: RepairRequest,
    collections: BTreeSet<CollectionName>,
    report: oneshot::Sender<anyhow::Result<RepairReport>>,
    alone: OwnedMutexGuard<()>,
}

/// A handle, and the task that it gives repairs to.
pub fn repairs(store: Store, fleet: Fleet) -> (Repairs, RepairTask) {
    let (sender, orders) = mpsc::channel(1);
    let handle = Repairs {
        alone: Arc::default(),
        orders: sender,
    };
    let task = RepairTask {
        store,
        fleet,
        orders,
    };
    (handle, task)
}

impl Repairs {
    /// Waits for the report of a repair, which goes on if nobody waits. `None` while another one
    /// runs: nothing was done.
    ///
    /// # Errors
    /// When the store cannot be read or written, or the publisher stops.
    pub async fn run(
        &self,
        request: RepairRequest,
        collections: BTreeSet<CollectionName>,
    ) -> anyhow::Result<Option<RepairReport>> {
        let Ok(alone) = self.alone.clone().try_lock_owned() else {
            return Ok(None);
        };
        let (report, reported) = oneshot::channel();
        let order = Order {
            request,
            collections,
            report,
            alone,
        };
        let stopping = "the publisher stops";
        self.orders.send(order).await.context(stopping)?;
        reported.await.context(stopping)?.map(Some)
    }
}

impl RepairTask {
    /// Runs repairs until `stop` is cancelled. One that runs then ends between two of its writes.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.run_until_cancelled(self.take_orders()).await;
        stop.cancelled().await;
        Ok(())
    }

    async fn take_orders(&mut self) {
        while let Some(order) = self.orders.recv().await {
            let report = self.repair(&order.request, &order.collections).await;
            log_end(&order.collections, &report);
            // Before the answer: the next request may follow it at once.
            drop(order.alone);
            // The client may be gone; what became of its request is in the log.
            order.report.send(report).ok();
        }
    }

    async fn repair(
        &self,
        request: &RepairRequest,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<RepairReport> {
        let mut report = RepairReport {
            applied: request.apply,
            collections: Vec::new(),
            epoch: None,
            epoch_failure: None,
        };
        let mut needs_epoch = false;
        let mut failed = Ok(());
        for collection in collections {
            // Boxed, because the compiler does not prove a future of this depth to be `Send`.
            let repaired = super::repair(&self.store, collection, request).boxed();
            match repaired.await {
                Ok(repaired) => {
                    needs_epoch |= repaired.needs_epoch;
                    report.collections.push(repaired.report);
                }
                // The collections before it may need an epoch all the same.
                Err(error) => {
                    failed = Err(error.context(format!("repairing {collection}")));
                    break;
                }
            }
        }
        if request.apply && needs_epoch {
            match self.fleet.declare(RestoreEpochRequest::default()).await {
                Ok(declared) => report.epoch = Some(declared.epoch),
                Err(error) => report.epoch_failure = Some(error.to_string()),
            }
        }
        failed.map(|()| report)
    }
}

fn log_end(collections: &BTreeSet<CollectionName>, report: &anyhow::Result<RepairReport>) {
    let number = collections.len();
    match report {
        Ok(report) => {
            let states = report.collections.iter();
            let states: Vec<_> = states
                .map(|repaired| format!("{} {:?}", repaired.collection, repaired.state))
                .collect();
            info!(
                applied = report.applied,
                epoch = report.epoch.map(display),
                epoch_failure = report.epoch_failure,
                "a repair of {number} collections has ended: {}",
                states.join(", ")
            );
        }
        Err(error) => error!("a repair of {number} collections has failed: {error:#}"),
    }
}
