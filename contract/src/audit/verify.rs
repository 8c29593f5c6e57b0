//! Verifying the chains of an audit log, record by record.
//!
//! A [`Verifier`] takes records in the order of each chain, from a publisher or from an exported file,
//! and names the first record of each chain that is not what a publisher wrote. What it cannot know
//! from the records alone, whether the newest ones are gone, it knows from tips of an earlier
//! verification. An attacker who can rewrite a whole chain and all that names it is found only by such
//! tips. Nothing here reads a file.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    audit::{AuditRecord, ChainId, DIGEST, Tip, digest},
    canonical::CanonicalJson,
    sha256::Sha256,
};

/// What is wrong with a chain, or with a record that is in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A line is not a record.
    Unreadable {
        /// Its number, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// A record is not what was written: its content does not have its digest.
    Changed(Tip),
    /// The record before this one is not the one that was before it: it was replaced, or this one was
    /// inserted.
    Unchained(Tip),
    /// Records are missing before this one.
    Missing {
        /// The first one that is missing.
        from: u64,
        /// The record that is there instead.
        before: Tip,
    },
    /// A position of the chain has two different records, or a record comes after later ones.
    Repeated(Tip),
    /// A chain begins in the middle, and no record of retention says so.
    NoBeginning(Tip),
    /// The chain ends before a record that is known to have been in it.
    Truncated {
        /// The record that is known.
        known: Tip,
        /// The last record that is there.
        last: u64,
    },
    /// A whole chain is missing that is known to have existed.
    ChainMissing(Tip),
    /// The record at this position is not the one that is known to have been there: the chain was
    /// rewritten, or the store was restored.
    Rewritten(Tip),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |tip: &Tip| format!("record {} of chain {}", tip.sequence, tip.chain);
        match self {
            Self::Unreadable { line, reason } => {
                write!(f, "line {line} is not an audit record: {reason}")
            }
            Self::Changed(tip) => write!(f, "{} was changed: it does not have its digest", at(tip)),
            Self::Unchained(tip) => write!(
                f,
                "{} does not follow the record before it: one of the two was replaced or inserted",
                at(tip)
            ),
            Self::Missing { from, before } => write!(
                f,
                "records of chain {} are missing from {from} up to {} ",
                before.chain,
                before.sequence - 1
            ),
            Self::Repeated(tip) => write!(
                f,
                "{} is there twice with different content, or out of order",
                at(tip)
            ),
            Self::NoBeginning(tip) => write!(
                f,
                "the records before {} are missing, and no retention removed them",
                at(tip)
            ),
            Self::Truncated { known, last } => write!(
                f,
                "the end of chain {} is missing: record {} is known, the last one is {last}",
                known.chain, known.sequence
            ),
            Self::ChainMissing(tip) => write!(
                f,
                "chain {} is missing: its record {} is known",
                tip.chain, tip.sequence
            ),
            Self::Rewritten(tip) => write!(
                f,
                "{} is not the one that is known: the chain was rewritten, or the store was restored",
                at(tip)
            ),
        }
    }
}

/// One chain as far as it was read.
#[derive(Debug)]
struct Chain {
    /// The position of the first record.
    first: u64,
    /// What the first record is chained to.
    before_first: Sha256,
    /// The digests from the first record on.
    digests: Vec<Sha256>,
    /// Whether a fault was found; what follows is not judged.
    is_broken: bool,
}

impl Chain {
    fn last(&self) -> u64 {
        self.first + self.digests.len() as u64 - 1
    }

    fn digest(&self, sequence: u64) -> Option<Sha256> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.digests.get(index).copied()
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Records that were read.
    pub records: u64,
    /// The newest record of each chain without a fault, by chain: what the next verification takes as
    /// known.
    pub tips: Vec<Tip>,
    /// The faults: of each chain the first.
    pub faults: Vec<Fault>,
}

/// Verifies records. Memory: 32 bytes for each record.
#[derive(Debug, Default)]
pub struct Verifier {
    lines: u64,
    records: u64,
    chains: BTreeMap<ChainId, Chain>,
    /// Records that are known to have existed: of an earlier verification, and those that other records
    /// name.
    known: Vec<Tip>,
    /// The last record that retention removed of each chain, as often as it did.
    removed: BTreeMap<ChainId, Vec<Tip>>,
    faults: Vec<Fault>,
}

/// The members of `detail` that say something about other records.
#[derive(Debug, Default, Deserialize)]
struct Named {
    #[serde(default)]
    tips: Vec<Tip>,
    #[serde(default)]
    removed: Vec<Tip>,
}

impl Verifier {
    /// A verifier that knows of these records: tips of an earlier verification.
    pub fn knowing(tips: Vec<Tip>) -> Self {
        Self {
            known: tips,
            ..Self::default()
        }
    }

    /// Takes the next record, as JSON. The records of a chain come in order; chains may alternate. The
    /// record, where it can be read.
    pub fn add(&mut self, json: &[u8]) -> Option<AuditRecord> {
        self.lines += 1;
        let (record, actual) = match read(json) {
            Ok(read) => read,
            Err(reason) => {
                let line = self.lines;
                self.faults.push(Fault::Unreadable { line, reason });
                return None;
            }
        };
        self.records += 1;
        self.place(&record, actual);
        // What a changed record names is not taken from it.
        if record.digest == actual {
            self.note(&record);
        }
        Some(record)
    }

