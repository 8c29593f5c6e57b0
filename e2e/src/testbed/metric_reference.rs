//! The metrics of both services by docs/reference/metrics.md: what an answer, a rule or a query may
//! name.
//!
//! It reads as much of an expression as names and labels need, and judges none: promtool does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

use super::dependencies::repository_root;

const PAGE: &str = "docs/reference/metrics.md";
const PREFIX: &str = "confcast_";
/// Labels that Prometheus adds to every sample, and the one of a bucket.
const ADDED: [&str; 4] = ["namespace", "job", "instance", "le"];
/// Labels whose values no page lists.
const OPEN: [&str; 3] = ["collection", "status", "right"];

/// All metrics, by name.
#[derive(Debug)]
pub struct MetricReference(BTreeMap<String, Metric>);

/// One row of the page.
#[derive(Debug)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    /// The words that the row has as code, which the values of labels are among.
    words: BTreeSet<String>,
}

/// A metric in a text, and the values that its labels are compared with.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    name: String,
    labels: Vec<(String, Vec<String>)>,
}

impl MetricReference {
    /// Reads the page.
    ///
    /// # Errors
    /// When it cannot be read, or a row has another form.
    pub fn read() -> anyhow::Result<Self> {
        let page = std::fs::read_to_string(repository_root().join(PAGE))?;
        let reference = Self::parse(&page)?;
        ensure!(reference.0.len() > 40, "{PAGE} has another form");
        Ok(reference)
    }

    fn parse(page: &str) -> anyhow::Result<Self> {
        let mut metrics = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with("| `confcast_")) {
            let mut cells = line.trim_matches(['|', ' ']).splitn(3, " | ");
            let mut cell = || cells.next().with_context(|| format!("{PAGE}: {line}"));
            let (name, kind, meaning) = (cell()?.trim_matches('`'), cell()?, cell()?);
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = labels.trim_end_matches('}').split(", ");
            let metric = Metric {
                kind: kind.to_owned(),
                labels: labels
                    .filter(|label| !label.is_empty())
                    .map(str::to_owned)
                    .collect(),
                words: meaning
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect(),
            };
            let before = metrics.insert(name.to_owned(), metric);
            ensure!(before.is_none(), "{PAGE} has {name} twice");
        }
        Ok(Self(metrics))
    }

    /// The metric of a sample. A histogram has samples of three names.
    fn metric(&self, sample: &str) -> Option<(&String, &Metric)> {
        let mut bases = ["_bucket", "_count", "_sum"]
            .into_iter()
            .filter_map(|end| self.0.get_key_value(sample.strip_suffix(end)?));
        self.0
            .get_key_value(sample)
            .or_else(|| bases.find(|(_, metric)| metric.kind == "histogram"))
    }

    /// The names of all metrics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The labels that samples of a metric have, with those of its target.
    pub fn labels(&self, name: &str) -> BTreeSet<&str> {
        let own = self
            .0
            .get(name)
            .into_iter()
            .flat_map(|metric| &metric.labels);
        own.map(String::as_str).chain(ADDED).collect()
    }

    /// Looks up every metric that an expression or an answer of `GET /metrics` names, with labels,
    /// values and types, and returns the names.
    ///
    /// # Errors
    /// With the first that the page does not have.
    pub fn check(&self, text: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for Selector { name, labels } in selectors(text)? {
            let (base, metric) = self
                .metric(&name)
                .with_context(|| format!("{PAGE} has no {name}"))?;
            for (label, values) in labels {
                ensure!(
                    metric.labels.contains(&label) || ADDED.contains(&label.as_str()),
                    "{PAGE}: {name} has no label {label}"
                );
                let listed = |value: &String| metric.words.contains(value);
                ensure!(
                    OPEN.contains(&label.as_str())
                        || ADDED.contains(&label.as_str())
                        || values.iter().all(listed),
                    "{PAGE}: {name} with {label} does not list all of {values:?}"
                );
            }
            names.insert(base.clone());
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').context("a type")?;
            ensure!(
                self.0.get(name).is_some_and(|metric| metric.kind == kind),
                "{PAGE}: {name} is a {kind}"
            );
        }
        Ok(names)
    }
}

/// Every metric of ours in a text, with its labels.
fn selectors(text: &str) -> anyhow::Result<Vec<Selector>> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for (start, _) in text.match_indices(PREFIX) {
        if text[..start].ends_with(is_name) {
            continue;
        }
        let rest = &text[start..];
        let (name, rest) =
            rest.split_at(rest.find(|letter| !is_name(letter)).unwrap_or(rest.len()));
        let labels = match rest.strip_prefix('{') {
            Some(rest) => self::labels(rest.split_once('}').context("no end of labels")?.0)?,
            None => Vec::new(),
        };
        found.push(Selector {
            name: name.to_owned(),
            labels,
        });
    }
    Ok(found)
}

/// `a="x", b=~"y|z"` as labels with values.
fn labels(text: &str) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let mut parts = text.split('"');
    let mut labels = Vec::new();
    while let (Some(label), Some(value)) = (parts.next(), parts.next()) {
        let label = label.trim_matches([',', ' ', '=', '~', '!']);
        labels.push((
            label.to_owned(),
            value.split('|').map(str::to_owned).collect(),
        ));
    }
    ensure!(
        text.is_empty() || !labels.is_empty(),
        "labels of another form: {text}"
    );
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_read_from_expressions_and_answers() -> anyhow::Result<()> {
        let found = selectors(
            "sum(rate(confcast_a{b=\"c\", d=~\"e|f\"}[5m])) / x_confcast_no - confcast_g",
        )?;
        let owned = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let expected = [
            Selector {
                name: "confcast_a".to_owned(),
                labels: vec![
                    ("b".to_owned(), owned(&["c"])),
                    ("d".to_owned(), owned(&["e", "f"])),
                ],
            },
            Selector {
                name: "confcast_g".to_owned(),
                labels: Vec::new(),
            },
        ];
        ensure!(found == expected, "{found:?}");
        Ok(())
    }

    #[test]
    fn a_histogram_is_one_row() -> anyhow::Result<()> {
        let page =
            "| `confcast_wait_seconds{op}` | histogram | by `put` |\n| `confcast_a` | gauge | x |";
        let reference = MetricReference::parse(page)?;
        let answer = "# TYPE confcast_wait_seconds histogram\n\
                      confcast_wait_seconds_bucket{le=\"0.1\",op=\"put\"} 1\n\
                      confcast_wait_seconds_sum{op=\"put\"} 1\n";
        ensure!(reference.check(answer)?.len() == 1);
        ensure!(reference.check("confcast_a_sum").is_err());
        Ok(())
    }

    #[test]
    fn what_the_page_does_not_have_is_found() -> anyhow::Result<()> {
        let reference = MetricReference::read()?;
        reference
            .check("max by (job) (confcast_replicas{state=~\"stale|gone\", job=\"x\"}) > 0")?;
        for wrong in [
            "confcast_replica",
            "confcast_replicas{fault=\"stale\"}",
            "confcast_replicas{state=~\"stale|lost\"}",
            "# TYPE confcast_replicas counter",
        ] {
            ensure!(reference.check(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
