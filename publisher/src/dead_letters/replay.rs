//! What is sent when a dead letter is replayed. Pure.
//!
//! An event with a revision is never sent as the letter has it: the change log has what is true, and
//! a replica that has the revision ignores it. An event without a revision is in no log, so its
//! original is sent.

use std::collections::BTreeSet;

use contract::{CollectionName, DocumentId, Epoch, EventData, Revision, canonical, text::Escaped};
use serde_json::{Map, Value};

use crate::{store::dead_letters::StoredLetter, transport::original::OriginalEvent};

/// The attributes that every event must have (CloudEvents 1.0), and the media type of its data.
const REQUIRED: [&str; 5] = ["specversion", "id", "source", "type", "datacontenttype"];

/// What is sent.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// The event of a change of the log.
    Change {
        collection: CollectionName,
        epoch: Epoch,
        revision: Revision,
    },
    /// The original.
    Original(OriginalEvent),
}

impl Plan {
    /// Whose event is sent.
    pub(super) fn collection(&self) -> &CollectionName {
        match self {
            Self::Change { collection, .. } => collection,
            Self::Original(original) => &original.collection,
        }
    }

    /// Whether nothing but an id is sent where that is all that may be sent. The event of a change has
    /// what the settings allow.
    pub(super) fn is_id_only(&self) -> bool {
        match self {
            Self::Change { .. } => true,
            Self::Original(original) => only_id(&original.data).is_some(),
        }
    }
}

/// What to send for a letter, or why nothing can be sent.
///
/// # Errors
/// The reason, for an operator.
pub(super) fn plan(
    stored: &StoredLetter,
    served: &BTreeSet<CollectionName>,
) -> Result<Plan, String> {
    let event = &stored.letter.event;
    let is_served = |collection: &CollectionName| {
        if served.contains(collection) {
            Ok(())
        } else {
            Err(format!("this publisher does not serve {collection}"))
        }
    };
    if let (Some(collection), Some(epoch), Some(revision)) =
        (&event.collection, event.epoch, event.revision)
    {
        is_served(collection)?;
        return Ok(Plan::Change {
            collection: collection.clone(),
            epoch,
            revision,
        });
    }
    if stored.letter.truncated {
        return Err("only a part of the original is kept".to_owned());
    }
    let mut message = match canonical::value(&stored.original) {
        Ok(Value::Object(members)) => members,
        Ok(_other) => return Err("the original is not a JSON object".to_owned()),
        Err(error) => return Err(format!("the original is not JSON: {error}")),
    };
    let (envelope, data) = if message.contains_key("specversion") {
        let data = message.remove("data");
        (Some(message), data.unwrap_or_default())
    } else {
        (None, Value::Object(message))
    };
    // An id-only event has the collection in its topic.
    if let (Some(id), Some(collection)) = (only_id(&data), &event.collection) {
        is_served(collection)?;
        // Nothing else travels with it: another attribute may name a user or a request.
        let envelope = envelope.map(|mut members: Map<String, Value>| {
            members.retain(|name, _value| REQUIRED.contains(&name.as_str()));
            members
        });
        return Ok(Plan::Original(OriginalEvent {
            collection: collection.clone(),
            id,
            envelope,
            data,
        }));
    }
    let mut named = data.clone();
    if envelope.is_none()
        && let (Some(members), Some(collection)) = (named.as_object_mut(), &event.collection)
    {
        // Its channel says what bare data does not say (requirement A11).
        let channel = || collection.as_str().into();
        members.entry("collection").or_insert_with(channel);
    }
    let read: EventData = serde_json::from_value(named).map_err(|error| {
        format!(
            "its data is no event of a collection: {}",
            Escaped(contract::dead_letter::short(&error.to_string()))
        )
    })?;
    if read.revision.is_some() || read.epoch.is_some() {
        return Err(
            "its data has a revision without an epoch, or an epoch without a revision".into(),
        );
    }
    // Who may report was decided by the collection of the letter.
    if event.collection.as_ref() != Some(&read.collection) {
        return Err("the letter names another collection than its event, or none".to_owned());
    }
    is_served(&read.collection)?;
    Ok(Plan::Original(OriginalEvent {
        collection: read.collection,
        id: read.id,
        envelope,
        data,
    }))
}

