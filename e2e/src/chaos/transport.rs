//! The transports of a campaign, by the names that VIA takes and the report prints.

use anyhow::Context;

use crate::testbed::Transport;

/// All of them. The first is the default.
const WAYS: [(&str, Transport); 5] = [
    ("dapr", Transport::Dapr),
    ("pubsub", Transport::PubSub),
    ("streams", Transport::Streams),
    ("local", Transport::Local),
    ("feed", Transport::Feed),
];

/// The transport of a name.
///
/// # Errors
/// When the name is unknown.
pub fn named(name: &str) -> anyhow::Result<Transport> {
    let name = if name.is_empty() { WAYS[0].0 } else { name };
    let found = WAYS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, transport)| *transport);
    found.with_context(|| {
        format!(
            "VIA={name}: expected {}",
            WAYS.map(|(known, _)| known).join(", ")
        )
    })
}

/// The name of a transport.
pub fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Dapr => "dapr",
        Transport::PubSub => "pubsub",
        Transport::Streams => "streams",
        Transport::Local => "local",
        Transport::Feed => "feed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_has_a_name() -> anyhow::Result<()> {
        for (known, transport) in WAYS {
            assert_eq!((name(transport), named(known)?), (known, transport));
        }
        assert_eq!(named("")?, Transport::Dapr);
        assert!(
            named("pigeon")
                .is_err_and(|error| error.to_string().contains("dapr, pubsub, streams, local"))
        );
        Ok(())
    }
}
