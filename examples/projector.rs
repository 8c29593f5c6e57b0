//! A projection that is kept in step: a file that says how many features are on, and since which
//! revision.
//!
//! ```text
//! PUBLISHER=http://127.0.0.1:8080 PROJECTION=flags.json target/debug/projector
//! ```
//!
//! The handler gets the whole collection first, then each change with the value before and after. When it
//! fails, for example on a full disk, it gets the whole collection again later. Changes come by the
//! live feed of the publisher.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use replica::{Builder, Config, DocumentChange, Snapshot, Update};
use serde::{Deserialize, Serialize};
use tokio::{
    fs,
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};

#[derive(Debug, Deserialize)]
struct Flag {
    enabled: bool,
}

/// What stands in the file.
#[derive(Debug, Clone, Default, Serialize)]
struct Projection {
    enabled: i64,
    revision: u64,
    resyncs: u64,
    changes: u64,
}

impl Projection {
    /// Everything, from nothing.
    fn resync(&mut self, flags: &Snapshot<Flag>) {
        self.enabled = flags.iter().filter(|(_id, flag)| flag.enabled).count() as i64;
        self.revision = flags.revision();
        self.resyncs += 1;
    }

    /// Only what is different.
    fn change(&mut self, change: &DocumentChange<Flag>) {
        let counts =
            |flag: &Option<Arc<Flag>>| i64::from(flag.as_ref().is_some_and(|flag| flag.enabled));
        self.enabled += counts(&change.current) - counts(&change.previous);
        self.revision = change.revision;
        self.changes += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First of all: until then both signals end the process at once.
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tracing_subscriber::fmt().init();
    let setting =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_unset| default.to_owned());
    let file = PathBuf::from(setting("PROJECTION", "flags.json"));

    let mut config = Config::new(
        "projector",
        [setting("PUBLISHER", "http://127.0.0.1:8080")],
        ["FeatureFlags"],
    )?;
    config.check_in = Duration::from_secs(1);
    // One flow of events, in order: no other task waits for this lock.
    let projection = Arc::new(Mutex::new(Projection::default()));
    let replica = Builder::new(config)
        .handler("CountFeatureFlags", move |update: Update<Flag>| {
            let (file, projection) = (file.clone(), Arc::clone(&projection));
            async move {
                let mut kept = projection.lock().await;
                let mut next = kept.clone();
                match &update {
                    Update::Resync(flags) => next.resync(flags),
                    Update::Changed(change) => next.change(change),
                }
                write(&file, &next).await?;
                *kept = next;
                Ok(())
            }
        })?
        .build()?;

    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    replica.run(stop).await;
    Ok(())
}

/// The file is there whole or not at all.
async fn write(file: &Path, projection: &Projection) -> io::Result<()> {
    let beside = file.with_extension("new");
    fs::write(&beside, serde_json::to_vec(projection)?).await?;
    fs::rename(&beside, file).await
}
