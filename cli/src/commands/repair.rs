//! `confcast repair`: restores damaged rows and heads of a store from its change log. The publisher
//! does it; this command sends the request and shows the report.

use contract::{
    CollectionName,
    repair::{CollectionRepair, DamagedRows, RepairReport, RepairRequest, RepairState},
};

use crate::{output, target::Target};

/// Find damaged rows in the store of a publisher, and mend them from its change log
///
/// Without --yes nothing is written: the table shows what is damaged and what would be done. A
/// document whose row is damaged is restored from its newest record in the change log. Rows that are
/// no documents are moved to the collection _damaged. Heads are made again from the rows and the
/// log. Where replicas may hold other content, a new epoch is declared and they load again.
///
/// A damaged row whose value the log no longer has is reported and stays; its document is refused by
/// name. --discard moves it aside as well, so that the document can be written again, for instance
/// with the value that a replica still has.
///
/// The exit code is 1 while something is damaged.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// The collections; all when none is named
    #[arg(value_name = "COLLECTION")]
    collections: Vec<CollectionName>,
    /// Write what the change log proves
    #[arg(long)]
    yes: bool,
    /// Also move rows aside that nothing can restore
    #[arg(long, requires = "yes")]
    discard: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Repair {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let request = RepairRequest {
            apply: self.yes,
            discard: self.discard,
            collections: self.collections,
        };
        let report = publisher.repair(&request).await;
        let report = report
            .map_err(|error| crate::commands::explained(&publisher, error, "POST /v1/repair"))?;
        if self.json {
            output::json(&report)?;
        } else {
            print(&report)?;
        }
        anyhow::ensure!(is_whole(&report), "{}", advice(&report));
        Ok(())
    }
}

fn is_whole(report: &RepairReport) -> bool {
    let mut states = report.collections.iter().map(|it| it.state);
    report.epoch_failure.is_none()
        && states.all(|state| matches!(state, RepairState::Whole | RepairState::Repaired))
}

fn advice(report: &RepairReport) -> String {
    if let Some(reason) = &report.epoch_failure {
        return format!(
            "a new epoch is needed and was not declared: {reason}. Run `confcast restore-epoch`"
        );
    }
    let any = |state| report.collections.iter().any(|it| it.state == state);
    if any(RepairState::Busy) {
        "a collection was written all the time; try again when fewer writes arrive".to_owned()
    } else if any(RepairState::Repairable) {
        "the store has damaged rows; --yes mends them".to_owned()
    } else {
        "the store lacks what its change log cannot restore: restore a backup, or give it up with \
         --yes --discard, then write those documents again"
            .to_owned()
    }
}

fn print(report: &RepairReport) -> anyhow::Result<()> {
    let mut table = output::table([
        "collection",
        "state",
        "rows",
        "from the log",
        "no documents",
        "lost",
        "log",
        "head",
    ]);
    for it in &report.collections {
        table.add_row([
            it.collection.to_string(),
            state(it.state).to_owned(),
            it.rows.to_string(),
            it.from_log.count.to_string(),
            it.stray.count.to_string(),
            it.unrecoverable.count.to_string(),
            it.records.count.to_string(),
            head(it),
        ]);
    }
    output::result_table(&table)?;
    for it in &report.collections {
        let lists = [
            ("from the log", &it.from_log),
            ("no document", &it.stray),
            ("lost", &it.unrecoverable),
            ("log", &it.records),
        ];
        for (what, rows) in lists {
            name_rows(&it.collection, what, rows)?;
        }
    }
    if let Some(epoch) = &report.epoch {
        output::result(format_args!(
            "the epoch is now {epoch}; each replica loads the store at its next check-in"
        ))?;
    }
    Ok(())
}

fn name_rows(collection: &CollectionName, what: &str, rows: &DamagedRows) -> anyhow::Result<()> {
    for row in &rows.named {
        // An id of a stray row may hold any character.
        output::result(format_args!(
            "{collection} {:?}: {what}: {}",
            row.id, row.damage
        ))?;
    }
    let more = rows.count.saturating_sub(rows.named.len() as u64);
    if more > 0 {
        output::result(format_args!("{collection}: {what}: {more} more"))?;
    }
    Ok(())
}

fn state(state: RepairState) -> &'static str {
    match state {
        RepairState::Whole => "whole",
        RepairState::Repairable => "damaged",
        RepairState::Repaired => "repaired",
        RepairState::Unrecoverable => "rows are lost",
        RepairState::Busy => "busy",
    }
}

/// What becomes of the head.
fn head(it: &CollectionRepair) -> String {
    let place = |head: &contract::Head| format!("{} ({})", head.revision, head.count);
    match (&it.head_before, &it.head_after) {
        (Some(before), Some(after)) if before == after => place(before),
        (before, after) => {
            let text =
                |head: &Option<contract::Head>| head.as_ref().map_or_else(|| "-".to_owned(), place);
            format!("{} → {}", text(before), text(after))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_follows_from_the_worst_state() {
        let report = |state| RepairReport {
            applied: false,
            collections: vec![CollectionRepair {
                collection: "A".parse().expect("a name"),
                state,
                rows: 1,
                from_log: DamagedRows::default(),
                stray: DamagedRows::default(),
                unrecoverable: DamagedRows::default(),
                records: DamagedRows::default(),
                head_before: None,
                head_after: None,
            }],
            epoch: None,
            epoch_failure: None,
        };
        assert!(is_whole(&report(RepairState::Whole)));
        assert!(is_whole(&report(RepairState::Repaired)));
        for (state, words) in [
            (RepairState::Repairable, "--yes mends"),
            (RepairState::Unrecoverable, "--discard"),
            (RepairState::Busy, "try again"),
        ] {
            let report = report(state);
            assert!(!is_whole(&report));
            assert!(advice(&report).contains(words), "{state:?}");
        }
    }
}
