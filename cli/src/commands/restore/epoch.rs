//! The epoch after a restore: a new one, so that every replica loads the store; in the lineage of the
//! backup where replicas follow that, as they do after their store was lost.

use anyhow::Context;
use client::{Endpoint, RetryPolicy, retry};
use contract::{Epoch, Head, fleet::RestoreEpochRequest};

use crate::{backup_file::Backup, commands::explained};

/// The epoch that a restore declares.
#[derive(Debug)]
pub(super) struct NewEpoch {
    /// The epoch of the backup.
    backup: Epoch,
    /// Whether the lineage of the backup is another one than that of the store, and none before it.
    is_foreign: bool,
    /// Live replicas that follow the lineage of the backup.
    followers: usize,
}

impl NewEpoch {
    /// The epoch for a store with these heads.
    ///
    /// # Errors
    /// When the publisher does not list its replicas.
    pub(super) async fn of(
        publisher: &Endpoint,
        backup: &Backup,
        heads: &[Head],
    ) -> anyhow::Result<Self> {
        let of_backup = backup.header.epoch;
        let is_foreign = heads.first().is_some_and(|head| {
            head.epoch.lineage != of_backup.lineage && !head.replaces.includes(of_backup)
        });
        let mut epoch = Self {
            backup: of_backup,
            is_foreign,
            followers: 0,
        };
        epoch.count_followers(publisher).await?;
        Ok(epoch)
    }

    async fn count_followers(&mut self, publisher: &Endpoint) -> anyhow::Result<()> {
        if !self.is_foreign {
            return Ok(());
        }
        let list = publisher.replicas().await?;
        let replicas = list.map_or_else(Vec::new, |list| list.replicas);
        let follow = replicas.iter().filter(|record| {
            let reports = &mut record.check_in.collections.values();
            !record.gone
                && reports.any(|report| {
                    report
                        .epoch
                        .is_some_and(|epoch| epoch.lineage == self.backup.lineage)
                })
        });
        self.followers = follow.count();
        Ok(())
    }

    /// Whether the store takes over the lineage of the backup.
    pub(super) fn is_adoption(&self) -> bool {
        self.followers > 0
    }

    /// What the operator should know before the restore.
    pub(super) fn remarks(&self) -> Vec<String> {
        let lineage = self.backup.lineage_name();
        if !self.is_foreign {
            return Vec::new();
        }
        vec![if self.is_adoption() {
            format!(
                "the backup is of the lineage {lineage}, which {} replicas follow: this store continues it, and \
                 they load it",
                self.followers
            )
        } else {
            format!(
                "the backup is of the lineage {lineage}, which no replica here follows: this store keeps its \
                 own. Where replicas of {lineage} are to load it, give the command again when `confcast \
                 status` lists them"
            )
        }]
    }

    /// Declares the epoch, again while the publisher cannot.
    ///
    /// # Errors
    /// When the publisher refuses, or does not answer.
    pub(super) async fn declare(mut self, publisher: &Endpoint) -> anyhow::Result<Epoch> {
        // More replicas may have checked in while documents were written.
        self.count_followers(publisher).await?;
        let request = RestoreEpochRequest {
            adopt: self
                .is_adoption()
                .then(|| self.backup.lineage_name().to_string()),
            ..RestoreEpochRequest::default()
        };
        let declare = || publisher.declare_epoch(&request);
        let declared = RetryPolicy::START.run(retry::is_busy, declare).await;
        let declared = declared.map_err(|error| explained(publisher, error, "POST /v1/epoch"));
        let declared = declared.context(
            "the documents are restored, and no epoch was declared: run the same command again",
        )?;
        Ok(declared.epoch)
    }
}
