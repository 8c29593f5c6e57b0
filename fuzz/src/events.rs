//! What a broker delivers, without an envelope.

use contract::{EventData, objects};
use state::{ReceivedChange, SignedChange};

/// The data of an event, also without an envelope as from Redis.
pub fn event_data(bytes: &[u8]) {
    let data: Option<EventData> = objects::from_slice(bytes).ok();
    let change: Option<ReceivedChange> = objects::from_slice(bytes).ok();
    if let Some(change) = change {
        // Its size is what the bounds of memory count.
        assert!(change.size() >= change.config.as_ref().map_or(0, |it| it.as_str().len()));
    }
    if let Some(data) = data {
        let written = serde_json::to_vec(&data).expect("what was read can be written");
        assert_eq!(
            objects::from_slice::<EventData>(&written).ok().as_ref(),
            Some(&data)
        );
        drop(SignedChange::from_event(&data));
    }
}
