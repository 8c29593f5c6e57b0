//! The database of a projection: what is checked before anything is written, positions, and
//! transactions. What they write is decided elsewhere.

use std::{collections::BTreeMap, time::Duration};

use contract::{CollectionName, Crc, DocumentId, Revision};
use mongo_json::server;
use mongodb::{
    Client, ClientSession, Collection,
    bson::{Bson, Document as Bdoc, doc},
    error::UNKNOWN_TRANSACTION_COMMIT_RESULT,
    options::{ClientOptions, ReadConcern},
};
use tokio::time::timeout;

use crate::{
    ProjectionError, ProjectionUrl,
    hold::renewal,
    rows::{Position, number, row_of},
};

/// Positions of collections, and the row of the writer.
const POSITIONS: &str = "_projection";
/// `_id` of the row of the writer; no collection has such a name.
pub(crate) const WRITER: &str = "_writer";
/// Collections that only the database of a publisher has.
const OF_PUBLISHERS: [&str; 3] = ["_meta", "_heads", "_changes"];
/// Time limit of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of a transaction, from its first call to its end.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts at a commit whose outcome is not known.
const COMMITS: usize = 3;

/// The open database.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    client: Client,
    database: mongodb::Database,
}

impl Database {
    /// A client of the database. Nothing is connected yet.
    ///
    /// # Errors
    /// When the URL cannot be resolved, or its options contradict each other.
    pub(crate) async fn new(url: &ProjectionUrl) -> Result<Self, ProjectionError> {
        let mut options = call(ClientOptions::parse(url.url.expose())).await?;
        server::require(&mut options, "confcast-projection");
        let client = Client::with_options(options)?;
        let database = client.database(&url.database);
        Ok(Self { client, database })
    }

    /// Refuses a server without transactions, and the database of a publisher.
    ///
    /// # Errors
    /// [`ProjectionError::Refused`] in words, or when the database does not answer.
    pub(crate) async fn check(&self) -> Result<(), ProjectionError> {
        let hello = call(self.database.run_command(doc! { "hello": 1 })).await?;
        let checked = server::check(&hello);
        checked.map_err(|unfit| ProjectionError::Refused(unfit.to_string()))?;
        let names = call(self.database.list_collection_names()).await?;
        if let Some(name) = names
            .iter()
            .find(|name| OF_PUBLISHERS.contains(&name.as_str()))
        {
            let database = self.database.name();
            return Err(ProjectionError::Refused(format!(
                "the database {database} has a collection {name}: it is the store of a publisher. \
                 Name a database of its own in AURA_CONFIGURATION_PROJECTION_URL"
            )));
        }
        Ok(())
    }

    /// Refuses a collection that has no position and has documents that are no rows of a projection:
    /// they are of somebody else. Rows whose position was removed are compared.
    ///
    /// # Errors
    /// As [`Database::check`].
    pub(crate) async fn check_blank(&self, name: &CollectionName) -> Result<(), ProjectionError> {
        let not = |member: &str, kind: &str| doc! { member: { "$not": { "$type": kind } } };
        let foreign = doc! { "$or": [
            not("_id", "string"),
            not("revision", "long"),
            { "crc": { "$not": { "$regex": "^[0-9a-f]{8}$" } } },
            not("configData", "object"),
        ] };
        if call(self.table(name.as_str()).find_one(foreign))
            .await?
            .is_none()
        {
            return Ok(());
        }
        let database = self.database.name();
        Err(ProjectionError::Refused(format!(
            "the collection {name} of the database {database} has documents and no position in \
             {POSITIONS}: they are not of a projection. Drop the collection, or name another database"
        )))
    }

    /// Creates what a first transaction needs: older servers cannot create a collection in one.
    ///
    /// # Errors
    /// When the database does not answer or forbids it.
    pub(crate) async fn create(&self, name: &str) -> Result<(), ProjectionError> {
        match call(self.database.create_collection(name)).await {
            Err(ProjectionError::Database(error))
                if server::code_of(&error) == Some(server::NAMESPACE_EXISTS) =>
            {
                Ok(())
            }
            created => created,
        }
    }

    /// Creates the collection of the positions.
    ///
    /// # Errors
    /// As [`Database::create`].
    pub(crate) async fn create_positions(&self) -> Result<(), ProjectionError> {
        self.create(POSITIONS).await
    }

