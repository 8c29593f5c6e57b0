//! `confcast audit` with a publisher of the test: an export is continued, and what was tampered with is
//! named.

use std::{fs, path::Path, process::Command, sync::mpsc, thread};

use actix_web::{App, HttpResponse, HttpServer, web};
use contract::audit::{AuditEvent, Entry, SealedRecord};
use serde_json::{Value, json};

/// A chain of some records.
fn records(count: usize) -> Vec<SealedRecord> {
    let chain = "0190b6a1-1".parse().expect("a chain");
    let mut records: Vec<SealedRecord> = Vec::new();
    for n in 0..count {
        let event = AuditEvent::SnapshotCreated {
            name: format!("s{n}").parse().expect("a name"),
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
                App::new()
                    .route(
                        "/v1/audit/tips",
                        web::get().to(move || std::future::ready(HttpResponse::Ok().json(&tips))),
                    )
                    .route("/v1/audit", web::get().to(page))
                    .route(
                        "/v1/collections",
                        web::get().to(async || HttpResponse::Ok().json(json!({"heads": []}))),
                    )
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
