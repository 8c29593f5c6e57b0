//! Counters that begin at 0 with every run of a process, summed over its runs.
//!
//! The sums lack what a process counted between the last reading and its end.

use std::collections::BTreeMap;

/// The sums.
#[derive(Debug, Default)]
pub struct CounterSums {
    /// By process and counter: the run in which it was read last, and its value.
    last: BTreeMap<(String, &'static str), (u32, u64)>,
    sums: BTreeMap<&'static str, u64>,
}

impl CounterSums {
    /// Adds the counters of a run, from its metrics in the Prometheus text format.
    pub fn read(&mut self, process: &str, life: u32, counters: &[&'static str], text: &str) {
        for &counter in counters {
            let Some(now) = value(counter, text) else {
                continue;
            };
            let last = self.last.insert((process.to_owned(), counter), (life, now));
            let counted = last
                .filter(|(before, _)| *before == life)
                .map_or(0, |(_, value)| value);
            *self.sums.entry(counter).or_default() += now.saturating_sub(counted);
        }
    }

    /// The sum of a counter over all processes and their runs.
    pub fn sum(&self, counter: &str) -> u64 {
        self.sums.get(counter).copied().unwrap_or_default()
    }
}

/// The value of a counter. Its labels are part of the name.
fn value(counter: &str, text: &str) -> Option<u64> {
    let number = |line: &str| {
        let rest = line.strip_prefix(counter)?;
        // Empty labels and no labels mean the same.
        rest.strip_prefix("{}")
            .unwrap_or(rest)
            .strip_prefix(' ')?
            .parse()
            .ok()
    };
    text.lines().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_process_counts_from_zero() {
        const SENT: &str = "events_total{result=\"published\"}";
        assert_eq!(
            [
                value("a", "a_total 1\na 2"),
                value("a", "a{} 3\n"),
                value("a", "a{b=\"\"} 4")
            ],
            [Some(2), Some(3), None]
        );
        let mut sums = CounterSums::default();
        for (process, life, said) in [
            ("a", 1, 5),
            ("a", 1, 7),
            ("b", 1, 10),
            ("a", 2, 3),
            ("a", 2, 4),
        ] {
            let text = format!(
                "# TYPE events counter\nevents_total{{result=\"failed\"}} 99\n{SENT} {said}\n# EOF\n"
            );
            sums.read(process, life, &[SENT, "not there"], &text);
        }
        assert_eq!((sums.sum(SENT), sums.sum("not there")), (7 + 10 + 4, 0));
    }
}
