//! What keeps the typed collections, and the state that is told, in step with the view while the
//! replica runs.

use std::time::Instant;

use contract::status::{MAX_REFUSALS, RefusedValue, ReplicaState};
use tokio::{sync::watch, time::sleep_until};

use crate::Replica;

impl Replica {
    /// Projects every view that readers may see, the newest first and those between not at all, for
    /// ever.
    pub(crate) async fn project(&self) {
        let mut written = self.written();
        let typed = self.typed();
        loop {
            written.mark_unchanged();
            let view = self.view();
            if view.loaded() {
                let before = typed.projection();
                let next = before.next(view.root()).await;
                let refused = next.refused_since(&before);
                for (lens, refusal) in refused.iter().take(MAX_REFUSALS) {
                    let RefusedValue {
                        id,
                        revision,
                        pointer,
                        ..
                    } = refusal;
                    let collection = &lens.collection;
                    tracing::warn!(
                        %collection, %id, revision, pointer,
                        "{collection}/{id} at {revision} does not fit {} at {pointer:?}: the last good value stays",
                        lens.type_name
                    );
                }
                if let Some(more) = refused
                    .len()
                    .checked_sub(MAX_REFUSALS)
                    .filter(|more| *more > 0)
                {
                    tracing::warn!("{more} more values do not fit their types");
                }
                drop(typed.projection.show(next));
                typed.stepped.send_replace(());
                if typed.lenses.is_empty() {
                    // Nothing will ever be read through it, so nothing needs to be woken for each
                    // change.
                    drop(written);
                    return std::future::pending().await;
                }
            }
            if written.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Resolves as soon as everything was loaded and can be read, typed collections included.
    /// [`Replica::run`] has to run meanwhile.
    pub async fn ready(&self) {
        let mut stepped = self.typed().stepped();
        while !self.typed().projection().loaded() {
            if stepped.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The state, to look at and to wait for. It is told while [`Replica::run`] runs.
    pub fn states(&self) -> watch::Receiver<ReplicaState> {
        self.told().subscribe()
    }

    /// Tells the state whenever it changes: by what is written, and by time alone.
    pub(crate) async fn tell_state(&self) {
        let mut turned = self.turned();
        loop {
            turned.mark_unchanged();
            let (view, now) = (self.view(), Instant::now());
            let state = view.state(now);
            self.told()
                .send_if_modified(|told| std::mem::replace(told, state) != state);
            let by_time = async {
                match view.turns_after(now) {
                    Some(then) => sleep_until(then.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = turned.changed() => {}
                () = by_time => {}
            }
        }
    }
}
