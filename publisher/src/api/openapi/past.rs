//! Operations on the past: history, documents as they were, rollbacks and named snapshots.

use contract::{
    DocumentId, ProblemKind,
    context::MAX_LEN,
    history::{
        COUNT_HEADER, DEFAULT_PAGE, DIGEST_HEADER, HistoryPage, MAX_PAGE, MAX_TEXT,
        REVISION_HEADER, SnapshotName,
    },
    named_snapshot::{MAX_SNAPSHOTS, NamedSnapshot, NamedSnapshots},
    rollback::{Rollback, RollbackRequest, SetRollbackRequest},
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{
        ApiAnswer, ApiHeader, ApiOperation, ApiSchema,
        operations::{of_collection, of_document},
    },
};

use crate::api::openapi::{reading, writes};

/// Headers of an answer that shows a past state.
pub(super) const STATE: &[ApiHeader] = &[
    ApiHeader {
        name: REVISION_HEADER,
        description: "Epoch and revision of the collection that the answer shows; only of the past",
        pattern: "^[0-9a-f]{8}-[0-9]+-[0-9]+$",
    },
    ApiHeader {
        name: DIGEST_HEADER,
        description: "Digest of the collection at that revision; only of the past, for a caller that may read all of it",
        pattern: "^[0-9a-f]{16}$",
    },
    ApiHeader {
        name: COUNT_HEADER,
        description: "Number of documents of the collection at that revision; only of the past, for a caller that may read all of it",
        pattern: "^[0-9]+$",
    },
];

/// Form of a position in a history: `A.12,B.7`.
const CURSOR: &str =
    "^[A-Za-z][A-Za-z0-9_]{0,63}\\.[0-9]{1,19}(,[A-Za-z][A-Za-z0-9_]{0,63}\\.[0-9]{1,19})*$";

/// Why a past state may not be answered.
const NOT_THERE: &[ProblemKind] = &[
    ProblemKind::BadRequest,
    ProblemKind::NotKept,
    ProblemKind::NoRevision,
    ProblemKind::NoSnapshot,
];

/// The same operation, which can also answer from the past.
pub(super) fn also_past(operation: ApiOperation) -> ApiOperation {
    let revision = json!({"type": "string", "pattern": "^[0-9]{1,19}$"});
    operation
        .query(
            "revision",
            "As it was after this revision of the collection",
            revision.into(),
        )
        .query("at", "As it was at this time", time())
        .query(
            "snapshot",
            "As it was when this named snapshot was made",
            ApiSchema::of::<SnapshotName>(),
        )
        .problems(NOT_THERE)
}

fn time() -> ApiSchema {
    json!({"type": "string", "format": "date-time"}).into()
}

pub(crate) fn history() -> ApiOperation {
    let operation = ApiOperation::new("getHistory", "Changes of all collections");
    with_id(pages(operation))
}

pub(crate) fn history_of_collection() -> ApiOperation {
    let operation = ApiOperation::new("getHistoryOfCollection", "Changes of a collection");
    with_id(pages(of_collection(operation)))
}

pub(crate) fn history_of_document() -> ApiOperation {
    let operation = ApiOperation::new("getHistoryOfDocument", "Changes of a document");
    let operation = of_collection(operation).path(
        "id",
        "Id of the document, which need not exist now",
        ApiSchema::of::<DocumentId>(),
    );
    pages(operation)
}

fn with_id(operation: ApiOperation) -> ApiOperation {
    let description = "Changes of the documents with this id";
    operation.query("id", description, ApiSchema::of::<DocumentId>())
}

/// The same operation, which answers a page of history.
fn pages(operation: ApiOperation) -> ApiOperation {
    let text =
        |max: usize| ApiSchema::from(json!({"type": "string", "minLength": 1, "maxLength": max}));
    let limit = json!({"type": "integer", "minimum": 0, "default": DEFAULT_PAGE});
    let op = json!({"type": "string", "enum": ["Create", "Update", "Delete"]});
    reading(operation)
        .describe(
            "The newest change first. The work for a page is bounded: a page may be empty and have `next`.",
        )
        .query("user", "Changes that this user made", text(MAX_LEN))
        .query("op", "Changes with this effect", op.into())
        .query("from", "Changes of this time and later", time())
        .query("to", "Changes before this time", time())
        .query(
            "text",
            "Changes whose new value has this text in its canonical JSON",
            text(MAX_TEXT),
        )
        .query("set", "Changes of this change set", text(MAX_LEN))
        .query(
            "limit",
            &format!("Most changes of a page; 0 counts as 1, more than {MAX_PAGE} as {MAX_PAGE}"),
            limit.into(),
        )
        .query(
            "before",
            "Where the page begins: `next` of the page before",
            json!({"type": "string", "pattern": CURSOR}).into(),
        )
        .problems(&[
            ProblemKind::BadRequest,
            ProblemKind::LoadsUnderWay,
            ProblemKind::Busy,
            ProblemKind::Unreadable,
        ])
        .answer(ApiAnswer::json::<HistoryPage>(200, "A page"))
}

