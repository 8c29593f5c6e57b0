use super::*;

#[test]
fn a_replica_is_gone_after_three_silent_intervals() {
    let text = r#"{"instance":"a","bootId":"b","intervalMs":2000,"collections":{}}"#;
    let check_in: CheckIn = serde_json::from_str(text).expect("a check-in");
    let now = Utc::now();
    let silent_for = |milliseconds: i64, interval_ms: u64| {
        let check_in = CheckIn {
            interval_ms,
            ..check_in.clone()
        };
        is_gone(
            &ReplicaRecord {
                check_in,
                seen: now - TimeDelta::milliseconds(milliseconds),
                gone: false,
                undelivered: None,
            },
            now,
        )
    };
    assert!(!silent_for(6_000, 2_000) && silent_for(6_001, 2_000));
    assert!(!silent_for(3_000, 1) && silent_for(3_001, 0));
    let days = 86_400_000;
    assert!(!silent_for(3 * days, u64::MAX) && silent_for(3 * days + 1, u64::MAX));
    assert!(
        !silent_for(-5_000, 1),
        "the clock of the publisher before ran ahead"
    );
}

#[test]
fn a_row_is_listed_while_it_is_written() {
    let text = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{},"seen":"2026-01-01T00:00:00Z","gone":false}"#;
    let row: ReplicaRow = serde_json::from_str(text).expect("a row");
    let mut waiting = WaitingRows::default();
    waiting.put(row.clone());
    assert_eq!(waiting.begin_write(), vec![row.clone()]);
    assert_eq!(waiting.all(), vec![row.clone()]);
    waiting.end_write(false);
    assert_eq!(waiting.all(), vec![row.clone()], "it waits again");
    let mut newer = row.clone();
    newer.record.seen += TimeDelta::seconds(1);
    waiting.put(newer.clone());
    waiting.put(row);
    assert_eq!(waiting.all(), vec![newer], "the newest of a replica waits");
    waiting.begin_write();
    waiting.end_write(true);
    assert!(waiting.all().is_empty());
}

#[test]
fn a_name_is_owned_for_minutes_whatever_interval_its_caller_says() {
    let owned_for = |interval_ms: u64| {
        let text = format!(
            r#"{{"instance":"a","bootId":"b","intervalMs":{interval_ms},"collections":{{}},"seen":"2026-01-01T00:00:00Z","gone":false}}"#
        );
        let record: ReplicaRecord = serde_json::from_str(&text).expect("a record");
        owned_until(&record) - record.seen
    };
    assert_eq!(owned_for(10_000), TimeDelta::seconds(30));
    assert_eq!(owned_for(86_400_000), MAX_OWNED);
}
