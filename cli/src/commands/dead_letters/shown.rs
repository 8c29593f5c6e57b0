//! Dead letters as a terminal shows them. Nothing here asks a publisher.

use chrono::{DateTime, SecondsFormat, Utc};
use contract::{
    CollectionName,
    dead_letter::{DeadLetter, OriginalFrom},
};

use crate::output;

/// Characters of an original that are shown.
const ORIGINAL: usize = 4_000;

/// One row for each letter.
pub(super) fn table(letters: &[DeadLetter]) -> output::Table {
    let mut table = output::wrapping_table([
        "id", "last", "count", "reason", "document", "state", "detail",
    ]);
    for letter in letters {
        table.add_row([
            letter.id.to_string(),
            time(letter.last),
            letter.count.to_string(),
            reason(letter),
            document(letter),
            state(letter),
            letter.detail.clone().unwrap_or_default(),
        ]);
    }
    table.align_right([2]);
    table
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn reason(letter: &DeadLetter) -> String {
    let reason = letter.reason.as_str();
    match &letter.cause {
        Some(cause) => format!("{reason} ({cause})"),
        None => reason.to_owned(),
    }
}

/// What the event is about.
pub(super) fn document(letter: &DeadLetter) -> String {
    let event = &letter.event;
    let collection = event.collection.as_ref().map(CollectionName::as_str);
    let id = event.document.as_ref().map(|id| id.as_str());
    match (collection, id, event.revision) {
        (Some(collection), Some(id), Some(revision)) => format!("{collection}/{id} at {revision}"),
        (Some(collection), Some(id), None) => format!("{collection}/{id}"),
        (Some(collection), None, _) => collection.to_owned(),
        (None, ..) => event.topic.clone().unwrap_or_default(),
    }
}

fn state(letter: &DeadLetter) -> String {
    match letter.replayed {
        Some(replayed) if !letter.is_open() => format!("replayed {}", time(replayed)),
        Some(_) => "open again".to_owned(),
        None => "open".to_owned(),
    }
}

/// A letter with its original, line by line.
pub(super) fn lines(letter: &DeadLetter) -> Vec<String> {
    let event = &letter.event;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut lines = vec![
        format!("id          {}", letter.id),
        format!("reason      {}", reason(letter)),
        format!("detail      {}", text(&letter.detail)),
        format!(
            "arrivals    {}, first {}, last {}",
            letter.count,
            time(letter.first),
            time(letter.last)
        ),
        format!("state       {}", state(letter)),
        format!("document    {}", document(letter)),
        format!(
            "event       {} of {}",
            text(&event.event_id),
            text(&event.source)
        ),
        format!("topic       {}", text(&event.topic)),
    ];
    if let Some(expiration) = event.expiration {
        lines.push(format!("expiration  {}", time(expiration)));
    }
    if !letter.replicas.is_empty() {
        lines.push(format!("replicas    {}", letter.replicas.join(", ")));
    }
    let kept = match (&letter.original.text, &letter.original.base64) {
        (Some(text), _) => text.chars().take(ORIGINAL).collect(),
        (None, Some(base64)) => {
            format!(
                "(base64) {}",
                base64.chars().take(ORIGINAL).collect::<String>()
            )
        }
        (None, None) => "-".to_owned(),
    };
    let cut = if letter.truncated {
        ", of which the first part is kept"
    } else {
        ""
    };
    let from = match letter.original_from {
        OriginalFrom::Moved => "moved by a sidecar",
        OriginalFrom::Reported => "reported, confirmed by no sidecar",
    };
    lines.push(format!(
        "original    {} bytes{cut}, {from}; --json has all that is kept",
        letter.bytes
    ));
    lines.push(kept);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(replayed: bool) -> DeadLetter {
        let replayed = if replayed {
            r#","replayed":"2026-01-01T00:00:02Z","replays":1"#
        } else {
            ""
        };
        let text = format!(
            r#"{{"id":"9f86d081884c7d659a2feaa0c55ad015","reason":"dropped","cause":"wrong-type",
            "detail":"bad \u001b[2J","first":"2026-01-01T00:00:00Z","last":"2026-01-01T00:00:01Z","count":3,
            "replicas":["r-1"],"event":{{"collection":"A","document":"a","revision":7}},"bytes":9,
            "original":{{"text":"{{}}\n"}}{replayed}}}"#
        );
        serde_json::from_str(&text).expect("a letter")
    }

    #[test]
    fn a_letter_is_shown_with_its_reason_document_and_state() {
        let text = table(&[letter(false), letter(true)]).text();
        for part in [
            "dropped (wrong-type)",
            "A/a at 7",
            "open",
            "replayed 2026-01-01T00:00:02Z",
            "bad \\u001b[2J",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let lines = lines(&letter(true)).join("\n");
        for part in ["arrivals    3,", "replicas    r-1", "9 bytes", "{}"] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
    }
}
