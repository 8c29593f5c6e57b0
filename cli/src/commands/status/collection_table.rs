//! The long form (`--collections`): a row per collection of the publisher, and a row per replica
//! and collection.

use contract::Head;

use super::{
    Report,
    replica::{CollectionView, ReplicaView},
};
use crate::output::{self, Table};

impl Report {
    /// The heads of the publisher.
    pub(super) fn head_table(&self) -> Table {
        let mut table = output::wrapping_table([
            "publisher",
            "collection",
            "epoch",
            "revision",
            "documents",
            "digest",
        ]);
        if let Some(error) = self.publisher.error() {
            table.add_row([&self.publisher.url, error]);
        }
        for Head {
            collection,
            epoch,
            revision,
            count,
            digest,
            ..
        } in self.heads()
        {
            table.add_row([
                self.publisher.url.clone(),
                collection.to_string(),
                epoch.to_string(),
                revision.to_string(),
                count.to_string(),
                digest.to_string(),
            ]);
        }
        table
    }

    /// Every collection of every replica.
    pub(super) fn collection_table(&self) -> Table {
        let mut table = output::wrapping_table([
            "replica",
            "base URL",
            "last seen",
            "collection",
            "state",
            "revision/head",
            "known",
            "documents",
            "digest equal",
            "events",
            "reason",
        ]);
        for replica in self.replica_rows() {
            for collection in &replica.collections {
                table.add_row(row(&replica, collection));
            }
            if replica.collections.is_empty() {
                table.add_row(row_without_collection(&replica));
            }
        }
        table
    }
}

fn row(replica: &ReplicaView, collection: &CollectionView) -> [String; 11] {
    let head = collection
        .head
        .map_or("?".to_owned(), |head| head.to_string());
    let documents = collection.documents.map(|count| count.to_string());
    [
        replica.name.clone(),
        replica.base_url.clone().unwrap_or_default(),
        last_seen(replica),
        collection.name.to_string(),
        collection.state.as_str().to_owned(),
        format!("{}/{head}", collection.revision),
        collection.known.to_string(),
        documents.unwrap_or_default(),
        yes_or_no(collection.digests_equal).to_owned(),
        events(replica),
        collection.reason.clone().unwrap_or_default(),
    ]
}

fn row_without_collection(replica: &ReplicaView) -> [String; 11] {
    let mut cells: [String; 11] = Default::default();
    cells[0].clone_from(&replica.name);
    cells[1] = replica.base_url.clone().unwrap_or_default();
    cells[2] = last_seen(replica);
    cells[9] = events(replica);
    match &replica.error {
        Some(error) => {
            cells[4] = "unreachable".to_owned();
            cells[10].clone_from(error);
        }
        None => {
            cells[4] = replica.overall().as_str().to_owned();
            cells[10] = "follows no collection".to_owned();
        }
    }
    cells
}

fn last_seen(replica: &ReplicaView) -> String {
    if replica.gone {
        format!("gone, {}", replica.last_seen)
    } else {
        replica.last_seen.clone()
    }
}

fn events(replica: &ReplicaView) -> String {
    match (replica.intake_fault, replica.events_behind) {
        (Some(fault), _) => fault.as_str().to_owned(),
        (None, 0) => String::new(),
        (None, behind) => format!("{behind} behind"),
    }
}

fn yes_or_no(verdict: Option<bool>) -> &'static str {
    match verdict {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}
