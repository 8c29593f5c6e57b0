//! Chains that were tampered with: what is found, and what only a known tip finds.

use chrono::TimeZone;
use proptest::prelude::*;

use super::{verify::*, *};

fn chain(name: &str) -> ChainId {
    name.parse().expect("a chain")
}

fn entry(n: u64, event: AuditEvent) -> Entry {
    let time = Utc
        .timestamp_opt(1_800_000_000, 0)
        .single()
        .expect("a time");
    Entry::done(time, format!("token:{n}"), event)
}

fn refusal(n: u64) -> AuditEvent {
    AuditEvent::Refusal(Refusal {
        reason: "forbidden".to_owned(),
        right: None,
        target: format!("PUT {n}"),
        count: n,
    })
}

/// A chain of a start and `count` further records.
fn records(name: &str, tips: Vec<Tip>, count: u64) -> Vec<SealedRecord> {
    let start = AuditEvent::PublisherStarted {
        publisher: "p".to_owned(),
        version: "1".to_owned(),
        tips,
        reason: None,
    };
    let mut sealed: Vec<SealedRecord> = Vec::new();
    for (n, event) in std::iter::once(start)
        .chain((1..=count).map(refusal))
        .enumerate()
    {
        let last = sealed.last().map(|record| &record.tip);
        let next = entry(n as u64, event).seal(&chain(name), last);
        sealed.push(next.expect("sealed"));
    }
    sealed
}

fn texts(records: &[SealedRecord]) -> Vec<String> {
    let texts = records.iter().map(|record| record.text.as_str().to_owned());
    texts.collect()
}

/// What is expected of whoever knows of these records.
fn knowing(tips: Vec<Tip>) -> Expectation {
    Expectation {
        tips: tips.into_iter().map(KnownTip::from).collect(),
        ..Expectation::default()
    }
}

fn verified(known: Vec<Tip>, lines: &[String]) -> Report {
    judged(knowing(known), lines)
}

fn judged(expected: Expectation, lines: &[String]) -> Report {
    let mut verifier = Verifier::expecting(expected);
    for line in lines {
        verifier.add(line.as_bytes());
    }
    verifier.finish()
}

#[test]
fn a_chain_is_verified_and_its_tip_is_what_was_sealed_last() {
    let sealed = records("a", Vec::new(), 5);
    let report = verified(Vec::new(), &texts(&sealed));
    assert_eq!((report.records, report.faults), (6, Vec::new()));
    let tips: Vec<_> = report.tips.into_iter().map(|known| known.tip).collect();
    assert_eq!(tips, [sealed[5].tip.clone()]);
    // In another encoding it is the same record.
    let pretty: Vec<_> = texts(&sealed)
        .iter()
        .map(|text| {
            let value: Value = serde_json::from_str(text).expect("json");
            serde_json::to_string_pretty(&value).expect("json")
        })
        .collect();
    assert_eq!(verified(tips, &pretty).faults, []);
}

#[test]
fn a_truncated_chain_is_found_by_a_known_tip_and_by_a_later_chain() {
    let first = records("a", Vec::new(), 5);
    let tip = first[5].tip.clone();
    let cut = texts(&first[..4]);
    assert_eq!(
        verified(Vec::new(), &cut).faults,
        [],
        "nothing names its end"
    );
    let truncated = Fault::Truncated {
        known: tip.clone(),
        last: 4,
    };
    assert_eq!(
        verified(vec![tip.clone()], &cut).faults,
        std::slice::from_ref(&truncated)
    );
    let later = texts(&records("b", vec![tip.clone()], 1));
    assert_eq!(
        verified(Vec::new(), &[cut, later.clone()].concat()).faults,
        [truncated]
    );
    assert_eq!(
        verified(Vec::new(), &later).faults,
        [Fault::ChainMissing(tip)]
    );
}

#[test]
fn a_rewritten_chain_is_found_by_a_known_tip() {
    let before = records("a", Vec::new(), 5);
    let mut rewritten = before[..2].to_vec();
    for n in 10..15 {
        let last = rewritten.last().map(|record| &record.tip);
        let next = entry(n, refusal(n))
            .seal(&chain("a"), last)
            .expect("sealed");
        rewritten.push(next);
    }
    let lines = texts(&rewritten);
    assert_eq!(verified(Vec::new(), &lines).faults, [], "it is a chain");
    let tip = before[4].tip.clone();
    assert_eq!(
        verified(vec![tip.clone()], &lines).faults,
        [Fault::Rewritten(tip)]
    );
}

