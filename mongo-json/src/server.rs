//! What a store and a projection require of MongoDB: the options of the client, and a server with
//! transactions. Nothing here connects.

use std::{fmt, time::Duration};

use mongodb::{
    bson::Document,
    error::{Error, ErrorKind, WriteFailure},
    options::{
        Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
    },
};

/// Error code: the collection exists.
pub const NAMESPACE_EXISTS: i32 = 48;
/// Error code: a document with this key exists.
pub const DUPLICATE_KEY: i32 = 11_000;

/// The databases of MongoDB itself, where rights and the state of the cluster are. Some of them take documents.
const RESERVED: [&str; 3] = ["admin", "config", "local"];

/// Which database of MongoDB itself a name is, if it is one.
pub fn reserved(database: &str) -> Option<&'static str> {
    let mut reserved = RESERVED.into_iter();
    reserved.find(|reserved| reserved.eq_ignore_ascii_case(database))
}

/// Sets the options that promises depend on, so they are not configurable: primary, majority,
/// [`durable`], short waits. `name` is that of the program, unless the URL has one.
pub fn require(options: &mut ClientOptions, name: &str) {
    options.app_name.get_or_insert_with(|| name.to_owned());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.read_concern = Some(ReadConcern::majority());
    options.write_concern = Some(durable());
    options.server_selection_timeout = Some(Duration::from_secs(3));
    options.connect_timeout = Some(Duration::from_secs(2));
}

/// A write that no failover and no crash can lose.
pub fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

/// Why a server cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfitServer {
    /// It waits for an operator, and can be used after that.
    NotInitiated,
    /// It has no transactions.
    Standalone,
}

impl fmt::Display for UnfitServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInitiated => {
                "the replica set of this MongoDB is not initiated: run `mongosh --eval 'rs.initiate()'`, \
                 or send it the command `replSetInitiate` with another client"
            }
            Self::Standalone => {
                "this MongoDB is a standalone server, which has no transactions. A replica set of one \
                 node is enough: start it with `mongod --replSet rs0` and run `mongosh --eval \
                 'rs.initiate()'` once"
            }
        })
    }
}

impl std::error::Error for UnfitServer {}

/// Checks the answer of a server to `hello`.
///
/// # Errors
/// [`UnfitServer`]
pub fn check(hello: &Document) -> Result<(), UnfitServer> {
    if hello.get_bool("isreplicaset").unwrap_or(false) {
        return Err(UnfitServer::NotInitiated);
    }
    // A node of a replica set has a setName. A mongos has none, but is recognised by `msg`. A
    // standalone server has neither.
    let is_router = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if hello.contains_key("setName") || is_router {
        Ok(())
    } else {
        Err(UnfitServer::Standalone)
    }
}

/// Whether a call failed because the replica set is not initiated: the driver then selects no server,
/// and only its text names the type of the one that it found.
pub fn is_not_initiated(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::ServerSelection { message, .. }
        if message.to_ascii_lowercase().contains("rsghost"))
}

/// The code of an error of the server, if it has one.
pub fn code_of(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(failed) => Some(failed.code),
        ErrorKind::Write(WriteFailure::WriteError(failed)) => Some(failed.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn a_server_without_transactions_is_told_from_one_that_waits_for_its_operator() {
        assert_eq!(check(&doc! { "setName": "rs0" }), Ok(()));
        assert_eq!(check(&doc! { "msg": "isdbgrid" }), Ok(()));
        assert_eq!(check(&doc! { "ok": 1.0 }), Err(UnfitServer::Standalone));
        assert_eq!(
            check(&doc! { "isreplicaset": true }),
            Err(UnfitServer::NotInitiated)
        );
    }
}
