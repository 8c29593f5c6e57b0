//! Verifying the chains of an audit log, record by record.
//!
//! A [`Verifier`] takes records in the order of each chain, from a publisher or from an exported file,
//! and names the first record of each chain that is not what a publisher wrote. What it cannot know
//! from the records alone, whether the newest ones are gone, it knows from tips of an earlier
//! verification. An attacker who can rewrite a whole chain and all that names it is found only by such
//! tips. A record of retention proves nothing by itself, because whoever can remove records can write
//! one: it is reported, and does not explain why a known record is gone. Nothing here reads a file or a
//! clock.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    audit::{AuditRecord, ChainId, DIGEST, DamagedRow, Tip, digest},
    canonical::CanonicalJson,
    sha256::Sha256,
};

pub use fault::Fault;
pub use known::{Expectation, KnownTip, Retention};

mod fault;
mod known;

/// The kind of the first record of a chain.
const STARTED: &str = "publisher-started";

/// Rows and lines that cannot be read are named up to this number, and counted from there on.
const MAX_UNREADABLE: usize = 100;

/// One chain as far as it was read.
#[derive(Debug)]
struct Chain {
    /// The position of the first record.
    first: u64,
    /// What the first record is chained to.
    before_first: Sha256,
    /// The digests from the first record on.
    digests: Vec<Sha256>,
    /// When the first record was written, by the clock of the publisher.
    began: DateTime<Utc>,
    /// The time of the last record.
    ended: DateTime<Utc>,
    /// Why it begins another chain, as its first record says.
    reason: Option<String>,
    /// Whether a fault was found; what follows is not judged.
    is_broken: bool,
}

impl Chain {
    fn last(&self) -> u64 {
        self.first + (self.digests.len() as u64 - 1)
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
    pub tips: Vec<KnownTip>,
    /// Why chains began in a store that has one, as their first records say.
    pub reasons: Vec<(ChainId, String)>,
    /// What retention removed, as records say, in the order of the records.
    pub retentions: Vec<Retention>,
    /// The faults: of each chain the first.
    pub faults: Vec<Fault>,
}

/// Verifies records. Memory: 32 bytes for each record.
#[derive(Debug, Default)]
pub struct Verifier {
    lines: u64,
    records: u64,
    unreadable: usize,
    bytes: u64,
    expected: Expectation,
    chains: BTreeMap<ChainId, Chain>,
    /// Records that other records name.
    named: Vec<Tip>,
    retentions: Vec<Retention>,
    faults: Vec<Fault>,
}

/// The members of `detail` that say something about other records.
#[derive(Debug, Default, Deserialize)]
struct Named {
    #[serde(default)]
    tips: Vec<Tip>,
    #[serde(default)]
    removed: Vec<Tip>,
    #[serde(default)]
    reason: Option<String>,
}

impl Verifier {
    /// A verifier that judges by what is known from elsewhere.
    pub fn expecting(expected: Expectation) -> Self {
        Self {
            expected,
            ..Self::default()
        }
    }

    /// Takes the next record, as JSON. The records of a chain come in order; chains may alternate. The
    /// record, where it can be read.
    pub fn add(&mut self, json: &[u8]) -> Option<AuditRecord> {
        self.lines += 1;
        self.bytes += json.len() as u64;
        let (record, actual) = match read(json) {
            Ok(read) => read,
            Err(reason) => {
                self.unreadable += 1;
                if self.unreadable <= MAX_UNREADABLE {
                    let line = self.lines;
                    self.faults.push(match serde_json::from_slice(json) {
                        Ok(DamagedRow { damaged, .. }) => Fault::Damaged(damaged),
                        Err(_other) => Fault::Unreadable { line, reason },
                    });
                }
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
                    began: record.time,
                    ended: record.time,
                    reason: named(record).reason,
                    is_broken: false,
                },
            );
            let fault = if !is_whole {
                Fault::Changed(tip)
            } else if record.sequence == 1 && record.kind != STARTED {
                Fault::NotStarted(tip)
            } else {
                return;
            };
            self.break_chain(fault, &record.chain);
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
            chain.ended = record.time;
            None
        };
        if let Some(fault) = fault {
            self.break_chain(fault, &record.chain);
        }
    }

    /// Adds the first fault of a chain.
    fn break_chain(&mut self, fault: Fault, chain: &ChainId) {
        let chain = self.chains.get_mut(chain);
        if chain.is_some_and(|chain| !std::mem::replace(&mut chain.is_broken, true)) {
            self.faults.push(fault);
        }
    }

    /// Keeps what a record says about other ones.
    fn note(&mut self, record: &AuditRecord) {
        let Named { tips, removed, .. } = named(record);
        self.named.extend(tips);
        if !removed.is_empty() {
            self.retentions.push(Retention {
                record: record.tip(),
                time: record.time,
                actor: record.actor.clone(),
                removed,
            });
        }
    }

    /// Judges beginnings and ends, when all records were taken.
    pub fn finish(mut self) -> Report {
        self.judge_beginnings();
        self.judge_named();
        self.judge_expected();
        if self.unreadable > MAX_UNREADABLE {
            let count = self.unreadable - MAX_UNREADABLE;
            self.faults.push(Fault::FurtherUnreadable { count });
        }
        let whole = self.chains.iter().filter(|(_name, chain)| !chain.is_broken);
        let tips = whole.filter_map(|(name, chain)| {
            Some(KnownTip {
                tip: Tip {
                    chain: name.clone(),
                    sequence: chain.last(),
                    digest: chain.digest(chain.last())?,
                },
                time: Some(chain.ended),
            })
        });
        Report {
            records: self.records,
            tips: tips.collect(),
            reasons: self
                .chains
                .iter()
                .filter_map(|(name, chain)| Some((name.clone(), chain.reason.clone()?)))
                .collect(),
            retentions: self.retentions,
            faults: self.faults,
        }
    }

