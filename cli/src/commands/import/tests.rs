//! Imports into a fake publisher.

use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::fake_publisher::{FakePublisher, collection};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn line(id: &str, config: &str) -> String {
    format!("{{\"collection\":\"ChannelConfiguration\",\"id\":\"{id}\",\"configData\":{config}}}\n")
}

#[tokio::test]
async fn an_export_is_imported() {
    let publisher = FakePublisher::start().await;
    let documents: String = (0..100)
        .map(|n| line(&format!("d{n}"), &format!(r#"{{"n":{n}}}"#)))
        .collect();
    let export = format!(
        "{{\"epoch\":\"0f86d081-1\",\"heads\":[]}}\n{documents}{{\"end\":true,\"count\":100}}\n"
    );
    let outcome = import(&publisher.endpoint(), file(&export).path())
        .await
        .expect("imported");
    assert_eq!(
        (outcome, publisher.documents()),
        (
            Outcome {
                written: 100,
                unchanged: 0,
                refused: vec![],
                revisions: [(collection(), 100)].into()
            },
            100
        )
    );
    let again = import(&publisher.endpoint(), file(&documents).path())
        .await
        .expect("plain lines, twice");
    assert_eq!((again.written, publisher.documents()), (100, 100));
    assert_eq!(
        publisher.config("ChannelConfiguration", "d42"),
        Some(r#"{"n":42}"#.to_owned())
    );
}

#[tokio::test]
async fn refused_lines_are_named_and_the_others_are_written() {
    let publisher = FakePublisher::start().await;
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
    let mut outcome = import(&publisher.endpoint(), file(&lines).path())
        .await
        .expect("read to the end");
    outcome.refused.sort();
    let lines: Vec<usize> = outcome.refused.iter().map(|(line, _)| *line).collect();
    assert_eq!((outcome.written, lines), (2, vec![2, 4, 5, 6, 7]));
    let reasons: Vec<&str> = outcome
        .refused
        .iter()
        .map(|(_, reason)| reason.as_str())
        .collect();
    assert!(reasons[1].contains("is already in line 1"), "{reasons:?}");
    assert!(
        reasons[2].contains("missing field `id` at column"),
        "{reasons:?}"
    );
    assert!(reasons[3].contains("[at /name]"), "{reasons:?}");
}

#[tokio::test]
async fn an_array_where_a_document_belongs_is_refused() {
    let publisher = FakePublisher::start().await;
    // The members of a document in the order in which it is declared.
    for array in [
        r#"["ChannelConfiguration","b",{}]"#,
        r#"["ChannelConfiguration","b",1,"00000000",{}]"#,
    ] {
        let lines = format!("{}{array}\n", line("a", "{}"));
        let outcome = import(&publisher.endpoint(), file(&lines).path())
            .await
            .expect("read to the end");
        let refused: Vec<usize> = outcome.refused.iter().map(|(line, _)| *line).collect();
        assert_eq!((outcome.written, refused), (1, vec![2]), "{array}");
    }
}

#[tokio::test]
async fn nothing_of_an_export_that_is_not_whole_is_written() {
    let publisher = FakePublisher::start().await;
    let start = format!(
        "{{\"epoch\":\"0f86d081-1\",\"heads\":[]}}\n{}",
        line("a", "{}")
    );
    for (rest, named) in [
        ("", "end line is missing"),
        ("{\"collection\":\"Chan", "end line is missing"),
        (
            "{\"end\":true,\"count\":2}\n",
            "a damaged export: 2 documents",
        ),
    ] {
        let cut = file(&format!("{start}{rest}"));
        let error = import(&publisher.endpoint(), cut.path()).await;
        let error = format!("{:#}", error.expect_err(named));
        assert!(
            error.starts_with("nothing was written: cannot use") && error.contains(named),
            "{error}"
        );
    }
    assert_eq!(publisher.documents(), 0);
}

/// A pipe is read once, so its documents are written before its end is seen.
#[tokio::test]
async fn a_pipe_that_is_cut_off_says_what_was_written() {
    use std::os::fd::AsRawFd;
    let publisher = FakePublisher::start().await;
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let cut = format!(
        "{{\"epoch\":\"0f86d081-1\",\"heads\":[]}}\n{}",
        line("a", "{}")
    );
    writer.write_all(cut.as_bytes()).expect("it fits");
    let path = format!("/dev/fd/{}", reader.as_raw_fd());
    drop(writer);
    let error = import(&publisher.endpoint(), Path::new(&path)).await;
    let error = format!("{:#}", error.expect_err("cut"));
    assert!(
        error.starts_with("at least 1 documents were written")
            && error.contains("end line is missing"),
        "{error}"
    );
    assert_eq!(publisher.documents(), 1);
}

#[tokio::test]
async fn an_export_whose_members_were_sorted_is_complete() {
    let publisher = FakePublisher::start().await;
    let sorted = format!(
        "\u{feff}{{\"heads\":[],\"epoch\":\"0f86d081-1\"}}\n{}{{\"count\":1,\"end\":true}}\n",
        r#"{"configData":{},"collection":"ChannelConfiguration","id":"a"}"#.to_owned() + "\n"
    );
    let outcome = import(&publisher.endpoint(), file(&sorted).path())
        .await
        .expect("imported");
    assert_eq!((outcome.written, outcome.refused), (1, vec![]));
    // The lines in another order, as `sort` writes them.
    let mut lines: Vec<&str> = sorted.trim_start_matches('\u{feff}').lines().collect();
    lines.sort_unstable();
    for lines in [&lines[..], &[lines[2], lines[1], lines[0]]] {
        let outcome = import(&publisher.endpoint(), file(&lines.join("\n")).path())
            .await
            .expect("imported");
        assert_eq!((outcome.written, outcome.refused), (1, vec![]));
    }
    // A document may have members of these names itself.
    let own = r#"{"collection":"ChannelConfiguration","id":"b","configData":{},"end":true,"epoch":1,"heads":[]}"#;
    let outcome = import(&publisher.endpoint(), file(own).path())
        .await
        .expect("imported");
    assert_eq!(outcome.written, 1);
}

#[tokio::test]
async fn a_file_of_another_kind_is_named_and_nothing_is_written() {
    let publisher = FakePublisher::start().await;
    for (text, named) in [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (
            "[{}]",
            "one JSON object in each line (`jq -c '.[]'` writes that)",
        ),
        ("collection: A\n", "looks like YAML"),
        (
            "{\n  \"collection\": \"A\"\n}\n",
            "spread over several lines",
        ),
        ("{\0}\0", "UTF-16"),
    ] {
        let error = import(&publisher.endpoint(), file(text).path())
            .await
            .expect_err(named);
        assert!(format!("{error:#}").contains(named), "{error:#}");
    }
    assert_eq!(publisher.documents(), 0);
}

#[tokio::test]
async fn an_unreachable_publisher_stops_the_import() {
    let endpoint = FakePublisher::start().await.endpoint();
    let error = import(&endpoint, file(&line("a", "{}")).path())
        .await
        .expect_err("nothing listens there");
    assert!(
        format!("{error:#}").contains("stopped at line 1"),
        "{error:#}"
    );
}

#[tokio::test]
async fn documents_that_refer_to_others_are_written_in_any_order_and_cycles_as_sets() {
    let publisher = FakePublisher::start().await;
    let needing = |id: &str, needed: &str| line(id, &format!(r#"{{"needs":[{needed}]}}"#));
    let mut lines: String = (0..50)
        .map(|n| needing(&format!("d{n}"), &format!(r#""d{}""#, n + 1)))
        .collect();
    lines.push_str(&line("d50", "{}"));
    for (id, needed) in [
        ("cycle1", r#""cycle2""#),
        ("cycle2", r#""cycle3","d7""#),
        ("cycle3", r#""cycle1""#),
        // One that is nowhere, and one that refers to it.
        ("alone", r#""nowhere""#),
        ("behind", r#""alone""#),
    ] {
        lines.push_str(&needing(id, needed));
    }
    let mut outcome = import(&publisher.endpoint(), file(&lines).path())
        .await
        .expect("read to the end");
    outcome.refused.sort();
    let refused: Vec<usize> = outcome.refused.iter().map(|(line, _)| *line).collect();
    assert_eq!((outcome.written, refused), (54, vec![55, 56]));
    assert_eq!(publisher.documents(), 54);
    let reason = &outcome.refused[0].1;
    assert!(
        reason.contains("A reference would be without its document"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_chain_of_documents_in_the_wrong_order_takes_a_few_requests_for_each() {
    const LENGTH: usize = 300;
    let publisher = FakePublisher::start().await;
    // By their names, the order in which a round tries them is the wrong one too.
    let lines: String = (0..LENGTH)
        .map(|n| {
            let needed = format!(r#"{{"needs":["d{:03}"]}}"#, n + 1);
            line(
                &format!("d{n:03}"),
                if n + 1 == LENGTH { "{}" } else { &needed },
            )
        })
        .collect();
    let outcome = import(&publisher.endpoint(), file(&lines).path()).await;
    let outcome = outcome.expect("imported");
    assert_eq!((outcome.written, outcome.refused), (300, vec![]));
    // Each of up to three tries is one PUT for a present document, and one for an absent one.
    assert!(publisher.puts() <= 6 * LENGTH, "{}", publisher.puts());
}