    /// Judges a record by the one before it.
    fn place(&mut self, record: &AuditRecord, actual: Sha256) {
        let tip = record.tip();
        let is_whole = record.digest == actual;
        let Some(chain) = self.chains.get_mut(&record.chain) else {
            self.chains.insert(
                record.chain.clone(),
                Chain {
                    first: record.sequence,
                    before_first: record.previous,
                    digests: vec![record.digest],
                    is_broken: !is_whole,
                },
            );
            if !is_whole {
                self.faults.push(Fault::Changed(tip));
            }
            return;
        };
        if chain.is_broken {
            return;
        }
        let last = chain.last();
        let fault = if record.sequence <= last {
            // An export that was continued may have a record twice.
            let is_same = is_whole && chain.digest(record.sequence) == Some(record.digest);
            (!is_same).then_some(Fault::Repeated(tip))
        } else if record.sequence != last + 1 {
            let from = last + 1;
            Some(Fault::Missing { from, before: tip })
        } else if !is_whole {
            Some(Fault::Changed(tip))
        } else if Some(record.previous) != chain.digest(last) {
            Some(Fault::Unchained(tip))
        } else {
            chain.digests.push(record.digest);
            None
        };
        if let Some(fault) = fault {
            chain.is_broken = true;
            self.faults.push(fault);
        }
    }

    /// Keeps what a record says about other ones.
    fn note(&mut self, record: &AuditRecord) {
        let named: Named = match record.kind.as_str() {
            "publisher-started" | "retention" => Named::deserialize(&record.detail),
            _other => return,
        }
        .unwrap_or_default();
        self.known.extend(named.tips);
        for tip in named.removed {
            self.removed.entry(tip.chain.clone()).or_default().push(tip);
        }
    }

    /// Judges beginnings and ends, when all records were taken.
    pub fn finish(mut self) -> Report {
        let mut faults = std::mem::take(&mut self.faults);
        for (name, chain) in &mut self.chains {
            let before = Tip {
                chain: name.clone(),
                sequence: chain.first.saturating_sub(1),
                digest: chain.before_first,
            };
            let begins = if chain.first == 1 {
                chain.before_first == Sha256::ZERO
            } else {
                let mut removed = self.removed.get(name).into_iter().flatten();
                removed.any(|tip| *tip == before) || self.known.contains(&before)
            };
            if !begins && !chain.is_broken {
                chain.is_broken = true;
                faults.push(Fault::NoBeginning(Tip {
                    sequence: chain.first,
                    digest: chain.digests[0],
                    ..before
                }));
            }
        }
        // The newest first, so that the fault of a chain names its newest known record.
        self.known.sort_by(|one, other| other.cmp(one));
        self.known.dedup();
        let removed = self.removed.values().flatten().cloned().collect::<Vec<_>>();
        for tip in self.known.iter().chain(&removed) {
            let removed_up_to = self.removed.get(&tip.chain).into_iter().flatten();
            let removed_up_to = removed_up_to.map(|tip| tip.sequence).max().unwrap_or(0);
            let Some(chain) = self.chains.get_mut(&tip.chain) else {
                if tip.sequence > removed_up_to {
                    let missing = |fault: &Fault| matches!(fault, Fault::ChainMissing(named) if named.chain == tip.chain);
                    if !faults.iter().any(missing) {
                        faults.push(Fault::ChainMissing(tip.clone()));
                    }
                }
                continue;
            };
            if chain.is_broken {
                continue;
            }
            // Removed by retention, or before what an export has.
            if tip.sequence < chain.first {
                continue;
            }
            let fault = match chain.digest(tip.sequence) {
                Some(digest) if digest == tip.digest => continue,
                Some(_other) => Fault::Rewritten(tip.clone()),
                None if tip.sequence <= removed_up_to => continue,
                None => Fault::Truncated {
                    known: tip.clone(),
                    last: chain.last(),
                },
            };
            chain.is_broken = true;
            faults.push(fault);
        }
        let whole = self.chains.iter().filter(|(_name, chain)| !chain.is_broken);
        let tips = whole.filter_map(|(name, chain)| {
            Some(Tip {
                chain: name.clone(),
                sequence: chain.last(),
                digest: chain.digest(chain.last())?,
            })
        });
        Report {
            records: self.records,
            tips: tips.collect(),
            faults,
        }
    }
}

/// A record, and the digest that its content has.
fn read(json: &[u8]) -> Result<(AuditRecord, Sha256), String> {
    let record: AuditRecord = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if record.sequence == 0 {
        return Err("the position 0 does not exist".to_owned());
    }
    // A BTreeMap of raw values: members that this version does not know count as well.
    let mut members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(json).map_err(|error| error.to_string())?;
    members.remove(DIGEST);
    let rest = serde_json::to_vec(&members).map_err(|error| error.to_string())?;
    let rest = CanonicalJson::parse(&rest).map_err(|error| error.to_string())?;
    Ok((record, digest(&rest)))
}

/// Whether a text is a record that has its digest.
pub fn is_whole(json: &[u8]) -> bool {
    read(json).is_ok_and(|(record, actual)| record.digest == actual)
}

/// The changes that a record of a write names; none for other kinds.
pub fn changes(record: &AuditRecord) -> Vec<crate::audit::AuditedChange> {
    if !matches!(record.kind.as_str(), "write" | "rollback") {
        return Vec::new();
    }
    let changes = record.detail.get("changes").unwrap_or(&Value::Null);
    Vec::deserialize(changes).unwrap_or_default()
}
