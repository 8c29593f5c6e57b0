//! The heads by which a load finds the text that it can share, before it has a slot: one read at a
//! time, and each answers all loads that waited when it began. So however many loads are refused, they
//! cost the store one read after the other. It never gives heads that were read before a load arrived.

use std::{sync::Arc, time::Duration};

use contract::Head;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// Longest time that a load waits for heads: replicas give up on an answer that does not begin within
/// 2 s.
const LONGEST: Duration = Duration::from_secs(2);

/// The last read of the heads of all collections.
#[derive(Debug, Default)]
pub struct LoadHeads(Mutex<Option<(Instant, Arc<[Head]>)>>);

impl LoadHeads {
    /// The heads of all collections from a read that began after this call.
    ///
    /// # Errors
    /// When the read failed, or the wait for it took too long.
    pub(super) async fn get(
        &self,
        read: impl AsyncFnOnce() -> anyhow::Result<Vec<Head>>,
    ) -> anyhow::Result<Arc<[Head]>> {
        let arrived = Instant::now();
        let get = async {
            // Who waited here finds what the first of them has read.
            let mut last = self.0.lock().await;
            if let Some((began, heads)) = &*last
                && *began >= arrived
            {
                return Ok(Arc::clone(heads));
            }
            let began = Instant::now();
            let heads: Arc<[Head]> = read().await?.into();
            *last = Some((began, Arc::clone(&heads)));
            Ok(heads)
        };
        timeout(LONGEST, get).await?
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use contract::Epoch;
    use futures_util::future::try_join_all;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn loads_that_wait_share_a_read_that_began_after_they_arrived() -> anyhow::Result<()> {
        let heads = LoadHeads::default();
        let reads = Cell::new(0);
        let read = async || {
            reads.set(reads.get() + 1);
            let revision = reads.get();
            // The others arrive while the first one reads.
            yield_now().await;
            let head = Head::empty("A".parse()?, "9f86d081-1".parse::<Epoch>()?);
            Ok(vec![Head { revision, ..head }])
        };
        let loads = (0..100).map(|_load| heads.get(read));
        let read = try_join_all(loads).await?;
        let revisions: Vec<_> = read.iter().map(|heads| heads[0].revision).collect();
        assert_eq!(revisions[0], 1);
        assert_eq!(revisions[1..], [2; 99]);
        assert_eq!(reads.get(), 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_read_that_fails_or_ends_leaves_the_next_one_to_another_load() {
        let heads = LoadHeads::default();
        let failed = heads.get(async || anyhow::bail!("no store"));
        assert!(failed.await.is_err());
        let mut ends = Box::pin(heads.get(async || std::future::pending().await));
        assert!(futures_util::poll!(&mut ends).is_pending());
        let next = heads.get(async || Ok(Vec::new()));
        drop(ends);
        assert!(next.await.is_ok());
    }
}
