//! Measure 3: the time of a PUT on MongoDB, compared with the same transaction by the driver alone,
//! and with the bare write of the source document. One write at a time.
//!
//! Events are on without subscribers, as in the default settings. The publisher marks its pending
//! events as published beside the writes, as always; the floor has nothing similar.

use std::time::Instant;

use anyhow::Context;
use e2e::{
    client::Api,
    testbed::{FREE, mongod::Mongod, services::Service},
};

use crate::{
    Bench,
    figures::{Comparison, Durations, Row, Target, Unit},
    floor::driver::{self, Transactions},
    prepare::{create_documents, id},
    values::value,
};

const WRITES: usize = 300;
const WARM_UP: usize = 50;
/// Documents that are written in turn.
const DOCUMENTS: usize = 100;
/// Length of a value, in bytes.
const BYTES: usize = 300;

/// The kinds of a write.
#[derive(Debug, Clone, Copy)]
enum WriteKind {
    Put,
    Transaction,
    Replace,
}

/// The writers, and the number of values so far.
struct Writers {
    publisher: Api,
    transactions: Transactions,
    /// The number of values so far: all differ, because an equal value is no change.
    written: u64,
}

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mongod = Mongod::start().await?;
    let url = mongod.url("confcast");
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_STORE_URL", url.as_str());
    publisher.start().await?;
    let api = publisher.api();
    create_documents(&api, FREE, DOCUMENTS, BYTES).await?;
    // The floor copies the newest change record, which must be that of a PUT.
    api.put(FREE, &id(0), &value(DOCUMENTS as u64, BYTES))
        .await?
        .expect(200)?;
    let transactions = Transactions::beside(&url, "confcast", "floor", FREE).await?;
    let mut writers = Writers {
        publisher: api,
        transactions,
        written: DOCUMENTS as u64,
    };

    let put = "PUT on MongoDB, median";
    let mut same = Comparison::new(3, Unit::Seconds, put, "the driver, same transaction")
        .must(Target::AtMost(1.0));
    let mut bare = Comparison::new(
        3,
        Unit::Seconds,
        put,
        "the driver, replaceOne (majority, journal)",
    );
    let mut kinds = [WriteKind::Transaction, WriteKind::Put, WriteKind::Replace];
    for kind in kinds {
        writers.median(kind, bench.sized(WARM_UP)).await?;
    }
    for round in 1..=bench.rounds {
        bench.say(&format!("measure 3, round {round}"));
        let mut put = 0.0;
        let mut transaction = 0.0;
        let mut replace = 0.0;
        for kind in kinds {
            let figure = match kind {
                WriteKind::Put => &mut put,
                WriteKind::Transaction => &mut transaction,
                WriteKind::Replace => &mut replace,
            };
            *figure = writers.median(kind, bench.sized(WRITES)).await?;
        }
        same.round(put, transaction);
        bare.round(put, replace);
        // Our write is in the middle, next to both floors, and each floor is first in turn.
        kinds.reverse();
    }
    Ok([same.row(), bare.row()].into_iter().flatten().collect())
}

impl Writers {
    /// Seconds from before a write is sent until its answer was read.
    async fn median(&mut self, kind: WriteKind, writes: usize) -> anyhow::Result<f64> {
        let mut durations = Durations::default();
        let bare = self.transactions.bare();
        for _each in 0..writes {
            self.written += 1;
            let id = id(self.written % DOCUMENTS as u64);
            let value = value(self.written, BYTES);
            let sent = Instant::now();
            match kind {
                WriteKind::Put => drop(self.publisher.put(FREE, &id, &value).await?.expect(200)?),
                WriteKind::Transaction => self
                    .transactions
                    .write(&id, &value)
                    .await
                    .context("the transaction")?,
                WriteKind::Replace => driver::replace(&bare, &id, &value)
                    .await
                    .context("replaceOne")?,
            }
            durations.add(sent.elapsed());
        }
        Ok(durations.at(50))
    }
}
