//! The bounds of a check-in. Every client that reaches the API can send one, so all of it is checked
//! before any of it is used. Nothing here is stored or logged.

use contract::{
    CollectionName, JsonError, Revision,
    fleet::{CheckIn, CollectionReport, MAX_INSTANCE, MAX_INTERVAL_MS},
    objects,
    release::MAX_VERSION,
    status::{HandlerStatus, MAX_REFUSALS, RefusedValue},
};
use reqwest::Url;

use super::error::FleetError;
use crate::store::replicas::ReplicaRow;

/// Collections in one check-in, and topics that are not subscribed.
const MAX_COLLECTIONS: usize = 256;
/// Longest reason of a collection's state, in bytes.
const MAX_REASON: usize = 256;
/// Longest base URL, in bytes.
const MAX_BASE_URL: usize = 256;
/// Handlers in one check-in.
const MAX_HANDLERS: usize = 64;
/// Bytes of a check-in up to which all of it is kept.
const MAX_KEPT: usize = 16 << 10;
/// Stands for the last error of a replica where the list is full.
const LEFT_OUT: &str =
    "left out, because the list of replicas is full: see the status of the replica";
/// What the allocator takes for a text, besides its bytes.
const HEAP: usize = 16;
/// Bytes of a node of a B-tree besides its entries: counters, and links to 12 children.
const NODE: usize = 128;
/// How many times the name of a replica is in memory beside its record: in the registry, among those
/// that are counted, and with the rows that wait for a write.
const NAMES: usize = 5;
/// Bytes of a record that do not depend on the check-in: the rest of the row, and the entries of maps
/// that hold it.
const FIXED: usize = 512;
/// Each number of the delays that one check-in reports counts as this at most.
const MAX_DELAYS: u64 = 1 << 40;
/// Longest name, pointer or error of a refused value or a handler, in bytes.
const MAX_TEXT: usize = 1_024;

/// Reads a check-in of the replica that the path names.
///
/// # Errors
/// [`FleetError::InvalidInstance`], or [`FleetError::InvalidCheckIn`] with the pointer at fault.
pub(super) fn read(instance: &str, body: &[u8]) -> Result<CheckIn, FleetError> {
    let mut check_in: CheckIn = objects::from_slice_located(body)
        .map_err(|JsonError { pointer, reason }| invalid(&pointer, reason))?;
    if !is_name(instance) {
        return Err(FleetError::InvalidInstance {
            reason: "expected 1 to 128 visible ASCII characters",
        });
    }
    // The path is what proxies and logs show, so the body must not name another replica.
    if check_in.instance != instance {
        return Err(invalid(
            "/instance",
            "expected the name that is in the path",
        ));
    }
    if !is_name(&check_in.boot_id) {
        return Err(invalid(
            "/bootId",
            "expected 1 to 128 visible ASCII characters",
        ));
    }
    if let Some(url) = &check_in.base_url {
        base_url(url).map_err(|reason| invalid("/baseUrl", reason))?;
    }
    if !(1..=MAX_INTERVAL_MS).contains(&check_in.interval_ms) {
        let reason = format_args!("expected 1 to {MAX_INTERVAL_MS} milliseconds");
        return Err(invalid("/intervalMs", reason));
    }
    if check_in.collections.len() > MAX_COLLECTIONS {
        let reason = format_args!("expected at most {MAX_COLLECTIONS} collections");
        return Err(invalid("/collections", reason));
    }
    if check_in.topics_not_subscribed.len() > MAX_COLLECTIONS {
        let reason = format_args!("expected at most {MAX_COLLECTIONS} collections");
        return Err(invalid("/topicsNotSubscribed", reason));
    }
    for (name, report) in &check_in.collections {
        check_report(&format!("/collections/{name}"), report)?;
    }
    if check_in.handlers.len() > MAX_HANDLERS || !check_in.handlers.iter().all(handler_fits) {
        let reason = format_args!(
            "expected at most {MAX_HANDLERS} with texts of at most {MAX_TEXT} bytes, and revisions of 63 bits"
        );
        return Err(invalid("/handlers", reason));
    }
    if !is_revision(check_in.failing_handlers) {
        let reason = format_args!("expected at most {}", i64::MAX);
        return Err(invalid("/failingHandlers", reason));
    }
    // Nothing is decided by them, so what cannot be is cut off, and refuses no check-in.
    if let Some(delays) = &mut check_in.apply_delays {
        delays.limit(MAX_DELAYS);
    }
    if !check_in.last_error.as_deref().is_none_or(is_short) {
        let reason = format_args!("expected at most {MAX_TEXT} bytes");
        return Err(invalid("/lastError", reason));
    }
    Ok(check_in)
}

