//! `confcast audit` with a publisher of the test: an export is continued, and what was tampered with is
//! named.

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::mpsc, thread};

use actix_web::{App, HttpResponse, HttpServer, web};
use contract::{
    Change, Problem, ProblemKind,
    audit::{AuditEvent, AuditedChange, Entry, SealedRecord, WriteDetail},
};
use serde_json::{Value, json};

/// A chain of some records.
fn records(count: usize) -> Vec<SealedRecord> {
    let chain = "0190b6a1-1".parse().expect("a chain");
    let mut records: Vec<SealedRecord> = Vec::new();
    for n in 0..count {
        let event = if n == 0 {
            AuditEvent::PublisherStarted {
                publisher: "p".to_owned(),
                version: "1".to_owned(),
                tips: Vec::new(),
                reason: None,
            }
        } else {
            AuditEvent::SnapshotCreated {
                name: format!("s{n}").parse().expect("a name"),
            }
        };
        let entry = Entry::done(
            "2026-11-28T09:00:00Z".parse().expect("a time"),
            "token:a",
            event,
        );
        let last = records.last().map(|record| &record.tip);
        records.push(entry.seal(&chain, last).expect("sealed"));
    }
    records
}

/// Serves the records, two on a page, and an empty change log.
fn publisher(records: Vec<SealedRecord>) -> String {
    publisher_with_log(records, &["Skills"], Vec::new(), &[])
}

/// Serves the records, and a change log. The caller may read these collections; those revisions of the
/// changes are missing in the log.
fn publisher_with_log(
    records: Vec<SealedRecord>,
    readable: &[&str],
    changes: Vec<Change>,
    missing: &'static [u64],
) -> String {
    let grant = if readable == ["*"] {
        json!({"role": "reader"})
    } else {
        json!({"role": "reader", "collections": readable})
    };
    let identity = json!({"name": "token:a", "grants": [grant]});
    let mut heads = BTreeMap::new();
    for change in &changes {
        let head = json!({"collection": change.collection, "epoch": change.epoch,
            "revision": change.revision, "count": 1, "digest": change.digest, "oldest": 1});
        heads.insert(change.collection.to_string(), head);
    }
    let answers = [
        ("/v1/identity", identity),
        (
            "/v1/collections",
            json!({"heads": heads.values().collect::<Vec<_>>()}),
        ),
    ];
    let (address, publisher) = mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || {
                let tip = records.last().map(|record| record.tip.clone());
                let tips = json!({"enabled": true, "tips": [tip]});
                let records = records.clone();
                let page = move |query: web::Query<Value>| {
                    let after = query["after"].as_str().unwrap_or("x:0");
                    let (chain, after) = after.split_once(':').unwrap_or_default();
                    let after: usize = after.parse().unwrap_or_default();
                    let page = records.iter().skip(after).take(2);
                    let items: Vec<Value> = page
                        .map(|record| serde_json::from_str(record.text.as_str()).expect("json"))
                        .collect();
                    let next =
                        (after + 2 < records.len()).then(|| format!("{chain}:{}", after + 2));
                    let page = match next {
                        Some(next) => json!({"items": items, "next": next}),
                        None => json!({"items": items}),
                    };
                    async { HttpResponse::Ok().json(page) }
                };
                let mut app = App::new();
                for (path, answer) in answers.clone() {
                    let answer = move || std::future::ready(HttpResponse::Ok().json(&answer));
                    app = app.route(path, web::get().to(answer));
                }
                let (head_of, changes) = (heads.clone(), changes.clone());
                let head = move |name: web::Path<String>| {
                    std::future::ready(HttpResponse::Ok().json(&head_of[&*name]))
                };
                let of_feed = heads.clone();
                let feed = move |name: web::Path<String>, query: web::Query<Value>| {
                    let since: u64 = query["since"].as_str().unwrap_or("0").parse().unwrap_or(0);
                    let later = changes.iter().filter(|change| {
                        change.collection.as_str() == &**name && change.revision > since
                    });
                    // A page ends before what is missing.
                    let items: Vec<_> = later
                        .take_while(|change| !missing.contains(&change.revision))
                        .collect();
                    let head = &of_feed[&*name];
                    let gone = Problem::new(ProblemKind::FeedGone, "gone".to_owned());
                    let answer = if items.is_empty() {
                        HttpResponse::Gone()
                            .content_type("application/problem+json")
                            .json(gone)
                    } else {
                        let more =
                            items.last().map(|last| last.revision) < head["revision"].as_u64();
                        HttpResponse::Ok()
                            .json(json!({"heads": [head], "items": items, "more": more}))
                    };
                    std::future::ready(answer)
                };
                app = app.route("/v1/collections/{name}", web::get().to(head));
                app = app.route("/v1/collections/{name}/changes", web::get().to(feed));
                app.route(
                    "/v1/audit/tips",
                    web::get().to(move || std::future::ready(HttpResponse::Ok().json(&tips))),
                )
                .route("/v1/audit", web::get().to(page))
            });
            let server = server.workers(1).disable_signals();
            let server = server.bind(("127.0.0.1", 0)).expect("a free port");
            address.send(server.addrs()[0]).expect("the test waits");
            server.run().await
        })
    });
    format!("http://{}", publisher.recv().expect("it listens"))
}

