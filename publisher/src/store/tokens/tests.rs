use contract::access::{Grant, Role};

use super::*;

fn record(number: usize, ends: Option<DateTime<Utc>>) -> StoredToken {
    let hash: contract::token::TokenHash = format!("{number:064x}").parse().expect("a hash");
    let record = TokenRecord {
        id: hash.id(),
        name: "a".parse().expect("a name"),
        hash,
        grants: vec![Grant::everywhere(Role::Reader)],
        created_at: DateTime::UNIX_EPOCH,
        created_by: "here".to_owned(),
        expires_at: ends,
        revoked_at: None,
    };
    StoredToken {
        id: number.to_string(),
        record: Some(record),
    }
}

#[test]
fn records_of_tokens_that_ended_long_ago_make_room_and_recent_ones_only_when_it_is_needed() {
    let now = Utc::now();
    let recent = now - TimeDelta::hours(1);
    let old = now - TimeDelta::days(KEEP_ENDED_DAYS + 1);
    let mut stored = vec![
        record(0, Some(old)),
        record(1, Some(recent)),
        record(2, None),
    ];
    assert_eq!(room_for_one(&stored, now), Some(vec!["0".to_owned()]));
    stored.extend((3..MAX_TOKENS).map(|number| record(number, None)));
    let room = room_for_one(&stored, now).expect("room");
    assert_eq!(room, ["0"]);
    stored.push(record(MAX_TOKENS + 1, Some(now + TimeDelta::hours(1))));
    assert_eq!(
        room_for_one(&stored, now),
        Some(vec!["0".to_owned(), "1".to_owned()])
    );
    stored.push(record(MAX_TOKENS + 2, None));
    assert_eq!(room_for_one(&stored, now), None);
}

#[test]
fn a_name_is_given_again_with_the_same_grants_or_when_its_tokens_have_ended() {
    let now = Utc::now();
    let mut new = record(9, None).record.expect("a record");
    new.created_at = now;
    let valid = [record(1, None)];
    assert!(admit(&valid, &new).is_ok());
    new.grants.push(Grant::everywhere(Role::Writer));
    let refused = admit(&valid, &new);
    assert!(matches!(refused, Err(TokenError::NameTaken)), "{refused:?}");
    assert!(admit(&[record(1, Some(now - TimeDelta::hours(1)))], &new).is_ok());
    new.name = "b".parse().expect("a name");
    assert!(admit(&valid, &new).is_ok());
}

#[test]
fn a_damaged_row_gives_no_record_and_keeps_its_place() {
    let whole = serde_json::to_string(&record(1, None).record).expect("JSON");
    let id = "0".repeat(16);
    assert!(StoredToken::new(id.clone(), &whole, true).record.is_some());
    for damaged in [
        StoredToken::new(id.clone(), &whole, false),
        StoredToken::new("1".repeat(16), &whole, true),
        StoredToken::new(id, "{", true),
    ] {
        assert!(damaged.record.is_none());
        assert!(readable(vec![damaged]).is_empty());
    }
}
