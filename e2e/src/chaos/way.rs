//! What carries the events of a campaign, by the names that VIA takes and the report gives.

use anyhow::Context;

use crate::stage::Via;

/// All of them; the first is meant when none is named.
const WAYS: [(&str, Via); 5] = [
    ("dapr", Via::Dapr),
    ("pubsub", Via::PubSub),
    ("streams", Via::Streams),
    ("local", Via::Local),
    ("feed", Via::Feed),
];

/// The way of a name.
///
/// # Errors
/// When there is none.
pub fn named(name: &str) -> anyhow::Result<Via> {
    let name = if name.is_empty() { WAYS[0].0 } else { name };
    let found = WAYS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, via)| *via);
    found.with_context(|| {
        format!(
            "VIA={name}: expected {}",
            WAYS.map(|(known, _)| known).join(", ")
        )
    })
}

/// The name of a way.
pub fn name(via: Via) -> &'static str {
    match via {
        Via::Dapr => "dapr",
        Via::PubSub => "pubsub",
        Via::Streams => "streams",
        Via::Local => "local",
        Via::Feed => "feed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_its_name() -> anyhow::Result<()> {
        for (known, via) in WAYS {
            assert_eq!((name(via), named(known)?), (known, via));
        }
        assert_eq!(named("")?, Via::Dapr);
        assert!(
            named("pigeon")
                .is_err_and(|error| error.to_string().contains("dapr, pubsub, streams, local"))
        );
        Ok(())
    }
}