/// The exit code and all that it prints.
fn confcast(folder: &Path, line: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_confcast"))
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .expect("confcast runs");
    let shown = [output.stdout, output.stderr].concat();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    (output.status.code().unwrap_or(-1), shown)
}

#[test]
fn an_export_is_continued_and_verified_offline() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let all = records(7);
    let first = publisher(all[..3].to_vec());
    let later = publisher(all.clone());
    let (code, shown) = confcast(
        folder,
        &format!("audit export a.ndjson --publisher {first}"),
    );
    assert!(
        code == 0 && shown.contains("3 records were added"),
        "{shown}"
    );
    // The process was stopped within a line.
    let file = folder.join("a.ndjson");
    let mut text = fs::read_to_string(&file).expect("a file");
    text.truncate(text.len() - 20);
    fs::write(&file, &text).expect("written");
    let (code, shown) = confcast(
        folder,
        &format!("audit export a.ndjson --publisher {later}"),
    );
    assert!(
        code == 0 && shown.contains("5 records were added"),
        "{shown}"
    );
    let (code, shown) = confcast(folder, "audit verify a.ndjson --tips tips.json");
    assert!(
        code == 0 && shown.contains("7 records, 1 chains"),
        "{shown}"
    );
    let text = fs::read_to_string(&file).expect("a file");
    let lines: Vec<_> = text.lines().collect();
    for (name, tampered, fault) in [
        (
            "changed",
            text.replacen("s3", "s9", 1),
            "record 4 of chain 0190b6a1-1 was changed",
        ),
        (
            "removed",
            [&lines[..2], &lines[3..]].concat().join("\n"),
            "missing from 3 up to 3",
        ),
        (
            "truncated",
            lines[..5].join("\n"),
            "the end of chain 0190b6a1-1 is missing",
        ),
        (
            "moved",
            [lines[1], lines[0]].join("\n"),
            "record 1 of chain 0190b6a1-1 is there twice",
        ),
        (
            "replaced",
            format!("{text}no record"),
            "line 8 is not an audit record",
        ),
    ] {
        fs::write(folder.join(name), tampered).expect("written");
        let (code, shown) = confcast(folder, &format!("audit verify {name} --tips tips.json"));
        assert!(code == 1 && shown.contains(fault), "{name}: {shown}");
    }
    // Without what is known from before, its end is not known either.
    let (code, shown) = confcast(folder, "audit verify truncated");
    assert_eq!(code, 0, "{shown}");
}

#[test]
fn the_log_of_a_publisher_is_listed_and_verified() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let all = records(5);
    let whole = publisher(all.clone());
    let (code, shown) = confcast(
        folder,
        &format!("audit verify --tips t --publisher {whole}"),
    );
    assert!(
        code == 0 && shown.contains("5 records, 1 chains"),
        "{shown}"
    );
    let (code, shown) = confcast(folder, &format!("audit list --limit 3 --publisher {whole}"));
    let first = "token:a  done  snapshot-created";
    assert!(code == 0 && shown.contains(first), "{shown}");
    assert!(shown.contains("there are further records"), "{shown}");
    let truncated = publisher(all[..4].to_vec());
    let (code, shown) = confcast(
        folder,
        &format!("audit verify --tips t --publisher {truncated}"),
    );
    assert!(
        code == 1 && shown.contains("record 5 is known, the last one is 4"),
        "{shown}"
    );
}

