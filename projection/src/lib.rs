//! A projection of configuration into another MongoDB database: each collection of a replica is a
//! MongoDB collection of the same name, which any tool can query.
//!
//! A row is `{_id, revision, crc, configData}`. The collection `_projection` has one row for each
//! collection that says which revision the rows are of: `{_id, epoch, revision, count, digest,
//! settledAt, time}`, and `reconciling: true` while they are of none. The rows of change sets, and the
//! positions of their collections, change in one transaction.
//!
//! One replica writes at a time, under a hold that every transaction renews (`hold`); the others
//! stand by. What is written is a function of what the replica holds and of the positions in the
//! database (`plan`): the changes after a position, in order (`replay`), or where the replica does
//! not have them any more, the difference between rows and documents (`reconcile`). So a process may
//! end at any time, and the next one continues from the positions.
//!
//! The replica never waits for the projection, and nothing is ever read back into it. A database is
//! refused that a publisher stores in, that another store was projected into, or whose collections
//! have documents of somebody else.

mod database;
mod error;
mod hold;
mod load;
mod plan;
mod projector;
mod reconcile;
mod replay;
mod rows;
mod state;
mod url;
mod writer;

pub use error::ProjectionError;
pub use projector::{Projection, ProjectionConfig};
pub use url::{ProjectionUrl, ProjectionUrlError};
