use super::*;

const CHECK_IN: &str = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":{}}"#;

fn row(interval_ms: u64, at: Instant) -> Record {
    let check_in: CheckIn = serde_json::from_str(CHECK_IN).expect("a check-in");
    let record = ReplicaRecord {
        check_in: CheckIn {
            interval_ms,
            ..check_in
        },
        seen: Utc::now(),
        gone: false,
        undelivered: None,
    };
    let source = CheckInSource::default();
    let row = Arc::new(ReplicaRow { record, source });
    Record { row, at }
}

#[test]
fn a_row_is_listed_while_it_is_written() {
    let now = Instant::now();
    let at = |rows: &WaitingRows| rows.all().get("a").map(|record| record.at);
    let mut waiting = WaitingRows::default();
    waiting.put(row(1, now));
    assert_eq!(waiting.begin_write().len(), 1);
    assert_eq!(at(&waiting), Some(now));
    waiting.end_write(false);
    assert_eq!(at(&waiting), Some(now), "it waits again");
    let later = now + Duration::from_secs(1);
    waiting.begin_write();
    waiting.put(row(1, later));
    waiting.end_write(false);
    waiting.put(row(1, now));
    assert_eq!(at(&waiting), Some(later), "the newest of a replica waits");
    waiting.begin_write();
    waiting.end_write(true);
    assert!(waiting.all().is_empty());
}

#[test]
fn a_name_is_owned_for_minutes_whatever_interval_its_caller_says() {
    let now = Instant::now();
    let owned_for = |interval_ms| owned_until(&row(interval_ms, now)) - now;
    assert_eq!(owned_for(10_000), Duration::from_secs(30));
    assert_eq!(owned_for(86_400_000), MAX_OWNED);
}