/// The publisher leaves parts of sets out for a caller that may not read all collections.
#[test]
fn only_a_caller_that_reads_all_collections_is_told_that_a_change_of_a_set_was_edited() {
    let folder = tempfile::tempdir().expect("a folder");
    let stored: Change = serde_json::from_value(json!({
        "collection": "Skills", "op": "Create", "id": "a", "revision": 1, "epoch": "00000007-1", "lastSet": 0,
        "configData": {}, "crc": "00000000", "time": "2026-11-28T09:00:00Z", "count": 1,
        "digest": "0000000000000000",
        "changeSet": {"id": "s", "parts": [
            {"collection": "Skills", "first": 1, "last": 1},
            {"collection": "Users", "first": 1, "last": 1},
        ]},
    }))
    .expect("a change");
    let write = AuditEvent::Write(WriteDetail {
        change_set: Some("s".to_owned()),
        reason: None,
        changes: vec![AuditedChange::of(&stored)],
    });
    let entry = Entry::done(stored.time, "token:b", write);
    let mut sealed = records(1);
    let next = entry.seal(&sealed[0].tip.chain, Some(&sealed[0].tip));
    sealed.push(next.expect("sealed"));
    let mut shown_to_reader = stored.clone();
    let set = shown_to_reader.change_set.as_mut().expect("a set");
    set.parts.truncate(1);
    let verify = |readable: &[&str], change: &Change| {
        let publisher = publisher_with_log(sealed.clone(), readable, vec![change.clone()], &[]);
        confcast(
            folder.path(),
            &format!("audit verify --publisher {publisher}"),
        )
    };
    let (code, shown) = verify(&["Skills"], &shown_to_reader);
    let note = "1 changes of change sets were not compared";
    assert!(code == 0 && shown.contains(note), "{shown}");
    let (code, shown) = verify(&["*"], &shown_to_reader);
    assert!(code == 1 && shown.contains("it was edited"), "{shown}");
    let (code, shown) = verify(&["*"], &stored);
    assert!(
        code == 0 && shown.contains("1 changes of the change log"),
        "{shown}"
    );
}

/// One change that is gone hides no other one that was edited, and neither is passed over.
#[test]
fn changes_that_are_missing_or_edited_are_found_in_each_collection() {
    let folder = tempfile::tempdir().expect("a folder");
    let change = |collection: &str, revision: u64| -> Change {
        serde_json::from_value(json!({
            "collection": collection, "op": "Update", "id": "a", "revision": revision,
            "epoch": "00000007-1", "lastSet": 0, "configData": {"n": revision}, "crc": "00000000",
            "time": "2026-11-28T09:00:00Z", "count": 1, "digest": "0000000000000000",
        }))
        .expect("a change")
    };
    let stored: Vec<_> = [("Skills", 1), ("Skills", 2), ("Skills", 3), ("Users", 1)]
        .map(|(collection, revision)| change(collection, revision))
        .into();
    let mut sealed = records(1);
    for change in &stored {
        let write = AuditEvent::Write(WriteDetail {
            change_set: None,
            reason: None,
            changes: vec![AuditedChange::of(change)],
        });
        let tip = sealed
            .last()
            .map(|record| record.tip.clone())
            .expect("a tip");
        let next = Entry::done(change.time, "token:b", write).seal(&tip.chain, Some(&tip));
        sealed.push(next.expect("sealed"));
    }
    let verify = |changes: &[Change], missing: &'static [u64]| {
        let publisher = publisher_with_log(sealed.clone(), &["*"], changes.to_vec(), missing);
        confcast(
            folder.path(),
            &format!("audit verify --tips t --publisher {publisher}"),
        )
    };
    let (code, shown) = verify(&stored, &[]);
    let all = "4 changes of the change log were compared";
    assert!(code == 0 && shown.contains(all), "{shown}");
    let before = fs::read_to_string(folder.path().join("t")).expect("tips");
    let mut edited = stored.clone();
    edited[2] = Change {
        count: 2,
        ..edited[2].clone()
    };
    let (code, shown) = verify(&edited, &[2]);
    assert_eq!(code, 1, "{shown}");
    for expected in [
        "revision 2 of Skills is missing or damaged in the change log: record 3 of chain",
        "revision 3 of Skills in the change log is not what record 4 of chain",
        "2 faults",
        "3 changes of the change log were compared",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    // The end of the log is gone, with its head.
    let (code, shown) = verify(&[&stored[..2], &stored[3..]].concat(), &[]);
    let end = "the change log of Skills ends with revision 2: record 4 of chain";
    assert!(code == 1 && shown.contains(end), "{shown}");
    let after = fs::read_to_string(folder.path().join("t")).expect("tips");
    assert_eq!(before, after, "tips are kept where something was found");
}
