//! Which replica writes a projection: the one whose token is in the row of the writer. The others
//! stand by.
//!
//! Every transaction of the writer changes that row, and so does an idle writer every [`BEAT`]. A row
//! that did not change for a while is taken over. Each replica measures that time by its own clock,
//! and a writer that was only slow fails at its next transaction: so there is never more than one.

use std::time::{Duration, Instant};

use mongo_json::server::{DUPLICATE_KEY, code_of};
use mongodb::bson::{Document as Bdoc, doc};

use crate::{
    ProjectionError,
    database::{Database, WRITER, call},
};

/// How often an idle writer renews its hold.
pub(crate) const BEAT: Duration = Duration::from_secs(2);
/// How often a replica that stands by looks.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// A hold that was not renewed for this long is taken over.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for a hold of an earlier process of this replica, which has probably ended.
const OWN_PATIENCE: Duration = Duration::from_secs(4);

/// A claim to write.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Tells this process from every other one.
    pub(crate) token: String,
    /// The name of the replica.
    instance: String,
}

impl Hold {
    /// The claim of a replica with this name.
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            token: uuid::Uuid::new_v4().to_string(),
            instance: instance.to_owned(),
        }
    }

    /// Looks once whether this replica may write. `seen` is the row of the writer at the last look, and
    /// since when it is the same; it begins with `None`. Call it again after [`LOOK`] while the answer
    /// is `false`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn look(
        &self,
        database: &Database,
        seen: &mut Option<(Bdoc, Instant)>,
    ) -> Result<bool, ProjectionError> {
        let writers = database.positions_table();
        let Some(row) = call(writers.find_one(doc! { "_id": WRITER })).await? else {
            return match call(writers.insert_one(self.row())).await {
                Ok(_inserted) => Ok(true),
                // Another replica was first.
                Err(ProjectionError::Database(error)) if code_of(&error) == Some(DUPLICATE_KEY) => {
                    Ok(false)
                }
                Err(error) => Err(error),
            };
        };
        if row.get_str("token").is_ok_and(|token| token == self.token) {
            return Ok(true);
        }
        let is_own = row
            .get_str("instance")
            .is_ok_and(|instance| instance == self.instance);
        let patience = if is_own { OWN_PATIENCE } else { PATIENCE };
        let same_since = seen
            .as_ref()
            .filter(|(before, _since)| *before == row)
            .map(|(_before, since)| *since);
        let Some(since) = same_since else {
            *seen = Some((row, Instant::now()));
            return Ok(false);
        };
        Ok(since.elapsed() >= patience && self.take(database, &row).await?)
    }

    /// The row of the writer while this replica has the hold.
    fn row(&self) -> Bdoc {
        doc! { "_id": WRITER, "token": &self.token, "instance": &self.instance, "beat": 0_i64 }
    }

    /// Takes over the hold of a row that was read. Returns whether it still was that row.
    async fn take(&self, database: &Database, row: &Bdoc) -> Result<bool, ProjectionError> {
        let taken = call(
            database
                .positions_table()
                .replace_one(row.clone(), self.row()),
        )
        .await?;
        let before = row.get_str("instance").unwrap_or("unknown");
        if taken.matched_count == 1 {
            tracing::info!(
                before,
                "this replica writes the projection now, after {before}"
            );
        }
        Ok(taken.matched_count == 1)
    }

    /// Renews an idle hold.
    ///
    /// # Errors
    /// [`ProjectionError::NotHeld`] when another replica has it.
    pub(crate) async fn renew(&self, database: &Database) -> Result<(), ProjectionError> {
        let writers = database.positions_table();
        let (mine, beat) = renewal(&self.token);
        match call(writers.update_one(mine, beat)).await?.matched_count {
            1 => Ok(()),
            _none => Err(ProjectionError::NotHeld),
        }
    }

    /// Gives up the hold, so that another replica need not wait.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn release(&self, database: &Database) -> Result<(), ProjectionError> {
        let mine = doc! { "_id": WRITER, "token": &self.token };
        call(database.positions_table().delete_one(mine))
            .await
            .map(drop)
    }
}

/// Filter and update that renew the hold with a token.
pub(crate) fn renewal(token: &str) -> (Bdoc, Bdoc) {
    (
        doc! { "_id": WRITER, "token": token },
        doc! { "$inc": { "beat": 1_i64 } },
    )
}
