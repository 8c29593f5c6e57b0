use super::*;
use crate::store::replicas::CheckInSource;

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
fn the_memory_for_waiting_rows_is_bounded() {
    let check_in: CheckIn =
        serde_json::from_str(r#"{"instance":"","bootId":"b","intervalMs":1,"collections":{}}"#)
            .expect("a check-in");
    let mut waiting = WaitingRows::default();
    let mut put = |number: usize, bytes: usize| {
        let check_in = CheckIn {
            instance: number.to_string(),
            ..check_in.clone()
        };
        let record = ReplicaRecord {
            check_in,
            seen: Utc::now(),
            gone: false,
        };
        waiting.put(
            ReplicaRow {
                record,
                source: CheckInSource::default(),
            },
            bytes,
        );
        (waiting.rows.len(), waiting.bytes)
    };
    assert_eq!(put(0, 10), (1, 10));
    assert_eq!(put(0, 20), (1, 20));
    assert_eq!(put(1, FLEET_BYTES), (1, 20));
    for number in 1..MAX_REPLICAS + 10 {
        put(number, 1);
    }
    assert_eq!(put(0, 30), (MAX_REPLICAS, MAX_REPLICAS - 1 + 30));
}

#[test]
fn a_row_is_listed_while_it_is_written() {
    let text = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{},"seen":"2026-01-01T00:00:00Z","gone":false}"#;
    let row: ReplicaRow = serde_json::from_str(text).expect("a row");
    let mut waiting = WaitingRows::default();
    waiting.put(row.clone(), 10);
    assert_eq!(waiting.begin_write(), vec![row.clone()]);
    assert_eq!((waiting.all(), waiting.bytes), (vec![row.clone()], 0));
    waiting.end_write(false);
    assert_eq!(
        (waiting.all(), waiting.bytes),
        (vec![row.clone()], 10),
        "it waits again"
    );
    waiting.begin_write();
    waiting.end_write(true);
    assert!(waiting.all().is_empty());
}