#[test]
fn a_beginning_that_retention_removed_is_no_fault_and_any_other_is() {
    let mut sealed = records("a", Vec::new(), 5);
    let removed = sealed[2].tip.clone();
    let anchor = AuditEvent::Retention {
        removed: vec![removed.clone()],
    };
    let last = sealed.last().map(|record| &record.tip);
    let anchor = entry(9, anchor).seal(&chain("a"), last).expect("sealed");
    sealed.push(anchor);
    let lines = texts(&sealed);
    assert_eq!(
        verified(Vec::new(), &lines).faults,
        [],
        "before it is removed"
    );
    assert_eq!(verified(Vec::new(), &lines[3..]).faults, []);
    let fault = Fault::NoBeginning(sealed[4].tip.clone());
    assert_eq!(verified(Vec::new(), &lines[4..]).faults, [fault]);
    // A part of the log after a known tip: an export may be one, the log of a publisher is not.
    let known = knowing(vec![sealed[3].tip.clone()]);
    let part = Expectation {
        is_part: true,
        ..known.clone()
    };
    assert_eq!(judged(part, &lines[4..]).faults, []);
    let fault = Fault::NoBeginning(sealed[4].tip.clone());
    assert_eq!(judged(known, &lines[4..]).faults, [fault]);
    // The chain is gone as a whole, and the record of its removal is in another one.
    let gone = AuditEvent::Retention {
        removed: vec![sealed[6].tip.clone()],
    };
    let mut other = records("b", vec![sealed[6].tip.clone()], 0);
    let next = entry(1, gone).seal(&chain("b"), Some(&other[0].tip));
    other.push(next.expect("sealed"));
    assert_eq!(verified(Vec::new(), &texts(&other)).faults, []);
}

/// A chain of a start and a retention that removed these.
fn wiped(name: &str, removed: Vec<Tip>) -> Vec<SealedRecord> {
    let mut sealed = records(name, Vec::new(), 0);
    let retention = entry(1, AuditEvent::Retention { removed });
    let next = retention.seal(&chain(name), Some(&sealed[0].tip));
    sealed.push(next.expect("sealed"));
    sealed
}

/// Whoever can remove records can write a record of retention too.
#[test]
fn retention_does_not_explain_why_a_known_record_is_gone() {
    let tip = records("a", Vec::new(), 5)[5].tip.clone();
    let sealed = wiped("b", vec![tip.clone()]);
    let lines = texts(&sealed);
    let report = verified(vec![tip.clone()], &lines);
    assert!(
        matches!(&report.faults[..], [Fault::Retained { known, by }]
            if *known == tip && by.record == sealed[1].tip),
        "{:?}",
        report.faults
    );
    // In the same chain, after all that was there.
    let last = Tip {
        sequence: 6,
        ..tip.clone()
    };
    let event = AuditEvent::Retention {
        removed: vec![last.clone()],
    };
    let anchor = entry(9, event).seal(&chain("a"), Some(&last));
    let anchor = texts(&[anchor.expect("sealed")]);
    let faults = verified(vec![tip.clone()], &anchor).faults;
    assert!(
        matches!(&faults[..], [Fault::Retained { .. }]),
        "{faults:?}"
    );
    // Without a known record it is said at least, and whoever meant it can say so.
    let unknown = verified(Vec::new(), &lines);
    assert_eq!((unknown.faults.len(), unknown.retentions.len()), (0, 1));
    assert!(
        unknown.retentions[0]
            .to_string()
            .contains("chain a up to record 6")
    );
    let allowed = Expectation {
        allows_removed: true,
        ..knowing(vec![tip])
    };
    assert_eq!(judged(allowed, &lines).faults, []);
}

#[test]
fn a_known_record_may_be_gone_when_it_is_older_than_the_publisher_keeps_records() {
    let tip = records("a", Vec::new(), 5)[5].tip.clone();
    let lines = texts(&wiped("b", vec![tip.clone()]));
    let time = entry(0, refusal(0)).time;
    let after = |days| Expectation {
        tips: vec![KnownTip {
            tip: tip.clone(),
            time: Some(time),
        }],
        retention: Some(AuditRetention {
            keep_days: 30,
            keep_bytes: u64::MAX,
        }),
        now: Some(time + chrono::TimeDelta::days(days)),
        ..Expectation::default()
    };
    assert_eq!(judged(after(30), &lines).faults, []);
    assert_eq!(judged(after(29), &lines).faults.len(), 1);
}

