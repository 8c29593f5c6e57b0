//! What a component file may say: every name that a sidecar passes is known here, or refused.
//!
//! The settings of the program are its own; a component file has only what concerns a sidecar.

use tonic::Status;

use crate::{
    instances::{Instance, Instances},
    proto::{Empty, InitRequest},
    state::key,
    status::invalid,
};

/// What a sidecar puts before a key.
const KEY_PREFIX: &str = "keyPrefix";

/// What a sidecar reads itself of the file of a pub/sub component, and passes on.
const OF_THE_SIDECAR: [&str; 6] = [
    "consumerID",
    "publishingScopes",
    "subscriptionScopes",
    "allowedTopics",
    "protectedTopics",
    "concurrencyMode",
];

/// `Init` of the pub/sub component.
///
/// # Errors
/// Which name is wrong, and the remedy.
pub(crate) fn pubsub(
    instances: &Instances,
    instance: &Instance,
    request: &InitRequest,
) -> Result<Empty, Status> {
    let name = &instance.name;
    for (given, _) in metadata(request) {
        if !(OF_THE_SIDECAR.iter()).any(|known| known.eq_ignore_ascii_case(given)) {
            return Err(unknown(name, "pubsub.confcast", given));
        }
    }
    instances.initialised(instance, None);
    tracing::info!("a sidecar has initialised the component {name} (pubsub.confcast)");
    Ok(Empty {})
}

/// `Init` of the state store.
///
/// # Errors
/// Which name or value is wrong, and the remedy.
pub(crate) fn state(
    instances: &Instances,
    instance: &Instance,
    request: &InitRequest,
) -> Result<Empty, Status> {
    let name = &instance.name;
    let mut default = None;
    let mut prefix = "";
    for (given, value) in metadata(request) {
        if given.eq_ignore_ascii_case(key::COLLECTION) {
            default = Some(key::collection(value)?);
        } else if given.eq_ignore_ascii_case(KEY_PREFIX) {
            prefix = value;
        } else {
            return Err(unknown(name, "state.confcast", given));
        }
    }
    if !prefix.eq_ignore_ascii_case("none") {
        let text = format!(
            "component {name}: keyPrefix is {prefix:?}: set it to none in the component file, because a \
             key is the id of a document, and the same one for every app"
        );
        return Err(invalid(KEY_PREFIX, text));
    }
    instances.initialised(instance, default);
    tracing::info!("a sidecar has initialised the component {name} (state.confcast)");
    Ok(Empty {})
}

fn metadata(request: &InitRequest) -> impl Iterator<Item = (&str, &str)> {
    let metadata = request.metadata.iter();
    let properties = metadata.flat_map(|metadata| &metadata.properties);
    properties.map(|(name, value)| (name.as_str(), value.as_str()))
}

fn unknown(name: &str, kind: &str, given: &str) -> Status {
    let text = format!(
        "component {name}: {kind} has no metadata {given:?}: remove it from the component file. The \
         settings of the component are environment variables of confcast-component"
    );
    invalid(given, text)
}
