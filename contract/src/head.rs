//! The head of a collection: its newest revision, count and digest.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CollectionName, Digest, Epoch, Lineage, Revision},
    proof::Proof,
};

/// The head of a collection. It is committed with every change, and replicas compare their own state
/// with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The collection.
    pub collection: CollectionName,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// Revision of the newest change; 0 before the first.
    pub revision: Revision,
    /// Number of live documents.
    pub count: u64,
    /// Digest over the live documents.
    pub digest: Digest,
    /// Last revision of the newest change set; 0 when there was none.
    #[serde(default)]
    pub last_set: Revision,
    /// Oldest revision that the change log still holds; `revision` + 1 when the log is empty.
    pub oldest: Revision,
    /// Proof that `revision` was committed in `epoch`; absent where a publisher has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// The lineages that the store had before that of `epoch`: a replica that follows one of them
    /// follows this one. Absent where the store always had the same.
    #[serde(default, skip_serializing_if = "Replaced::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Vec<Lineage>))]
    pub replaces: Replaced,
}

/// The lineages that a store had before its present one, the oldest first: the last
/// [`Replaced::MAX`] of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Lineage>")]
pub struct Replaced(Vec<Lineage>);

impl Replaced {
    /// How many lineages are kept. A replica that was away for more renewals follows none of them.
    pub const MAX: usize = 8;

    /// Whether the store always had the same lineage.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the store had the lineage of this epoch.
    pub fn includes(&self, epoch: Epoch) -> bool {
        self.0.contains(&epoch.lineage_name())
    }

    /// The list after a store in the epoch `from` begins the epoch `to`.
    #[must_use]
    pub fn after(&self, from: Epoch, to: Epoch) -> Self {
        if from.lineage == to.lineage {
            return self.clone();
        }
        let (from, to) = (from.lineage_name(), to.lineage_name());
        // A lineage that comes back is the present one, and replaces itself no longer.
        let older = self.0.iter().copied();
        let older = older.filter(|lineage| ![from, to].contains(lineage));
        older.chain([from]).collect::<Vec<_>>().into()
    }
}

impl From<Vec<Lineage>> for Replaced {
    /// Keeps the newest.
    fn from(mut lineages: Vec<Lineage>) -> Self {
        lineages.drain(..lineages.len().saturating_sub(Self::MAX));
        Self(lineages)
    }
}

impl Head {
    /// The head of a collection that never had a change.
    pub fn empty(collection: CollectionName, epoch: Epoch) -> Self {
        Self {
            collection,
            epoch,
            revision: 0,
            count: 0,
            digest: Digest::default(),
            last_set: 0,
            oldest: 1,
            proof: None,
            replaces: Replaced::default(),
        }
    }
}

/// Body of `GET /v1/collections`: the requested heads of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Heads {
    /// One head per collection, by name.
    pub heads: Vec<Head>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lineages_of_a_store_are_kept_and_the_present_one_is_none_of_them() {
        let epoch = |lineage| Epoch {
            lineage,
            counter: 1,
        };
        let mut replaced = Replaced::default();
        for lineage in 0..20 {
            replaced = replaced.after(epoch(lineage), epoch(lineage + 1));
        }
        for (lineage, kept) in [(11, false), (12, true), (19, true), (20, false)] {
            assert_eq!(replaced.includes(epoch(lineage)), kept, "{lineage}");
        }
        assert_eq!(
            replaced.after(epoch(20), epoch(20)),
            replaced,
            "a restore keeps the lineage"
        );
        let back = replaced.after(epoch(20), epoch(15));
        assert!(back.includes(epoch(20)) && !back.includes(epoch(15)));
        let long = serde_json::to_string(&vec![Lineage(7); 99]).expect("json");
        let read: Replaced = serde_json::from_str(&long).expect("a list");
        assert_eq!(read.0.len(), Replaced::MAX);
    }
}
