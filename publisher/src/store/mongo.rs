//! The MongoDB store. Nothing outside this module speaks to MongoDB.
//!
//! Documents are native BSON `{_id, revision, crc, rowCrc, configData}` in collections named like the
//! configuration collections. Beside them are `_heads`, `_changes`, `_bases`, `_coverage`,
//! `_snapshots`, `_replicas`, `_dead_letters`, `_tokens`, `_audit` and `_meta`. A group is one transaction. The head documents serialise writers, whichever publisher they belong
//! to. Transactions need a replica set; one node is enough.
//!
//! `opening` waits for a server and `prepare` initialises a database, `commit` writes groups, `snapshot`, `documents`, `log`
//! and `past` read, `verify` says what is true of a damaged row, `repair` makes it so, `trim`, `bases`, `snapshots`, `replicas`, `dead_letters`, `tokens`, `audit` and `epoch` write the rest;
//! `rows` and the crate `mongo-json` say how it is stored.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use contract::SecretUrl;
use mongo_json::server;
use mongodb::{
    Client, ClientSession, Database,
    bson::{Document as Bdoc, RawDocumentBuf},
    options::{
        Acknowledgment, ClientOptions, CollectionOptions, ConnectionString, ReadConcern,
        WriteConcern,
    },
};
use service::http::histograms::CallTimes;
use tokio::{
    runtime::Handle,
    sync::RwLock,
    time::{Instant, timeout_at},
};
use tracing::warn;

use mongo_json as json;

use crate::store::{
    PublisherPolicy, StoreIdentity, committed_heads::CommittedHeads, damage::DamageRegister,
    mongo::opening::Opening,
};

mod audit;
mod bases;
mod commit;
mod dead_letters;
mod documents;
mod epoch;
mod log;
mod opening;
mod past;
mod prepare;
mod references;
mod repair;
mod replicas;
mod rows;
mod secret_keys;
mod sets;
mod snapshot;
mod snapshots;
#[cfg(test)]
mod tests;
mod tokens;
mod transaction;
mod trim;
mod verify;

pub(super) use documents::DocumentRows;
pub(super) use opening::NotOpenError;

/// One head per collection. `_id` is the name of the collection.
const HEADS: &str = "_heads";
/// The change log of all collections.
const CHANGES: &str = "_changes";
/// Base records: what past states need of records that were removed.
const BASES: &str = "_bases";
/// What the base records of each collection cover. `_id` is the name of the collection.
const COVERAGE: &str = "_coverage";
/// The named snapshots. `_id` is the name.
const SNAPSHOTS: &str = "_snapshots";
/// The records of bearer tokens. `_id` is the id of the token.
const TOKENS: &str = "_tokens";
/// One document with the epoch and the format of the store.
const META: &str = "_meta";
/// `_id` of the document in [`META`].
const STORE: &str = "store";

/// Time limit of one call to the database.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a group waits for a declaration of this publisher, and a declaration for its groups. After
/// that both go on: the transactions decide.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);

const TIMED_OUT: &str = "MongoDB did not answer in time";

/// The open database. Cloning shares the connections.
#[derive(Debug, Clone)]
pub struct Mongo {
    database: Database,
    client: Client,
    policy: Arc<PublisherPolicy>,
    committed_heads: Arc<CommittedHeads>,
    /// The identity that was read last, and when. Another publisher may have declared an epoch since.
    known_identity: Arc<ArcSwapOption<(std::time::Instant, StoreIdentity)>>,
    damage: Arc<DamageRegister>,
    times: CallTimes,
    opening: Arc<Opening>,
    audit: Arc<audit::AuditState>,
    /// Held shared by each attempt of a group, and alone by a declaration of an epoch: the groups of
    /// this publisher make room for it, as it writes every head. Of other publishers it says nothing,
    /// so nobody waits for it longer than [`ROOM_TIMEOUT`].
    declaring: Arc<RwLock<()>>,
    /// The runtime of the task that reads rows ahead. A request runs on a runtime of one thread,
    /// where reading ahead would compete with it.
    runtime: Handle,
}

impl Mongo {
    pub(super) async fn open(
        url: &str,
        database: &str,
        policy: Arc<PublisherPolicy>,
    ) -> anyhow::Result<Self> {
        let client = Client::with_options(options(url).await?).context("the MongoDB settings")?;
        let database = client.database(database);
        let store = Self {
            database,
            client,
            policy,
            committed_heads: Arc::default(),
            known_identity: Arc::default(),
            damage: Arc::default(),
            times: CallTimes::default(),
            opening: Arc::default(),
            audit: Arc::default(),
            declaring: Arc::default(),
            runtime: Handle::current(),
        };
        store.try_to_open().await?;
        Ok(store)
    }

