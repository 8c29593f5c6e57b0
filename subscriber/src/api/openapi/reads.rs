//! Operations that read collections, documents, snapshots and the feed.

use contract::{EventData, ProblemKind};
use service::http::openapi::{
    ApiHeader, ApiOperation, ETAG, VARY,
    operations::{self, cached, from_revision_on, of_collection, of_document, of_selection},
};

use super::{READ_HEADERS, operation};

/// Whether a snapshot is of one moment.
const SETTLED: ApiHeader = ApiHeader {
    name: "Confcast-Settled",
    description: "`false` while changes beyond a gap are in it: no replica may load it then",
    pattern: "^(true|false)$",
};

pub(crate) fn heads() -> ApiOperation {
    of_selection(operation("getHeads", "Where the collections stand"))
        .answer(operations::heads().with(&READ_HEADERS))
}

pub(crate) fn head() -> ApiOperation {
    let operation = of_collection(operation("getHead", "Where a collection stands"))
        .problems(&[ProblemKind::Unversioned]);
    cached(
        from_revision_on(operation),
        &[&[ETAG][..], &READ_HEADERS].concat(),
    )
    .answer(operations::head().with(&[ETAG]).with(&READ_HEADERS))
}

pub(crate) fn documents() -> ApiOperation {
    let operation = operation("listDocuments", "All documents of a collection")
        .problems(&[ProblemKind::LoadsUnderWay]);
    cached(
        from_revision_on(of_collection(operation)),
        &[&[ETAG, VARY][..], &READ_HEADERS].concat(),
    )
    .answer(operations::documents().with(&READ_HEADERS))
}

pub(crate) fn document() -> ApiOperation {
    let operation =
        of_document(operation("getDocument", "A document")).problems(&[ProblemKind::BadRequest]);
    cached(
        from_revision_on(operation),
        &[&[ETAG][..], &READ_HEADERS].concat(),
    )
    .answer(operations::document().with(&READ_HEADERS))
}

pub(crate) fn snapshot() -> ApiOperation {
    of_selection(operation(
        "getSnapshot",
        "All documents of some collections at one moment",
    ))
    .describe(operations::SNAPSHOT)
    .problems(&[
        ProblemKind::BadRequest,
        ProblemKind::Unversioned,
        ProblemKind::LoadsUnderWay,
    ])
    .answer(operations::snapshot().with(&[SETTLED]).with(&READ_HEADERS))
}

pub(crate) fn feed() -> ApiOperation {
    let operation = operation("getChanges", "Changes of several collections");
    versioned(operations::feed::<EventData>(operation, &READ_HEADERS))
}

pub(crate) fn feed_of_collection() -> ApiOperation {
    let operation = operation("getChangesOfCollection", "Changes of a collection");
    versioned(operations::feed_of_collection::<EventData>(
        operation,
        &READ_HEADERS,
    ))
}

fn versioned(operation: ApiOperation) -> ApiOperation {
    operation.problems(&[ProblemKind::BadRequest, ProblemKind::Unversioned])
}