    /// All positions; `None` for a row that cannot be read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn positions(
        &self,
    ) -> Result<BTreeMap<CollectionName, Option<Position>>, ProjectionError> {
        let read = async {
            let mut found = self.positions_table().find(doc! {}).await?;
            let mut positions = BTreeMap::new();
            while found.advance().await? {
                let row = found.deserialize_current()?;
                // The row of the writer has no name of a collection.
                if let Some(name) = row.get_str("_id").ok().and_then(|id| id.parse().ok()) {
                    positions.insert(name, Position::of_row(&row));
                }
            }
            Ok(positions)
        };
        call(read).await
    }

    /// A collection, read at majority and written durably.
    pub(crate) fn table(&self, name: &str) -> Collection<Bdoc> {
        self.database.collection(name)
    }

    /// The positions, and the row of the writer.
    pub(crate) fn positions_table(&self) -> Collection<Bdoc> {
        self.table(POSITIONS)
    }

    /// Begins a transaction by renewing the hold with this token. It is aborted when the session is
    /// dropped before [`Database::commit`].
    ///
    /// # Errors
    /// [`ProjectionError::NotHeld`] when another replica has taken the hold; else as the driver.
    pub(crate) async fn begin(&self, token: &str) -> Result<ClientSession, ProjectionError> {
        let mut session = self.client.start_session().await?;
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(server::durable())
            .await?;
        let (mine, beat) = renewal(token);
        let held = self
            .positions_table()
            .update_one(mine, beat)
            .session(&mut session)
            .await?;
        if held.matched_count != 1 {
            return Err(ProjectionError::NotHeld);
        }
        Ok(session)
    }

    /// Commits a transaction.
    ///
    /// # Errors
    /// As the driver. A commit whose outcome is not known is an error: the positions tell.
    pub(crate) async fn commit(&self, mut session: ClientSession) -> Result<(), ProjectionError> {
        let mut attempt = 1;
        while let Err(error) = session.commit_transaction().await {
            if attempt == COMMITS || !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return Err(error.into());
            }
            attempt += 1;
        }
        Ok(())
    }

    /// Writes a position. `from` is the revision that it must have; `None` = whatever there is.
    ///
    /// # Errors
    /// [`ProjectionError::NotHeld`] when it is another one.
    pub(crate) async fn write_position(
        &self,
        session: &mut ClientSession,
        name: &CollectionName,
        from: Option<&Position>,
        to: &Position,
    ) -> Result<(), ProjectionError> {
        let mut filter = doc! { "_id": name.as_str() };
        if let Some(from) = from {
            filter.insert("epoch", from.epoch.to_string());
            filter.insert("revision", number(from.revision)?);
        }
        let mut update = doc! { "$set": to.members()?, "$currentDate": { "time": true } };
        if !to.reconciling {
            update.insert("$unset", doc! { "reconciling": "" });
        }
        let written = self
            .positions_table()
            .update_one(filter, update)
            .upsert(from.is_none())
            .session(session)
            .await?;
        if written.matched_count == 0 && written.upserted_id.is_none() {
            return Err(ProjectionError::NotHeld);
        }
        Ok(())
    }

    /// Whether the row of a collection says this position.
    ///
    /// # Errors
    /// As the driver.
    pub(crate) async fn has_position(
        &self,
        session: &mut ClientSession,
        name: &CollectionName,
        position: &Position,
    ) -> Result<bool, ProjectionError> {
        let found = self
            .positions_table()
            .find_one(doc! { "_id": name.as_str() })
            .session(session)
            .await?;
        Ok(found.as_ref().and_then(Position::of_row) == Some(*position))
    }

    /// Runs the commands of [`Writes`].
    ///
    /// # Errors
    /// When one is refused, in whole or in part.
    pub(crate) async fn write(
        &self,
        session: &mut ClientSession,
        writes: Writes,
    ) -> Result<(), ProjectionError> {
        let collection = writes.collection.clone();
        let refusal = |errors: &Bson| format!("{collection}: {}", words_of(errors));
        for command in writes.commands() {
            let answer = self
                .database
                .run_command(command)
                .session(&mut *session)
                .await?;
            // A generic command that failed in part is not an error for the driver.
            if let Some(errors) = answer.get("writeErrors") {
                return Err(ProjectionError::RowRefused(refusal(errors)));
            }
        }
        Ok(())
    }
}

/// Bytes of the rows in one command: it must stay below the 16 MiB of a BSON document.
const COMMAND_BYTES: usize = 8 << 20;

