//! Operations of the audit log.

use contract::{
    ProblemKind,
    audit::{AuditPage, AuditRecord, Tips},
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiOperation, ApiSchema},
};

use crate::api::openapi::reading;

pub(crate) fn list() -> ApiOperation {
    let summary = "The audit log: who did what, and who was refused";
    let text = || json!({"type": "string"}).into();
    let time = || json!({"type": "string", "format": "date-time"}).into();
    reading(ApiOperation::new("listAudit", summary))
        .query(
            "after",
            "The position that the page before ended with: its `next`, `<chain>:<sequence>`",
            json!({"type": "string", "pattern": "^[0-9a-z-]{1,64}:[0-9]{1,19}$"}).into(),
        )
        .query(
            "chain",
            "Only records of this chain",
            json!({"type": "string", "pattern": "^[0-9a-z-]{1,64}$"}).into(),
        )
        .query("from", "Only records at this time or later", time())
        .query("to", "Only records before this time", time())
        .query("actor", "Only records of this actor", text())
        .query("kind", "Only records of this kind", text())
        .query(
            "limit",
            "Most records of a page; 0 counts as 1, more than 1,000 as 1,000",
            json!({"type": "integer", "minimum": 0}).into(),
        )
        .problems(&[ProblemKind::BadRequest, ProblemKind::LoadsUnderWay])
        .answer(
            ApiAnswer::empty(200, "A page, by chain and position").content(
                JSON,
                ApiSchema::of::<AuditPage<AuditRecord>>().with_named::<AuditRecord>(),
            ),
        )
}

pub(crate) fn tips() -> ApiOperation {
    let summary = "The newest record of each chain of the audit log";
    reading(ApiOperation::new("listAuditTips", summary))
        .answer(ApiAnswer::json::<Tips>(200, "The newest records"))
}