    pub(super) fn policy(&self) -> &PublisherPolicy {
        &self.policy
    }

    pub(super) fn committed_heads(&self) -> &CommittedHeads {
        &self.committed_heads
    }

    pub(super) fn damage(&self) -> &DamageRegister {
        &self.damage
    }

    pub(super) fn times(&self) -> &CallTimes {
        &self.times
    }

    /// A collection of the database, read at majority and written durably ([`server::durable`]).
    fn table(&self, name: &str) -> mongodb::Collection<Bdoc> {
        self.database.collection(name)
    }

    /// A collection for reads inside a snapshot session or a transaction.
    ///
    /// The read concern has to be set at each handle: a handle inherits `majority` from the client,
    /// and the driver sends that instead of the level of the session. Each read would then see
    /// what is newest at that time, and not the snapshot.
    fn table_at_snapshot(&self, name: &str) -> mongodb::Collection<Bdoc> {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .build();
        self.database.collection_with_options(name, options)
    }

    /// A collection for writes that may be lost in a failover: one node acknowledges them. A read sees
    /// them at once; at majority it would not, and a row that was just written would be missing.
    fn table_not_durable(&self, name: &str) -> mongodb::Collection<Bdoc> {
        let one_node = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::local())
            .write_concern(one_node)
            .build();
        self.database.collection_with_options(name, options)
    }

    /// The same collection, with rows that are not deserialised.
    fn raw(table: mongodb::Collection<Bdoc>) -> mongodb::Collection<RawDocumentBuf> {
        table.clone_with_type()
    }

    /// A session whose reads all see one majority-committed snapshot, taken by its first read.
    async fn snapshot_session(&self) -> anyhow::Result<ClientSession> {
        call(self.client.start_session().snapshot(true)).await
    }
}

/// Has the driver check the form of a URL; nothing is resolved or connected. The reason has no part of
/// the URL beyond the names of its parameters.
pub(super) fn check_url(url: &SecretUrl<String>) -> Result<(), String> {
    let Err(error) = ConnectionString::parse(url.expose()) else {
        return Ok(());
    };
    // The driver repeats some parts of a URL, and a password may be in any of them.
    let reason = error.to_string();
    let parts = url
        .expose()
        .split(['/', ':', '@', '?', '&', '=', '#', ','])
        .skip(2);
    let is_shown = |part: &str| !part.is_empty() && reason.contains(part);
    Err(if parts.clone().any(is_shown) {
        "the MongoDB driver cannot read it: check hosts, ports, %-encoding and parameters"
            .to_owned()
    } else {
        reason
    })
}

/// The options of the client. What the guarantees of the store depend on is not configurable.
async fn options(url: &str) -> anyhow::Result<ClientOptions> {
    let mut options = ClientOptions::parse(url).await.context("the MongoDB URL")?;
    if options.read_concern.is_some()
        || options.write_concern.is_some()
        || options.selection_criteria.is_some()
    {
        warn!(
            "the store URL sets a read concern, write concern or read preference; the publisher \
             ignores it and uses majority, majority with journal, and primary"
        );
    }
    server::require(&mut options, "confcast-publisher");
    Ok(options)
}

/// One call with the usual time limit. A write that timed out may still have happened.
async fn call<T>(action: impl IntoFuture<Output = mongodb::error::Result<T>>) -> anyhow::Result<T> {
    call_until(Instant::now() + CALL_TIMEOUT, action).await
}

/// One call that is given up at a deadline. A write that timed out may still have happened.
async fn call_until<T>(
    deadline: Instant,
    action: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> anyhow::Result<T> {
    let answer = timeout_at(deadline, action.into_future()).await;
    Ok(answer.context(TIMED_OUT)??)
}

fn has_label(error: &anyhow::Error, label: &str) -> bool {
    error
        .downcast_ref::<mongodb::error::Error>()
        .is_some_and(|error| error.contains_label(label))
}

fn is_code(error: &anyhow::Error, code: i32) -> bool {
    error
        .downcast_ref()
        .is_some_and(|error| server::code_of(error) == Some(code))
}