/// What is kept of a check-in of this many bytes: the texts of a large one are left out. The replica
/// itself shows them in its status.
pub(super) fn kept(check_in: &CheckIn, bytes: usize) -> CheckIn {
    let mut check_in = check_in.clone();
    // They are counted when the check-in is answered.
    check_in.apply_delays = None;
    if bytes > MAX_KEPT {
        for handler in &mut check_in.handlers {
            handler.error = None;
        }
        for report in check_in.collections.values_mut() {
            report.refusals = Vec::new();
        }
    }
    check_in
}

/// Leaves out all that a service says in words or lists, and keeps how far it is.
pub(super) fn leave_out_texts(check_in: &mut CheckIn) {
    check_in.failing_handlers = check_in.failing_handlers();
    check_in.handlers = Vec::new();
    check_in.topics_not_subscribed.clear();
    check_in.last_error = check_in.last_error.take().map(|_error| LEFT_OUT.to_owned());
    for report in check_in.collections.values_mut() {
        let listed = report.refusals.len() as u64;
        report.refused_values = report.refused_values.max(listed);
        report.refusals = Vec::new();
        report.reason = None;
    }
}

/// What a row counts for, whose JSON has this many bytes: the larger one of JSON and memory, because it
/// is kept in memory and read from the store.
pub(super) fn cost(row: &ReplicaRow, json: usize) -> usize {
    let ReplicaRow { record, source } = row;
    let names = record.check_in.instance.len() * NAMES;
    let follows = source.follows.iter().flatten();
    let source = text(source.caller.as_deref()) + text(source.loopback.as_deref());
    let source = source + set(follows) + set(row.source.ahead.iter());
    (FIXED + names + source + memory(&record.check_in)).max(json)
}

/// Bytes of memory that a check-in takes: what it points to, and itself.
pub(super) fn memory(check_in: &CheckIn) -> usize {
    let CheckIn {
        instance,
        boot_id,
        base_url,
        collections,
        topics_not_subscribed,
        handlers,
        last_error,
        ..
    } = check_in;
    let texts = [
        Some(instance),
        Some(boot_id),
        base_url.as_ref(),
        last_error.as_ref(),
    ];
    let texts = texts.map(|one| text(one.map(String::as_str)));
    let reports = collections.iter().map(|(name, report)| {
        let refusals = report.refusals.iter().map(|refusal| {
            let texts = [refusal.id.as_str(), &refusal.pointer, &refusal.error];
            texts.map(|one| text(Some(one))).iter().sum::<usize>()
        });
        text(Some(name.as_str()))
            + text(report.reason.as_deref())
            + report.refusals.capacity() * size_of::<RefusedValue>()
            + refusals.sum::<usize>()
    });
    let errors = handlers.iter().map(|handler| {
        let texts = [handler.name.as_str(), handler.collection.as_str()];
        texts.map(|one| text(Some(one))).iter().sum::<usize>() + text(handler.error.as_deref())
    });
    size_of::<CheckIn>()
        + MAX_VERSION
        + texts.iter().sum::<usize>()
        + tree(
            collections.len(),
            size_of::<(CollectionName, CollectionReport)>(),
        )
        + reports.sum::<usize>()
        + set(topics_not_subscribed.iter())
        + handlers.capacity() * size_of::<HandlerStatus>()
        + errors.sum::<usize>()
}

/// A text on the heap.
fn text(text: Option<&str>) -> usize {
    text.map_or(0, |text| text.len() + HEAP)
}

fn set<'a>(names: impl Iterator<Item = &'a CollectionName>) -> usize {
    let texts: Vec<_> = names.map(|name| text(Some(name.as_str()))).collect();
    tree(texts.len(), size_of::<CollectionName>()) + texts.iter().sum::<usize>()
}

/// The nodes of a B-tree, which have places for 11 entries and at least 5 of them, except a single one.
fn tree(entries: usize, entry: usize) -> usize {
    let nodes = match entries {
        0..=11 => entries.min(1),
        _more => entries.div_ceil(5),
    };
    nodes * (11 * entry + NODE)
}

/// Stores hold 63 bits of a revision.
fn is_revision(revision: Revision) -> bool {
    i64::try_from(revision).is_ok()
}

fn check_report(pointer: &str, report: &CollectionReport) -> Result<(), FleetError> {
    let settled = report.settled.map_or(0, |settled| settled.revision);
    let claimed = report.claimed.unwrap_or(0);
    let refused = report.refused_values;
    let mut revisions = vec![report.revision, report.known, settled, claimed, refused];
    revisions.extend(report.refusals.iter().map(|refusal| refusal.revision));
    if !revisions.into_iter().all(is_revision) {
        let reason = format_args!("expected revisions and numbers of at most {}", i64::MAX);
        return Err(invalid(pointer, reason));
    }
    let reason = report.reason.as_deref().unwrap_or_default();
    if reason.len() > MAX_REASON {
        let reason = format_args!("expected at most {MAX_REASON} bytes");
        return Err(invalid(&format!("{pointer}/reason"), reason));
    }
    let texts_fit = report
        .refusals
        .iter()
        .all(|refusal| is_short(&refusal.pointer) && is_short(&refusal.error));
    if report.refusals.len() > MAX_REFUSALS || !texts_fit {
        let reason =
            format_args!("expected at most {MAX_REFUSALS} with texts of at most {MAX_TEXT} bytes");
        return Err(invalid(&format!("{pointer}/refusals"), reason));
    }
    Ok(())
}

