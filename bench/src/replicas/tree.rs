//! The middle level of a tree: subscribers that follow the live feed of a publisher, and whose own
//! feed replicas follow. They are processes of the program `subscriber`, and know nothing of the
//! measure.

use e2e::testbed::{FREE, services::Service};

/// Subscribers that start at the same time.
const STARTING: usize = 8;

/// Starts subscribers of the publisher at this port, and waits until all are ready.
pub(super) async fn subscribers(publisher: u16, count: usize) -> anyhow::Result<Vec<Service>> {
    let above = [format!("http://127.0.0.1:{publisher}")];
    let mut all = Vec::new();
    while all.len() < count {
        let mut starting = Vec::new();
        for one in all.len()..count.min(all.len() + STARTING) {
            let mut subscriber = Service::subscriber(&format!("level-1-{one}"), &above)?
                .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
                .with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED")
                // A replica loads over one connection and follows the feed over another. The first
                // one is closed early: all replicas are one process, and a process may not have
                // that many open files.
                .with("AURA_CONFIGURATION_LIMIT_IDLE_SECONDS", "1")
                .with("AURA_CONFIGURATION_LOADS", "100");
            subscriber.launch()?;
            starting.push(subscriber);
        }
        for subscriber in &mut starting {
            subscriber.until_ready().await?;
        }
        all.append(&mut starting);
    }
    Ok(all)
}