#[test]
fn a_retention_of_a_publisher_that_keeps_all_records_is_a_fault() {
    let mut sealed = records("a", Vec::new(), 5);
    let known = sealed[4].tip.clone();
    let event = AuditEvent::Retention {
        removed: vec![sealed[2].tip.clone()],
    };
    let anchor = entry(9, event).seal(&chain("a"), Some(&sealed[5].tip));
    sealed.push(anchor.expect("sealed"));
    let lines = &texts(&sealed)[3..];
    let keeping = |keep_bytes, known: &Tip| Expectation {
        retention: Some(AuditRetention {
            keep_days: 0,
            keep_bytes,
        }),
        ..knowing(vec![known.clone()])
    };
    let faults = judged(keeping(u64::MAX, &known), lines).faults;
    assert!(matches!(&faults[..], [Fault::NoRetention(_)]), "{faults:?}");
    // The log is as large as it may be, or the retention was there before.
    assert_eq!(judged(keeping(1_000, &known), lines).faults, []);
    let later = keeping(u64::MAX, &sealed[6].tip);
    assert_eq!(judged(later, lines).faults, []);
}

#[test]
fn an_invented_chain_is_found() {
    let whole = records("a", Vec::new(), 2);
    let invented = entry(1, refusal(1)).seal(&chain("b"), None);
    let invented = invented.expect("sealed");
    let lines = [texts(&whole), texts(std::slice::from_ref(&invented))].concat();
    let fault = Fault::NotStarted(invented.tip);
    assert_eq!(verified(Vec::new(), &lines).faults, [fault]);
    // It begins as a chain of a publisher does.
    let started = records("b", Vec::new(), 1);
    let lines = [texts(&whole), texts(&started)].concat();
    let one_chain = Expectation {
        one_chain: true,
        ..Expectation::default()
    };
    let fault = Fault::SecondChain(started[0].tip.clone());
    assert_eq!(judged(one_chain, &lines).faults, [fault]);
    let later = whole[2].tip.clone();
    let known = Expectation {
        tips: vec![KnownTip {
            tip: later,
            time: Some(entry(0, refusal(0)).time + chrono::TimeDelta::hours(1)),
        }],
        ..Expectation::default()
    };
    let fault = Fault::InsertedChain(started[0].tip.clone());
    assert_eq!(judged(known, &lines).faults, [fault]);
}

#[test]
fn a_damaged_row_is_a_fault() {
    let row = DamagedRow {
        damaged: "row 7 of chain a".to_owned(),
        text: "{".to_owned(),
    };
    let mut lines = texts(&records("a", Vec::new(), 2));
    lines.push(serde_json::to_string(&row).expect("json"));
    let faults = verified(Vec::new(), &lines).faults;
    assert_eq!(faults, [Fault::Damaged(row.damaged)]);
    // Very many do not fill the memory.
    lines.extend(vec!["{".to_owned(); 1_000]);
    let faults = verified(Vec::new(), &lines).faults;
    let further = Fault::FurtherUnreadable { count: 901 };
    assert_eq!((faults.len(), faults.last()), (101, Some(&further)));
}

#[test]
fn a_record_of_a_later_version_is_verified() {
    let texts = texts(&records("a", Vec::new(), 1));
    let mut value: serde_json::Map<String, Value> = serde_json::from_str(&texts[1]).expect("json");
    value.insert("kind".to_owned(), "something-new".into());
    value.insert("later".to_owned(), true.into());
    value.remove("digest");
    let rest = CanonicalJson::of(&Value::Object(value.clone())).expect("json");
    value.insert("digest".to_owned(), digest(&rest).to_string().into());
    let text = Value::Object(value).to_string();
    let lines = [texts[0].clone(), text];
    assert_eq!(verified(Vec::new(), &lines).faults, []);
}

