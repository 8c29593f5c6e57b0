use contract::fleet::ReplicaRecord;

use super::*;

fn record(name: &str, seen: DateTime<Utc>, at: Instant) -> Record {
    Record {
        row: Arc::new(row(name, seen)),
        at,
    }
}

fn row(name: &str, seen: DateTime<Utc>) -> ReplicaRow {
    let text =
        format!(r#"{{"instance":{name:?},"bootId":"b","intervalMs":2000,"collections":{{}}}}"#);
    let record = ReplicaRecord {
        check_in: serde_json::from_str(&text).expect("a check-in"),
        seen,
        gone: false,
        undelivered: None,
    };
    ReplicaRow {
        record,
        source: Default::default(),
    }
}

/// What is read of these rows, beside these records in memory, of which some are not written.
fn read(rows: &[(&str, DateTime<Utc>, &str)], memory: &[Record], waiting: &[&str]) -> Vec<Record> {
    let newest: HashMap<_, _> = memory
        .iter()
        .map(|record| (record.name().to_owned(), record.clone()))
        .collect();
    let waits = |record: &&Record| waiting.contains(&record.name());
    let waiting = memory.iter().filter(waits);
    let waiting = waiting.map(|record| (record.name().to_owned(), record.clone()));
    let last_read = Some(Instant::now() - Duration::from_secs(1));
    let mut reader = RowReader::new(
        Arc::default(),
        newest,
        waiting.collect(),
        Instant::now(),
        last_read,
    );
    for (name, seen, text) in rows {
        reader.read(StoredReplica {
            name,
            seen: Some(*seen),
            text: text.as_bytes(),
        });
    }
    reader.records()
}

fn json(name: &str, seen: DateTime<Utc>) -> String {
    serde_json::to_string(&row(name, seen)).expect("json")
}

#[test]
fn a_replica_is_gone_after_three_silent_intervals() {
    let at = Instant::now();
    let is_gone = |interval_ms: u64, milliseconds: u64| {
        let mut record = record("a", Utc::now(), at);
        Arc::make_mut(&mut record.row).record.check_in.interval_ms = interval_ms;
        record.is_gone(at + Duration::from_millis(milliseconds))
    };
    assert!(!is_gone(2_000, 6_000) && is_gone(2_000, 6_001));
    assert!(!is_gone(1, 3_000) && is_gone(0, 3_001));
    let days = 86_400_000;
    assert!(!is_gone(u64::MAX, 3 * days) && is_gone(u64::MAX, 3 * days + 1));
}

#[test]
fn a_row_that_is_in_memory_is_shared_and_one_that_cannot_be_read_is_left_out() {
    let seen = Utc::now();
    let known = record("known", seen, Instant::now());
    let new = json("new", seen);
    let other = json("other", seen);
    let rows = [
        ("known", seen, "not parsed"),
        ("broken", seen, "{\"instance\":\"broken\"}"),
        ("empty", seen, ""),
        ("renamed", seen, &*other),
        ("new", seen, &*new),
    ];
    let records = read(&rows, std::slice::from_ref(&known), &[]);
    let names: Vec<_> = records.iter().map(Record::name).collect();
    assert_eq!(names, ["known", "new"]);
    assert!(Arc::ptr_eq(&records[0].row, &known.row));
}

/// The clock of this publisher stepped back, or that of another one is ahead or behind.
#[test]
fn what_came_last_is_newest_whatever_the_clocks_say() {
    let now = Utc::now();
    let hour = TimeDelta::hours(1);
    let recently = Instant::now() - Duration::from_millis(500);
    let own = record("a", now, recently);
    for seen in [now + hour, now - hour] {
        let text = json("a", seen);
        let rows = [("a", seen, &*text)];
        let waits = read(&rows, std::slice::from_ref(&own), &["a"]);
        assert_eq!(waits[0].row.record.seen, now, "it replaces that row");
        let written = read(&rows, std::slice::from_ref(&own), &[]);
        assert_eq!(
            written[0].row.record.seen, seen,
            "it was replaced by that row"
        );
        let is_live = !written[0].is_gone(Instant::now());
        assert!(is_live, "it was written since the last read");
        let later = Instant::now() + Duration::from_secs(12);
        assert!(written[0].is_gone(later), "and says nothing of the future");
    }
    let since = now - TimeDelta::milliseconds(100);
    let text = json("a", since);
    let waits = read(&[("a", since, &*text)], &[own], &["a"]);
    assert_eq!(
        waits[0].row.record.seen, since,
        "a later check-in elsewhere"
    );
}
