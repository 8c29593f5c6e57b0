//! The table for people. Nothing is computed here.

use comfy_table::{CellAlignment, Table, presets};

use crate::{Scaling, model::Use};

/// The two tables: the fleets, and the measured curve beside the formula.
pub(crate) fn text(result: &Scaling) -> String {
    let mut fleets = table(&[
        "replicas",
        "subscribers (levels)",
        "machines",
        "a change at all",
        "publisher, a change",
        "busiest machine, a change",
        "changes/s",
        "all restart, loaded",
        "publisher, loads",
        "check-ins, publisher / busiest",
    ]);
    for computed in &result.fleets {
        let subscribers: u64 = computed
            .change_uses
            .iter()
            .skip(1)
            .map(|used| used.level.nodes)
            .sum();
        let machines: u64 = computed
            .change_uses
            .iter()
            .skip(1)
            .map(|used| used.level.machines)
            .sum();
        // More machines than subscribers change nothing.
        if machines < computed.fleet.machines && computed.fleet.machines > 1 {
            continue;
        }
        let publisher = computed.change_uses.first().map(used).unwrap_or_default();
        let loads = computed.restart_uses.first().map(used).unwrap_or_default();
        let busiest = computed.change_uses.iter().skip(1);
        let busiest = busiest.max_by(|one, other| one.processor.total_cmp(&other.processor));
        fleets.add_row([
            computed.fleet.replicas.to_string(),
            format!("{subscribers} ({})", computed.change_uses.len()),
            machines.to_string(),
            seconds(computed.change),
            publisher,
            busiest.map(used).unwrap_or_default(),
            format!("{:.0}", computed.changes_per_second),
            seconds(computed.restart),
            loads,
            format!(
                "{:.1} % / {:.1} %",
                computed.publisher_check_ins * 100.0,
                computed.subscriber_check_ins * 100.0
            ),
        ]);
    }
    let mut measured = table(&[
        "on one machine",
        "replicas",
        "measured",
        "formula",
        "simulated",
    ]);
    for point in &result.measured {
        measured.add_row([
            point.transport.to_owned(),
            point.replicas.to_string(),
            seconds(point.measured),
            seconds(point.computed),
            seconds(point.simulated),
        ]);
    }
    format!(
        "{fleets}\n\n{measured}\n\ncosts: {}; formula and simulation differ by {:.1} % at most",
        result.costs_of,
        result.largest_difference * 100.0
    )
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Processor time and bytes of a machine.
fn used(level: &Use) -> String {
    format!("{}, {}", seconds(level.processor), bytes(level.bytes))
}

fn bytes(bytes: f64) -> String {
    match bytes {
        large if large >= 1e9 => format!("{:.1} GB", large / 1e9),
        middle if middle >= 1e6 => format!("{:.1} MB", middle / 1e6),
        small => format!("{:.0} KB", small / 1e3),
    }
}

/// A time in three digits.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        long if long >= 100.0 => format!("{long:.0} s"),
        middle if middle >= 1.0 => format!("{middle:.1} s"),
        short if short >= 0.001 => format!("{:.1} ms", short * 1e3),
        tiny => format!("{:.0} µs", tiny * 1e6),
    }
}