/// The id of data that has no other member.
fn only_id(data: &Value) -> Option<DocumentId> {
    let members = data.as_object().filter(|members| members.len() == 1)?;
    members.get("id")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;

    use super::*;
    use crate::dead_letters::arrival::{Arrival, merged};

    fn planned(original: &Value) -> Result<Plan, String> {
        let arrival = Arrival::moved(original.to_string().as_bytes(), Utc::now());
        let served = BTreeSet::from(["A".parse().expect("a name")]);
        plan(&merged(None, &arrival), &served)
    }

    fn event(data: Value) -> Value {
        json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "expiration": "x", "data": data})
    }

    #[test]
    fn an_event_with_a_revision_is_read_from_the_log() {
        let data = json!({"collection": "A", "op": "Create", "id": 7, "revision": 3, "epoch": "00000001-1"});
        let expected = Plan::Change {
            collection: "A".parse().expect("a name"),
            epoch: "00000001-1".parse().expect("an epoch"),
            revision: 3,
        };
        // The rest of it may be damaged.
        assert_eq!(planned(&event(data.clone())), Ok(expected));
        assert!(matches!(planned(&data), Ok(Plan::Change { .. })), "bare");
    }

    #[test]
    fn an_event_without_a_revision_is_sent_as_it_was() {
        let data = json!({"collection": "A", "op": "Create", "id": "a", "more": 1.5});
        for (message, enveloped) in [(event(data.clone()), true), (data.clone(), false)] {
            match planned(&message) {
                Ok(Plan::Original(original)) => {
                    assert_eq!(original.data, data);
                    assert_eq!(original.envelope.is_some(), enveloped);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_event_that_has_an_id_alone_is_of_its_topic() {
        let mut message = event(json!({"id": "a"}));
        message["topic"] = json!("A");
        message["userid"] = json!("ada");
        let plan = planned(&message).expect("it can be sent");
        assert!(plan.is_id_only() && plan.collection().as_str() == "A");
        let Plan::Original(original) = plan else {
            panic!("it has no revision");
        };
        let envelope = original.envelope.expect("an envelope");
        let names: BTreeSet<_> = envelope.keys().map(String::as_str).collect();
        assert_eq!(names, ["id", "source", "specversion", "type"].into());
        for more in [
            json!({"id": "a", "op": "Update", "collection": "A"}),
            json!({"id": "a", "op": "Update", "collection": "A", "metadata": {}}),
        ] {
            let plan = planned(&event(more)).expect("it can be sent");
            assert!(!plan.is_id_only());
        }
        message["topic"] = json!("B");
        assert!(planned(&message).is_err(), "not served");
    }

    #[test]
    fn what_no_replica_could_read_is_refused_in_words() {
        for (message, reason) in [
            (json!("<config/>"), "not a JSON object"),
            (event(json!("<config/>")), "no event of a collection"),
            (
                event(json!({"collection": "A", "op": "Create", "id": 7})),
                "no event of a collection",
            ),
            (
                event(json!({"collection": "B", "op": "Create", "id": "a"})),
                "does not serve B",
            ),
            (
                event(json!({"collection": "A", "op": "Create", "id": "a", "revision": 1})),
                "without an epoch",
            ),
            (
                event(
                    json!({"collection": "A", "op": "Create", "id": "a", "configData": {"a": "x".repeat(70_000)}}),
                ),
                "only a part",
            ),
        ] {
            let refused = planned(&message).expect_err(reason);
            assert!(refused.contains(reason), "{reason}: {refused}");
        }
    }
}
