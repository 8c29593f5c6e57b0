//! The repair of what is kept of the past: base records, and the row that says what they cover.
//!
//! A base record is restored where the row of its document has the same revision. States that need
//! another one stay refused.

use contract::repair::{CollectionRepair, DamagedRow, RepairRequest, RepairState};

use crate::store::{Store, integrity::DamagedPast};

/// Examines the past of a collection, and adds what was found and done to the report.
///
/// # Errors
/// When the store cannot be read or written.
pub(super) async fn examine(
    store: &Store,
    request: &RepairRequest,
    report: &mut CollectionRepair,
) -> anyhow::Result<()> {
    let collection = report.collection.clone();
    let mut state = RepairState::Whole;
    if let Some(damaged) = store.damaged_coverage(&collection).await? {
        state = worse(state, RepairState::Unrecoverable);
        if request.apply && request.discard {
            // Base records are made again of the rows: older states are given up.
            store.discard_coverage(&collection).await?;
            state = RepairState::Repaired;
        }
        report.unrecoverable.add(named(&damaged));
    }
    for damaged in store.damaged_bases(&collection).await? {
        let DamagedPast::Base { id, revision, .. } = &damaged else {
            continue;
        };
        let document = match id.parse() {
            Ok(id) => store.document(&collection, &id).await?,
            Err(_no_id) => None,
        };
        match document.filter(|document| document.revision() == *revision) {
            Some(document) => {
                if request.apply {
                    store.restore_base(&collection, &document).await?;
                }
                let mended = match request.apply {
                    true => RepairState::Repaired,
                    false => RepairState::Repairable,
                };
                state = worse(state, mended);
                report.from_log.add(named(&damaged));
            }
            None => {
                state = worse(state, RepairState::Unrecoverable);
                report.unrecoverable.add(named(&damaged));
            }
        }
    }
    report.state = worse(report.state, state);
    Ok(())
}

fn named(damaged: &DamagedPast) -> DamagedRow {
    let (id, revision) = match damaged {
        DamagedPast::Base { id, revision, .. } => (id.clone(), Some(*revision)),
        _other => ("(past)".to_owned(), None),
    };
    DamagedRow {
        id,
        damage: damaged.to_string(),
        revision,
    }
}

/// The one of two states that an operator has to know.
fn worse(a: RepairState, b: RepairState) -> RepairState {
    let rank = |state| match state {
        RepairState::Whole => 0,
        RepairState::Repaired => 1,
        RepairState::Repairable => 2,
        RepairState::Unrecoverable => 3,
        RepairState::Busy => 4,
    };
    if rank(b) > rank(a) { b } else { a }
}
