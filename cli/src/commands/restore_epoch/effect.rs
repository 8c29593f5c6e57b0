//! What a new epoch does to the replicas, from what they reported at their last check-in. It is what
//! replicas themselves decide by: the lineage. Nothing is sent or printed here.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Epoch, Head, fleet::ReplicaRecord};

/// The live replicas, by what they do with the new epoch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Names of those that load the store at their next check-in.
    loads: BTreeSet<String>,
    /// Names of those that refuse the store and keep their values, by the lineage that they follow.
    refuses: BTreeMap<String, BTreeSet<String>>,
    /// Whether every replica has the epoch of the store, and no revision that the store lacks.
    nothing_lost: bool,
}

impl Effect {
    /// The effect on these replicas of a new epoch of the store that has these heads. `adopt` is the
    /// lineage that it will have, where that is another one.
    pub(super) fn new(heads: &[Head], adopt: Option<&str>, replicas: &[ReplicaRecord]) -> Self {
        let mut effect = Self {
            nothing_lost: true,
            ..Self::default()
        };
        let first = heads.first();
        let follows = |epoch: Epoch| {
            adopt == Some(epoch.lineage_name().to_string().as_str())
                || first.is_none_or(|head| {
                    head.epoch.lineage == epoch.lineage || head.replaces.includes(epoch)
                })
        };
        for record in replicas.iter().filter(|record| !record.gone) {
            let name = &record.check_in.instance;
            let mut foreign = None;
            for (collection, report) in &record.check_in.collections {
                let Some(epoch) = report.epoch else { continue };
                let head = heads.iter().find(|head| head.collection == *collection);
                effect.nothing_lost &= head.is_none_or(|head| {
                    head.epoch == epoch && report.revision.max(report.known) <= head.revision
                });
                if !follows(epoch) {
                    foreign = Some(epoch.lineage_name().to_string());
                }
            }
            match foreign {
                Some(lineage) => effect.refuses.entry(lineage).or_default(),
                None => &mut effect.loads,
            }
            .insert(name.clone());
        }
        effect
    }

    /// The effect in words, one sentence each.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.loads.is_empty() {
            lines.push(format!(
                "replicas that load the store again at their next check-in: {}",
                listed(&self.loads)
            ));
        }
        for (lineage, names) in &self.refuses {
            lines.push(format!(
                "replicas that follow the lineage {lineage} of another store, refuse this one and keep \
                 their values: {}. If this store is meant to replace theirs, run `confcast \
                 restore-epoch --adopt {lineage}`",
                listed(names)
            ));
        }
        if lines.is_empty() {
            lines.push("no live replica has checked in with this publisher".to_owned());
        }
        lines
    }

    /// Whether some replica has shown that the store is not what it was. Without a replica nothing is
    /// known.
    pub(super) fn shows_no_loss(&self) -> bool {
        self.nothing_lost && !self.loads.is_empty()
    }
}

/// The first names, and the number of the others.
fn listed(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<&str> = names.iter().map(String::as_str).take(SHOWN).collect();
    let others = format!("{} others", names.len().saturating_sub(SHOWN));
    if names.len() > SHOWN {
        shown.push(&others);
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_publisher::replicas::{gone, record};

    fn head(epoch: &str, revision: u64) -> Head {
        let name = "ChannelConfiguration".parse().expect("a name");
        Head {
            revision,
            ..Head::empty(name, epoch.parse().expect("an epoch"))
        }
    }

    #[test]
    fn replicas_of_another_lineage_refuse_and_the_remedy_names_it() {
        let replicas = [record("a", None, 1), gone("b", None)];
        let foreign = Effect::new(&[head("0000000f-1", 0)], None, &replicas);
        let [line] = &foreign.lines()[..] else {
            panic!("{foreign:?}");
        };
        assert!(
            line.contains("keep their values: a.") && line.contains("--adopt 00000001`"),
            "{line}"
        );
        assert!(!foreign.shows_no_loss());
        let adopted = Effect::new(&[head("0000000f-1", 0)], Some("00000001"), &replicas);
        let lines = adopted.lines();
        assert_eq!(
            lines,
            ["replicas that load the store again at their next check-in: a"]
        );
        let mut renewed = head("0000000f-1", 0);
        renewed.replaces = vec![
            replicas[0].check_in.collections[&renewed.collection]
                .epoch
                .expect("an epoch")
                .lineage_name(),
        ]
        .into();
        assert_eq!(Effect::new(&[renewed], None, &replicas).lines(), lines);
    }

    #[test]
    fn a_healthy_store_is_told_from_one_that_lost_revisions() {
        let replicas = [record("a", None, 7)];
        let lost = |head| !Effect::new(&[head], None, &replicas).shows_no_loss();
        assert!(!lost(head("00000001-1", 7)));
        assert!(lost(head("00000001-1", 6)));
        assert!(lost(head("00000001-2", 7)));
        let nobody = Effect::new(&[head("00000001-1", 7)], None, &[]);
        assert!(!nobody.shows_no_loss());
        assert!(nobody.lines()[0].contains("no live replica"));
    }
}
