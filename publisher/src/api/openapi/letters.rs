//! Operations of dead letters, and those that the sidecar of a publisher calls.

use contract::{
    ProblemKind,
    dead_letter::{
        DeadLetter, DeadLetterAccepted, DeadLetterList, DeadLetterReplayed, DeadLetterReport,
        DeadLettersDiscarded, ReplayRequest,
    },
    sidecar::{EventReply, RawEvent, Subscription, TOKEN_HEADER},
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiDocument, ApiOperation, ApiSchema},
};

use crate::api::{openapi::reading, sidecar};

/// Name of the token among the security schemes.
const TOKEN: &str = "daprApiToken";

/// Adds the token that the operations of a sidecar may require.
pub(super) fn add_token(document: ApiDocument) -> ApiDocument {
    let description = "The `APP_API_TOKEN` of this publisher, where it has one";
    document.token(TOKEN, TOKEN_HEADER, description)
}

fn filters(operation: ApiOperation) -> ApiOperation {
    operation
        .query(
            "collection",
            "Letters whose event names this collection",
            json!({"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]{0,63}$"}).into(),
        )
        .query(
            "reason",
            "Letters with this reason",
            json!({"type": "string", "enum": ["dropped", "expired", "not-taken"]}).into(),
        )
        .query(
            "replayed",
            "Letters that were sent again since they arrived last, or those that were not",
            json!({"type": "boolean"}).into(),
        )
        .problems(&[ProblemKind::BadRequest])
}

fn one(operation: ApiOperation) -> ApiOperation {
    let id = json!({"type": "string", "pattern": "^[0-9a-f]{32}$"});
    reading(operation.path("id", "Name of the letter", id.into()))
        .problems(&[ProblemKind::BadRequest, ProblemKind::NoDeadLetter])
}

pub(crate) fn list() -> ApiOperation {
    let summary = "Events that no replica took, the one that arrived last first";
    let limit = json!({"type": "integer", "minimum": 0});
    let operation = filters(reading(ApiOperation::new("listDeadLetters", summary)))
        .query(
            "before",
            "Where the page before ended: its `next`",
            json!({"type": "string", "pattern": "^-?[0-9]{1,18}-[0-9a-f]{32}$"}).into(),
        )
        .query(
            "limit",
            "Most letters of a page; 0 counts as 1, more than 100 as 100",
            limit.into(),
        );
    operation.answer(ApiAnswer::json::<DeadLetterList>(
        200,
        "A page, without originals",
    ))
}

pub(crate) fn get() -> ApiOperation {
    one(ApiOperation::new(
        "getDeadLetter",
        "A dead letter with its original",
    ))
    .answer(ApiAnswer::json::<DeadLetter>(
        200,
        "The letter; of a long original, the first 64 KiB",
    ))
}

pub(crate) fn report() -> ApiOperation {
    let summary = "A replica reports an event that it dropped";
    reading(ApiOperation::new("reportDeadLetter", summary))
        .body(JSON, true, ApiSchema::received::<DeadLetterReport>())
        .problems(&[ProblemKind::BadBody, ProblemKind::Busy])
        .answer(ApiAnswer::json::<DeadLetterAccepted>(
            200,
            "The letter is kept; a repeated report is counted",
        ))
}

pub(crate) fn discard() -> ApiOperation {
    one(ApiOperation::new(
        "discardDeadLetter",
        "Removes a dead letter",
    ))
    .answer(ApiAnswer::json::<DeadLetterAccepted>(200, "It is removed"))
}

pub(crate) fn discard_all() -> ApiOperation {
    let summary = "Removes all dead letters that the filters select";
    let operation = filters(reading(ApiOperation::new("discardDeadLetters", summary))).query(
        "all",
        "`true` removes all of them, where no filter is given",
        json!({"type": "boolean"}).into(),
    );
    operation.answer(ApiAnswer::json::<DeadLettersDiscarded>(
        200,
        "How many were removed",
    ))
}

pub(crate) fn replay() -> ApiOperation {
    let summary = "Sends the event of a dead letter again";
    one(ApiOperation::new("replayDeadLetter", summary))
        .describe(
            "An event with a revision is read from the change log; one without is sent as it was. \
             The letter stays, and says when it was sent again. With `LOCAL` the answer says how many \
             subscribers took the event; when none did, it is 503 `busy` and the letter stays open. \
             With a broker, sent means that the broker took the event.",
        )
        .body(JSON, true, ApiSchema::received::<ReplayRequest>())
        .problems(&[
            ProblemKind::BadBody,
            ProblemKind::Busy,
            ProblemKind::NotReplayable,
        ])
        .answer(ApiAnswer::json::<DeadLetterReplayed>(200, "It was sent"))
}

pub(crate) fn subscribe() -> ApiOperation {
    let subscription = ApiSchema::of::<Subscription>().always_with::<Subscription>(&[
        "pubsubname",
        "topic",
        "routes",
    ]);
    let description = "The dead letter topic; nothing when the transport is not `DAPR`";
    secured(ApiOperation::new(
        "subscribe",
        "The topics that this publisher reads through its sidecar",
    ))
    .answer(ApiAnswer::empty(200, description).content(JSON, subscription.list()))
}

pub(crate) fn receive() -> ApiOperation {
    let reply = ApiSchema::of::<EventReply>().always_with::<EventReply>(&["status"]);
    let description = "`SUCCESS` when the letter is stored, else `RETRY`";
    secured(ApiOperation::new(
        "receiveDeadLetter",
        "Receive a dead letter of the dead letter topic",
    ))
    .body(sidecar::MEDIA_TYPE, true, ApiSchema::received::<RawEvent>())
    .answer(ApiAnswer::empty(200, description).content(JSON, reply))
}

fn secured(operation: ApiOperation) -> ApiOperation {
    operation
        .secured(TOKEN)
        .problems(&[ProblemKind::Unauthorized])
}