    /// A chain begins with its first record, or after what retention removed.
    fn judge_beginnings(&mut self) {
        let mut faults = Vec::new();
        for (index, (name, chain)) in self.chains.iter().enumerate() {
            let before = Tip {
                chain: name.clone(),
                sequence: chain.first.saturating_sub(1),
                digest: chain.before_first,
            };
            let first = Tip {
                sequence: chain.first,
                digest: chain.digests[0],
                ..before.clone()
            };
            let begins = if chain.first == 1 {
                chain.before_first == Sha256::ZERO
            } else {
                let mut removed = self.retentions.iter().flat_map(|removal| &removal.removed);
                removed.any(|tip| *tip == before)
                    || self.expected.is_part && self.expected.knows(&before)
            };
            if !begins {
                faults.push(Fault::NoBeginning(first));
            } else if self.expected.one_chain
                && index > 0
                && chain.first == 1
                && chain.reason.is_none()
            {
                faults.push(Fault::SecondChain(first));
            } else if self.expected.is_inserted(name, chain.began) {
                faults.push(Fault::InsertedChain(first));
            }
        }
        self.break_chains(faults);
    }

    /// Records that other records name are there, or retention removed them.
    fn judge_named(&mut self) {
        let removed = self.retentions.iter().flat_map(|removal| &removal.removed);
        let mut tips: Vec<_> = self.named.iter().chain(removed).collect();
        // The newest first, so that the fault of a chain names its newest known record.
        tips.sort_by(|one, other| other.cmp(one));
        tips.dedup();
        let faults = tips
            .into_iter()
            .filter(|tip| self.retention_of(tip).is_none());
        let faults = faults.filter_map(|tip| self.fault_of(tip)).collect();
        self.break_chains(faults);
        // One that retention removed says nothing but what is there: it must be the same.
        let rewritten = self.named.iter().filter_map(|tip| self.fault_of(tip));
        let rewritten = rewritten.filter(|fault| matches!(fault, Fault::Rewritten(_tip)));
        self.break_chains(rewritten.collect());
    }

    /// Records that are known from elsewhere are there. Retention does not explain why one is gone,
    /// unless the settings that the publisher has do, or the caller allows it.
    fn judge_expected(&mut self) {
        let known = std::mem::take(&mut self.expected.tips);
        let mut faults = Vec::new();
        for KnownTip { tip, time } in known.iter().rev() {
            match (self.fault_of(tip), self.retention_of(tip)) {
                (Some(fault @ Fault::Rewritten(_)), _any) => faults.push(fault),
                (None, _any) => {}
                (Some(fault), None) => faults.push(fault),
                (Some(_gone), Some(by)) => {
                    if !self.expected.allows_removed && !self.expected.is_old(*time) {
                        let (known, by) = (tip.clone(), Box::new(by.clone()));
                        faults.push(Fault::Retained { known, by });
                    }
                }
            }
        }
        if !known.is_empty() && self.expected.keeps(self.bytes) {
            let is_known = |removal: &Retention| {
                known.iter().any(|known| {
                    known.tip.chain == removal.record.chain
                        && known.tip.sequence >= removal.record.sequence
                })
            };
            let new = self.retentions.iter().find(|removal| !is_known(removal));
            faults.extend(new.map(|by| Fault::NoRetention(Box::new(by.clone()))));
        }
        self.expected.tips = known;
        self.break_chains(faults);
    }

    /// Why a record that is known is not there; `None` for one that is.
    fn fault_of(&self, tip: &Tip) -> Option<Fault> {
        let Some(chain) = self.chains.get(&tip.chain) else {
            return Some(Fault::ChainMissing(tip.clone()));
        };
        match chain.digest(tip.sequence) {
            Some(digest) if digest == tip.digest => None,
            Some(_other) => Some(Fault::Rewritten(tip.clone())),
            // What an export has not is before it.
            None if tip.sequence < chain.first && self.expected.is_part => None,
            None if tip.sequence < chain.first => Some(Fault::NoBeginning(Tip {
                sequence: chain.first,
                digest: chain.digests[0],
                chain: tip.chain.clone(),
            })),
            None => Some(Fault::Truncated {
                known: tip.clone(),
                last: chain.last(),
            }),
        }
    }

    /// The retention that says that it removed a record.
    fn retention_of(&self, tip: &Tip) -> Option<&Retention> {
        let takes = |removed: &Tip| removed.chain == tip.chain && removed.sequence >= tip.sequence;
        let mut retentions = self.retentions.iter();
        retentions.find(|removal| removal.removed.iter().any(takes))
    }

    /// Adds the first fault of each chain.
    fn break_chains(&mut self, faults: Vec<Fault>) {
        for fault in faults {
            match fault.chain() {
                Some(chain) if self.chains.contains_key(chain) => {
                    let chain = chain.clone();
                    self.break_chain(fault, &chain);
                }
                chain => {
                    let is_named = |other: &Fault| chain.is_some() && other.chain() == chain;
                    if !self.faults.iter().any(is_named) {
                        self.faults.push(fault);
                    }
                }
            }
        }
    }
}

/// What a record says about other ones.
fn named(record: &AuditRecord) -> Named {
    match record.kind.as_str() {
        STARTED | "retention" => Named::deserialize(&record.detail).unwrap_or_default(),
        _other => Named::default(),
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