/// The writes of one transaction in one collection.
#[derive(Debug)]
pub(crate) struct Writes {
    collection: String,
    full: Vec<Bdoc>,
    updates: Vec<Bdoc>,
    bytes: usize,
    deletes: Vec<Bdoc>,
    /// Rows that are written or removed.
    pub(crate) rows: u64,
    /// Bytes of all rows that are written.
    pub(crate) total_bytes: usize,
}

impl Writes {
    pub(crate) fn of(collection: &CollectionName) -> Self {
        Self {
            collection: collection.as_str().to_owned(),
            full: Vec::new(),
            updates: Vec::new(),
            bytes: 0,
            deletes: Vec::new(),
            rows: 0,
            total_bytes: 0,
        }
    }

    /// Writes a row in the place of the one with its id, if there is one.
    fn put(&mut self, id: &str, row: Bdoc) -> Result<(), ProjectionError> {
        let bytes = row.to_vec()?.len();
        self.rows += 1;
        self.bytes += bytes;
        self.total_bytes += bytes;
        if self.bytes > COMMAND_BYTES && !self.updates.is_empty() {
            self.flush();
        }
        self.updates
            .push(doc! { "q": { "_id": id }, "u": row, "upsert": true });
        Ok(())
    }

    /// Writes the row of a document in the place of the one with its id.
    ///
    /// # Errors
    /// [`ProjectionError::Row`] with its name, when it has no form in BSON.
    pub(crate) fn put_document(
        &mut self,
        id: &DocumentId,
        revision: Revision,
        crc: Crc,
        config: &[u8],
    ) -> Result<(), ProjectionError> {
        let written = row_of(id, revision, crc, config).and_then(|row| self.put(id.as_str(), row));
        let collection = &self.collection;
        written.map_err(|error| ProjectionError::Row(format!("{collection}/{id}: {error}")))
    }

    /// Removes every row whose id is no text: no document has such an id.
    pub(crate) fn remove_foreign(&mut self, found: u64) {
        self.rows += found;
        let foreign = doc! { "_id": { "$not": { "$type": "string" } } };
        self.deletes.push(doc! { "q": foreign, "limit": 0 });
    }

    /// Removes the row with an id, if there is one.
    pub(crate) fn remove(&mut self, id: &str) {
        self.rows += 1;
        self.deletes.push(doc! { "q": { "_id": id }, "limit": 1 });
    }

    fn flush(&mut self) {
        let updates = std::mem::take(&mut self.updates);
        self.full
            .push(doc! { "update": &self.collection, "updates": updates });
        self.bytes = 0;
    }

    fn commands(mut self) -> Vec<Bdoc> {
        if !self.updates.is_empty() {
            self.flush();
        }
        if !self.deletes.is_empty() {
            self.full
                .push(doc! { "delete": &self.collection, "deletes": self.deletes });
        }
        self.full
    }
}

/// Code and text of the first of some write errors, without what they repeat of a value.
fn words_of(errors: &Bson) -> String {
    let first = errors.as_array().and_then(|errors| errors.first());
    let first = first.and_then(Bson::as_document);
    let text = first.and_then(|error| error.get_str("errmsg").ok());
    let code = first.and_then(|error| error.get_i32("code").ok());
    format!(
        "{} (code {})",
        text.unwrap_or("a write error"),
        code.unwrap_or(0)
    )
}

/// A whole transaction within its time limit.
///
/// # Errors
/// Its own, and [`ProjectionError::TimedOut`].
pub(crate) async fn in_time<T>(
    transaction: impl Future<Output = Result<T, ProjectionError>>,
) -> Result<T, ProjectionError> {
    // Boxed, because the futures of the driver are large, and nested deep.
    timeout(TRANSACTION_TIMEOUT, Box::pin(transaction))
        .await
        .unwrap_or(Err(ProjectionError::TimedOut(TRANSACTION_TIMEOUT)))
}

/// One call with the usual time limit. A write that timed out may still have happened.
///
/// # Errors
/// As the driver, and [`ProjectionError::TimedOut`].
pub(crate) async fn call<T>(
    action: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T, ProjectionError> {
    let answer = timeout(CALL_TIMEOUT, Box::pin(action.into_future())).await;
    Ok(answer.map_err(|_elapsed| ProjectionError::TimedOut(CALL_TIMEOUT))??)
}