fn handler_fits(handler: &HandlerStatus) -> bool {
    is_revision(handler.revision)
        && is_short(&handler.name)
        && handler.error.as_deref().is_none_or(is_short)
}

/// The root of a replica's URL. Every client that lists the replicas reads it, so it must not hold a
/// password.
///
/// # Errors
/// What is expected, when it is not such a URL.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    if text.len() > MAX_BASE_URL {
        return Err(format!("expected at most {MAX_BASE_URL} bytes"));
    }
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("expected http://HOST:PORT or https://HOST:PORT".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected no user and no password".to_owned());
    }
    // Only the root is used: routes come from the subscriptions of the replica.
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn is_short(text: &str) -> bool {
    text.len() <= MAX_TEXT
}

fn is_name(text: &str) -> bool {
    (1..=MAX_INSTANCE).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn invalid(pointer: &str, reason: impl std::fmt::Display) -> FleetError {
    FleetError::InvalidCheckIn {
        pointer: pointer.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_in_beyond_a_bound_is_refused_with_the_pointer() {
        let good = r#"{"instance":"a","bootId":"b","baseUrl":"http://h:1/x?y","intervalMs":1,"collections":{}}"#;
        assert!(read("a", good.as_bytes()).is_ok());
        let long = "x".repeat(129);
        for (from, to, pointer) in [
            (r#""a""#, r#""b""#, "/instance"),
            (r#""b""#, r#""""#, "/bootId"),
            (r#""b""#, &format!("{long:?}") as &str, "/bootId"),
            ("http://h:1", "ftp://h:1", "/baseUrl"),
            ("http://h:1", "http://u:p@h:1", "/baseUrl"),
            (
                "http://h:1",
                &format!("http://{}:1", "h".repeat(256)),
                "/baseUrl",
            ),
            ("1,", "-1,", "/intervalMs"),
            ("1,", "0,", "/intervalMs"),
            ("1,", "86400001,", "/intervalMs"),
            ("1,", "18446744073709551615,", "/intervalMs"),
            (
                "1,",
                r#"1,"failingHandlers":9223372036854775808,"#,
                "/failingHandlers",
            ),
            (
                "1,",
                &format!(r#"1,"lastError":"{}","#, "e".repeat(1_025)),
                "/lastError",
            ),
        ] {
            let error = read("a", good.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert!(
                matches!(&error, FleetError::InvalidCheckIn { pointer: at, .. } if at == pointer),
                "{to}: {error:?}"
            );
        }
        let handler = |size: usize| {
            let error = "x".repeat(size);
            format!(
                r#"{{"name":"A","collection":"A","state":"failing","revision":1,"error":"{error}"}}"#
            )
        };
        for (count, size, fits) in [(64, 1_024, true), (65, 1, false), (1, 1_025, false)] {
            let handlers = vec![handler(size); count].join(",");
            let body = good.replace(
                r#""intervalMs""#,
                &format!(r#""handlers":[{handlers}],"intervalMs""#),
            );
            assert_eq!(
                read("a", body.as_bytes()).is_ok(),
                fits,
                "{count} of {size}"
            );
        }
        for (count, fits) in [(256, true), (257, false)] {
            let names: Vec<_> = (0..count).map(|number| format!("C{number}")).collect();
            let body = good.replace(
                r#""intervalMs""#,
                &format!(r#""topicsNotSubscribed":{names:?},"intervalMs""#),
            );
            assert_eq!(read("a", body.as_bytes()).is_ok(), fits, "{count} topics");
        }
        for (count, size, fits) in [(20, 1_024, true), (21, 1, false), (1, 1_025, false)] {
            let refusal = format!(
                r#"{{"id":"x","revision":1,"pointer":"","error":"{}"}}"#,
                "x".repeat(size)
            );
            let refusals = vec![refusal; count].join(",");
            let report =
                format!(r#"{{"revision":1,"known":1,"state":"current","refusals":[{refusals}]}}"#);
            let body = good.replace(
                r#""collections":{}"#,
                &format!(r#""collections":{{"A":{report}}}"#),
            );
            assert_eq!(
                read("a", body.as_bytes()).is_ok(),
                fits,
                "{count} of {size}"
            );
        }
        // An array with the values of a check-in in their order.
        assert!(read("a", br#"["a","b",null,1,null,{}]"#).is_err());
        assert!(
            read(
                &long,
                good.replacen("\"a\"", &format!("{long:?}"), 1).as_bytes()
            )
            .is_err()
        );
        assert_eq!(
            base_url("http://h:1/x?y#z").expect("valid").as_str(),
            "http://h:1/"
        );
    }
}