#[test]
fn the_digest_of_a_change_is_that_of_its_json() {
    let json = r#"{"collection":"A","op":"Update","id":"a","revision":7,"epoch":"00000001-1","lastSet":0,
        "configData":{"b":1,"a":9007199254740993},"crc":"00000000","time":"2026-11-21T09:00:00.123Z",
        "count":1,"digest":"0000000000000000","userId":"u"}"#;
    let change: crate::Change = serde_json::from_str(json).expect("a change");
    let digest = AuditedChange::digest(&change);
    assert_eq!(AuditedChange::digest_of_json(json.as_bytes()), Ok(digest));
    for (from, to) in [
        ("\"u\"", "\"v\""),
        ("\"b\":1", "\"b\":2"),
        ("\"crc\"", "\"new\""),
    ] {
        let other = json.replace(from, to);
        assert_ne!(
            AuditedChange::digest_of_json(other.as_bytes()),
            Ok(digest),
            "{from}"
        );
    }
}

/// What an attacker does to the lines of two chains.
#[derive(Debug, Clone)]
enum Tampering {
    /// One byte is another one.
    Byte {
        line: usize,
        at: usize,
        to: u8,
    },
    Remove(usize),
    /// A copy of a line is put elsewhere.
    Insert {
        line: usize,
        at: usize,
    },
    Swap(usize, usize),
    /// A record gets other content and a digest that fits.
    Reseal(usize),
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let index = any::<usize>;
    prop_oneof![
        4 => (index(), index(), any::<u8>()).prop_map(|(line, at, to)| Tampering::Byte { line, at, to }),
        1 => index().prop_map(Tampering::Remove),
        1 => (index(), index()).prop_map(|(line, at)| Tampering::Insert { line, at }),
        1 => (index(), index()).prop_map(|(one, other)| Tampering::Swap(one, other)),
        1 => index().prop_map(Tampering::Reseal),
    ]
}

/// The records of each chain, in order and parsed: what an auditor reads. Repetitions of a whole record
/// are left out.
fn content(lines: &[Vec<u8>]) -> Option<BTreeMapOfChains> {
    let mut chains = BTreeMapOfChains::new();
    for line in lines {
        let value: Value = serde_json::from_slice(line).ok()?;
        let name = value.get("chain")?.as_str()?.to_owned();
        let records = chains.entry(name).or_default();
        if !records.contains(&value) {
            records.push(value);
        }
    }
    Some(chains)
}

type BTreeMapOfChains = std::collections::BTreeMap<String, Vec<Value>>;

proptest! {
    /// With the tips known, every tampering is found that changes what an auditor reads.
    #[test]
    fn tampering_is_found(tampering in tampering()) {
        let first = records("a", Vec::new(), 4);
        let second = records("b", vec![first[4].tip.clone()], 3);
        let known = vec![first[4].tip.clone(), second[3].tip.clone()];
        let whole: Vec<Vec<u8>> = texts(&[first, second].concat())
            .into_iter()
            .map(String::into_bytes)
            .collect();
        let mut lines = whole.clone();
        let count = lines.len();
        match tampering {
            Tampering::Byte { line, at, to } => {
                let line = &mut lines[line % count];
                let at = at % line.len();
                line[at] = to;
            }
            Tampering::Remove(line) => {
                lines.remove(line % count);
            }
            Tampering::Insert { line, at } => {
                let copy = lines[line % count].clone();
                lines.insert(at % (count + 1), copy);
            }
            Tampering::Swap(one, other) => lines.swap(one % count, other % count),
            Tampering::Reseal(line) => {
                let line = &mut lines[line % count];
                let mut value: serde_json::Map<String, Value> =
                    serde_json::from_slice(line).expect("json");
                value.insert("actor".to_owned(), "token:other".into());
                value.remove("digest");
                let rest = CanonicalJson::of(&Value::Object(value.clone())).expect("json");
                value.insert("digest".to_owned(), digest(&rest).to_string().into());
                *line = Value::Object(value).to_string().into_bytes();
            }
        }
        let mut verifier = Verifier::expecting(knowing(known));
        for line in &lines {
            verifier.add(line);
        }
        let report = verifier.finish();
        if content(&lines) == content(&whole) {
            // The order of chains among each other says nothing, nor does a record that is there twice.
            prop_assert!(report.faults.is_empty(), "{:?}", report.faults);
        } else {
            prop_assert!(!report.faults.is_empty());
        }
    }
}
