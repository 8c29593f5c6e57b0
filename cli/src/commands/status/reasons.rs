//! Why a replica is not well, and the remedy, in words.

use std::collections::BTreeMap;

use contract::{fleet::IntakeFault, status::ReplicaState};

use super::replica::{CollectionView, ReplicaView};

/// Why a replica is not well, and what to do; empty when it is well.
pub(super) fn reason(replica: &ReplicaView) -> String {
    if let Some(error) = &replica.error {
        return error.clone();
    }
    if replica.gone {
        return "silent for more than three check-in intervals: it was stopped or scaled away, or \
                it cannot reach any publisher"
            .to_owned();
    }
    let mut by_text: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for collection in &replica.collections {
        if let Some(text) = collection_reason(collection) {
            by_text
                .entry(text)
                .or_default()
                .push(collection.name.as_str());
        }
    }
    let mut reasons: Vec<String> = by_text
        .into_iter()
        .map(|(text, names)| {
            if names.len() == replica.collections.len() {
                text.to_owned()
            } else {
                format!("{}: {text}", names.join(", "))
            }
        })
        .collect();
    if replica.collections.is_empty() {
        reasons.push(
            "nothing is loaded yet: it follows no collection until a publisher has named those that \
             it serves"
                .to_owned(),
        );
    }
    if let Some(error) = &replica.last_error {
        reasons.push(format!("it reports an error: {error}"));
    }
    if replica.unusable.number > 0 {
        let number = replica.unusable.number;
        reasons.push(format!(
            "{number} refused or failing in its service, see below"
        ));
    }
    if let Some(fault) = replica.intake_fault {
        reasons.push(format!("events: {}, see below", fault.as_str()));
    }
    reasons.join("; ")
}

/// Why one collection is not well, and the remedy.
fn collection_reason(collection: &CollectionView) -> Option<&'static str> {
    if collection.is_healthy() {
        return None;
    }
    if collection.is_different() {
        return Some(
            "its documents differ from the publisher's: it loads them again at its next check-in, \
             `confcast verify` names them",
        );
    }
    Some(match (collection.reason.as_deref(), collection.state) {
        (Some("other-store"), _) => {
            "the publisher has another store, perhaps a blank one, and the last good values stay: \
             check its store URL. If its documents are lost, the replicas have them: run `confcast \
             backup create` with a replica as --publisher, then `confcast restore`. If the store is right, \
             run `confcast restore-epoch --adopt LINEAGE`"
        }
        (Some("older-epoch"), _) => {
            "the publisher has an earlier history, and the last good values stay: it reads an old \
             copy of the database"
        }
        (Some("diverged"), _) => "it differs from the publisher and loads all documents again",
        (Some("from-disk"), _) => {
            "it serves the values of its disk until a publisher confirms them: can it reach one?"
        }
        (Some("unknown-collection"), ReplicaState::Stale | ReplicaState::Current) => {
            "no publisher serves it any more, and its last values stay: serve it by its schema or by \
             AURA_CONFIGURATION_COLLECTIONS"
        }
        (Some("unknown-collection"), _) => {
            "no publisher serves it, and the other collections are loaded without it: correct its \
             name, or serve it (AURA_CONFIGURATION_COLLECTIONS)"
        }
        (_other, ReplicaState::Loading) => {
            "nothing is loaded yet: can it reach the publisher? Its log has the error"
        }
        (_other, ReplicaState::Partial) => {
            "its service has never had a value of some documents, because they do not fit its type: \
             correct the documents or the type"
        }
        (_other, ReplicaState::Behind) => {
            "it lacks revisions that it knows of and reads them from the publisher: if this stays, \
             its log has the error"
        }
        (_other, ReplicaState::Stale) => {
            "no publisher confirmed it for 2.5 check-in intervals: can it reach one? Its log has \
             the error"
        }
        // Another reason is information and no fault.
        (_other, ReplicaState::Current) => return None,
    })
}

/// The remedies of intake faults, one line per fault and transport with the names of the replicas.
pub(super) fn remedies<'a>(faults: impl Iterator<Item = IntakeRemedy<'a>>) -> Vec<String> {
    let mut by_remedy: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for IntakeRemedy {
        replica,
        fault,
        remedy,
    } in faults
    {
        let replicas = by_remedy.entry((fault.as_str(), remedy)).or_default();
        replicas.push(replica);
    }
    by_remedy
        .into_iter()
        .map(|((fault, remedy), names)| format!("{fault}: {}: {remedy}", names.join(", ")))
        .collect()
}

/// The intake fault of a live replica, and its remedy.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntakeRemedy<'a> {
    pub(super) replica: &'a str,
    pub(super) fault: IntakeFault,
    pub(super) remedy: &'a str,
}
