//! Imports into a stand-in publisher.

use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::stand_in::StandIn;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn line(id: &str, config: &str) -> String {
    format!("{{\"collection\":\"ChannelConfiguration\",\"id\":\"{id}\",\"configData\":{config}}}\n")
}

#[tokio::test]
async fn what_was_exported_is_imported() {
    let publisher = StandIn::start().await;
    let documents: String = (0..100)
        .map(|n| line(&format!("d{n}"), &format!(r#"{{"n":{n}}}"#)))
        .collect();
    let export = format!(
        "{{\"epoch\":\"0f86d081-1\",\"heads\":[]}}\n{documents}{{\"end\":true,\"count\":100}}\n"
    );
    let outcome = import(&publisher.api(), file(&export).path())
        .await
        .expect("imported");
    assert_eq!(
        (outcome, publisher.documents()),
        (
            Outcome {
                written: 100,
                refused: vec![]
            },
            100
        )
    );
    let again = import(&publisher.api(), file(&documents).path())
        .await
        .expect("plain lines, twice");
    assert_eq!((again.written, publisher.documents()), (100, 100));
    assert_eq!(
        publisher.config("ChannelConfiguration", "d42"),
        Some(r#"{"n":42}"#.to_owned())
    );
}

#[tokio::test]
async fn every_refused_line_is_named_and_the_others_are_written() {
    let publisher = StandIn::start().await;
    let lines = [
        &line("a", "{}"),
        "not json\n",
        "\n",
        &line("a", "{}"),
        "{\"collection\":\"ChannelConfiguration\",\"configData\":{}}\n",
        &line("refused", "{}"),
        "\u{fffd}\r\n",
        &line("b", "{}"),
    ]
    .concat();
    let mut outcome = import(&publisher.api(), file(&lines).path())
        .await
        .expect("read to the end");
    outcome.refused.sort();
    let told: Vec<usize> = outcome.refused.iter().map(|(line, _)| *line).collect();
    assert_eq!((outcome.written, told), (2, vec![2, 4, 5, 6, 7]));
    let reasons: Vec<&str> = outcome
        .refused
        .iter()
        .map(|(_, reason)| reason.as_str())
        .collect();
    assert!(reasons[1].contains("is in line 1 already"), "{reasons:?}");
    assert!(
        reasons[2].contains("missing field `id` at column"),
        "{reasons:?}"
    );
    assert!(reasons[3].contains("[at /name]"), "{reasons:?}");
}

#[tokio::test]
async fn a_cut_export_is_an_error() {
    let publisher = StandIn::start().await;
    let cut = format!(
        "{{\"epoch\":\"0f86d081-1\",\"heads\":[]}}\n{}",
        line("a", "{}")
    );
    let error = import(&publisher.api(), file(&cut).path())
        .await
        .expect_err("cut");
    assert!(error.to_string().contains("end line is missing"), "{error}");
}

#[tokio::test]
async fn a_publisher_that_is_away_stops_the_import() {
    let api = StandIn::start().await.api();
    let error = import(&api, file(&line("a", "{}")).path())
        .await
        .expect_err("nobody is there");
    assert!(
        format!("{error:#}").contains("stopped at line 1"),
        "{error:#}"
    );
}