pub(crate) fn rollback_of_document() -> ApiOperation {
    let summary = "Give a document the value back that it had";
    let operation = of_document(ApiOperation::new("rollBackDocument", summary));
    rolling_back(operation).body(JSON, true, ApiSchema::received::<RollbackRequest>())
}

pub(crate) fn rollback_of_collection() -> ApiOperation {
    let summary = "Give the documents of a collection the values back that they had";
    let operation = of_collection(ApiOperation::new("rollBackCollection", summary));
    rolling_back(operation).body(JSON, true, ApiSchema::received::<RollbackRequest>())
}

pub(crate) fn rollback_of_set() -> ApiOperation {
    let summary = "Undo a change set: each of its documents as it was before";
    let set = json!({"type": "string", "minLength": 1, "maxLength": MAX_LEN});
    let operation = ApiOperation::new("rollBackSet", summary)
        .path("setId", "Id of the change set", set.into())
        .problems(&[
            ProblemKind::NoSet,
            ProblemKind::ChangedSince,
            ProblemKind::UnknownCollection,
        ]);
    rolling_back(operation).body(JSON, true, ApiSchema::received::<SetRollbackRequest>())
}

/// The same operation, which answers with what it rolled back.
fn rolling_back(operation: ApiOperation) -> ApiOperation {
    reading(writes::writing(operation))
        .describe(
            "A normal change set, on the condition that nothing changed since it was planned. With \
             `dryRun` the answer shows what it would do.",
        )
        .problems(NOT_THERE)
        .problems(&[
            ProblemKind::BadBody,
            ProblemKind::MediaType,
            ProblemKind::ConditionFailed,
            ProblemKind::SetTooLarge,
            ProblemKind::TooLarge,
            ProblemKind::Schema,
            ProblemKind::LoadsUnderWay,
        ])
        .answer(ApiAnswer::json::<Rollback>(
            200,
            "The documents that it changed, or would change",
        ))
        .answer(ApiAnswer::json::<Rollback>(202, writes::IN_VAIN))
}

pub(crate) fn snapshots() -> ApiOperation {
    let operation = ApiOperation::new("listSnapshots", "The named snapshots");
    let description = format!("By name, at most {MAX_SNAPSHOTS}");
    reading(operation).answer(ApiAnswer::json::<NamedSnapshots>(200, description))
}

pub(crate) fn named_snapshot() -> ApiOperation {
    let operation = of_snapshot(ApiOperation::new("getNamedSnapshot", "A named snapshot"));
    operation
        .problems(&[ProblemKind::NoSnapshot])
        .answer(ApiAnswer::json::<NamedSnapshot>(200, "It is there"))
}

pub(crate) fn create_snapshot() -> ApiOperation {
    let summary = "Keep the state of all collections of this moment under a name";
    let operation = of_snapshot(ApiOperation::new("createSnapshot", summary));
    writes::authored(operation)
        .problems(&[
            ProblemKind::SnapshotExists,
            ProblemKind::SnapshotsFull,
            ProblemKind::NotKept,
        ])
        .answer(ApiAnswer::json::<NamedSnapshot>(
            200,
            "A request with the same correlation id made it",
        ))
        .answer(ApiAnswer::json::<NamedSnapshot>(201, "It was made"))
}

pub(crate) fn delete_snapshot() -> ApiOperation {
    let summary = "Delete a named snapshot: its state is kept as long as any other";
    let operation = of_snapshot(ApiOperation::new("deleteSnapshot", summary));
    operation
        .problems(&[ProblemKind::NoSnapshot])
        .answer(ApiAnswer::empty(204, "It is gone"))
}

/// The same operation, for one named snapshot.
fn of_snapshot(operation: ApiOperation) -> ApiOperation {
    let name = ApiSchema::of::<SnapshotName>();
    reading(operation)
        .path("name", "Name of the snapshot", name)
        .problems(&[ProblemKind::BadRequest])
}
