//! Values come back as they were written, on every way in and out, or are refused with a pointer.

use anyhow::Context as _;
use serde_json::json;

use super::{
    Outcome,
    testbed::{SKILLS, Testbed, with_publisher},
};

/// Keys that mean something to a library or to a database, in canonical form.
const UNUSUAL: &str = concat!(
    r#"{"$__toml_private_datetime":"1979-05-27","$date":{"$numberLong":"1"},"#,
    r#""$oid":"0123456789abcdef01234567","$serde_json::private::Number":"1","#,
    r#""a":{"$serde_json::private::RawValue":"[1]"},"a.b":{"$set":1},"#,
    r#""list":[{"$serde_json::private::Number":"2"}],"n":1}"#
);

fn document(id: &str) -> String {
    format!("/v1/collections/{SKILLS}/documents/{id}")
}

async fn write(testbed: &Testbed, method: &str, path: &str, body: &str) -> anyhow::Result<u16> {
    Ok(testbed.send(method, path, &[], body).await?.0)
}

#[tokio::test]
async fn no_key_of_a_document_has_a_meaning() -> Outcome {
    with_publisher(&[], async |testbed| {
        let create = [("if-none-match", "*")];
        let put = testbed
            .send("PUT", &document("put"), &create, UNUSUAL)
            .await?;
        assert_eq!(put.0, 201, "{}", put.1);
        let set = json!({"changes": [
            {"collection": SKILLS, "op": "Create", "id": "set", "configData": {"m": {}, "n": 1}},
            {"collection": SKILLS, "op": "Create", "id": "other", "configData": {}},
        ]});
        let set = set.to_string().replace(r#"{"m":{},"n":1}"#, UNUSUAL);
        assert_eq!(write(testbed, "POST", "/v1/changes", &set).await?, 200);
        let with_metadata = UNUSUAL.replace(
            r#""n":1"#,
            r#""metadata":{"x":{"$serde_json::private::RawValue":"{}"}},"n":1"#,
        );
        assert_eq!(
            write(testbed, "PUT", &document("set"), &with_metadata).await?,
            200
        );
        // The members that these writes do not name stay as they are.
        let patch = r#"{"n":2,"p":{"$serde_json::private::RawValue":"[2]"}}"#;
        for id in ["put", "set"] {
            assert_eq!(write(testbed, "PATCH", &document(id), patch).await?, 200);
        }
        assert_eq!(write(testbed, "PUT", &document("set"), UNUSUAL).await?, 200);

        let patched = UNUSUAL.replace(
            r#""n":1"#,
            r#""n":2,"p":{"$serde_json::private::RawValue":"[2]"}"#,
        );
        let metadata = UNUSUAL.replace(
            r#""n":1"#,
            r#""metadata":{"x":{"$serde_json::private::RawValue":"{}"}},"n":1"#,
        );
        for path in [
            document("put"),
            format!("/v1/collections/{SKILLS}/documents"),
            format!("/v1/snapshot?collections={SKILLS}"),
            format!("/v1/collections/{SKILLS}/changes?since=0"),
        ] {
            let (_status, text) = testbed.send("GET", &path, &[], "").await?;
            assert!(text.contains(&patched), "{path}: {text}");
        }
        let (_status, text) = testbed.send("GET", &document("set"), &[], "").await?;
        assert!(text.contains(&metadata), "{text}");
        let event = loop {
            let event = testbed.event().await?;
            if event["data"]["id"] == "put" && event["data"]["op"] == "Update" {
                break event;
            }
        };
        assert_eq!(event["data"]["configData"].to_string(), patched);
        Ok(())
    })
    .await
}

/// `{"a":1}` patched with a text that is meant for the JSON library is not the value in the text.
#[tokio::test]
async fn a_schema_sees_the_document_that_is_stored() -> Outcome {
    let schemas = tempfile::tempdir()?;
    let schema = r#"{"properties": {"a": {"type": "array"}}}"#;
    std::fs::write(schemas.path().join(format!("{SKILLS}.schema.json")), schema)?;
    let folder = schemas.path().display().to_string();
    with_publisher(&["--schemas-dir", &folder], async |testbed| {
        let hidden = r#"{"a":{"$serde_json::private::RawValue":"[1]"}}"#;
        let (status, problem) = testbed
            .send("PUT", &document("x"), &[("if-none-match", "*")], hidden)
            .await?;
        assert_eq!(status, 422, "{problem}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_number_that_would_come_back_as_another_is_refused_on_every_way_in() -> Outcome {
    with_publisher(&[], async |testbed| {
        let create = [("if-none-match", "*")];
        let documents = format!("/v1/collections/{SKILLS}/documents");
        let good = r#"{"n":[0.1,0.30000000000000004,9223372036854775807,1e300,5e-324]}"#;
        assert_eq!(
            testbed
                .send("PUT", &document("x"), &create, good)
                .await?
                .0,
            201
        );
        let text = testbed.send("GET", &document("x"), &[], "").await?.1;
        assert!(text.contains("[0.1,0.30000000000000004,9223372036854775807,1e+300,5e-324]"));
        for number in ["3.141592653589793238", "1e400", "1e-400", "18446744073709551617"] {
            let value = format!(r#"{{"n":[{number}]}}"#);
            let set = format!(
                r#"{{"changes":[{{"collection":"{SKILLS}","op":"Patch","id":"x","configData":{value}}}]}}"#
            );
            for (method, path, body) in [
                ("POST", &documents, &value),
                ("PUT", &document("x"), &value),
                ("PATCH", &document("x"), &value),
                ("POST", &"/v1/changes".to_owned(), &set),
            ] {
                let (status, problem) = testbed.send(method, path, &[], body).await?;
                assert_eq!(status, 400, "{method} {path}: {problem}");
                assert!(problem.contains("/n/0"), "{problem}");
                assert!(problem.contains("string"), "{problem}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_older_value_is_written_back_exactly_and_its_change_says_by_whom_and_why() -> Outcome {
    with_publisher(&[], async |testbed| {
        let create = [("if-none-match", "*")];
        let old = r#"{"metadata":{"a":1},"n":1}"#;
        let put = testbed.send("PUT", &document("x"), &create, old).await?;
        assert!(put.1.contains(r#""changed":true"#), "{}", put.1);
        let patch = r#"{"metadata":{"b":2}}"#;
        assert_eq!(write(testbed, "PATCH", &document("x"), patch).await?, 200);
        // The merge keeps what was added.
        let merged = testbed.send("PUT", &document("x"), &[], old).await?;
        assert!(merged.1.contains(r#""changed":false"#), "{}", merged.1);
        let exact = [
            ("confcast-write", "exact"),
            ("x-user-id", "ada"),
            ("x-change-reason", "Rückbau 7"),
        ];
        let restored = testbed.send("PUT", &document("x"), &exact, old).await?;
        assert!(restored.1.contains(r#""changed":true"#), "{}", restored.1);
        let now = testbed.send("GET", &document("x"), &[], "").await?.1;
        assert!(now.contains(old), "{now}");
        let again = testbed.send("PUT", &document("x"), &exact, old).await?;
        assert!(again.1.contains(r#""changed":false"#), "{}", again.1);
        let log = testbed.log(SKILLS).await?;
        let last = &log[log.len() - 1];
        assert_eq!(log.len(), 3);
        assert_eq!(last.context.user_id(), Some("ada"));
        assert_eq!(last.context.reason(), Some("Rückbau 7"));
        let unknown = [("confcast-write", "exactly")];
        let refused = testbed.send("PUT", &document("x"), &unknown, old).await?;
        assert_eq!(refused.0, 400, "{}", refused.1);
        Ok(())
    })
    .await
}

/// What a caller without the right to read secrets reads, changes and writes back.
#[tokio::test]
async fn an_exact_value_may_have_the_sealed_elements_of_the_stored_one_in_another_order() -> Outcome
{
    let folder = tempfile::tempdir()?;
    let schema = json!({"properties": {"l": {"type": "array", "items": {"x-secret": true}}}});
    let path = folder.path().join(format!("{SKILLS}.schema.json"));
    std::fs::write(path, schema.to_string())?;
    let keys = folder.path().join("keys");
    let key = format!("{}=", "A".repeat(43));
    std::fs::write(
        &keys,
        json!({"active": "a", "keys": {"a": key}}).to_string(),
    )?;
    let (folder, keys) = (
        folder.path().display().to_string(),
        keys.display().to_string(),
    );
    let options = ["--schemas-dir", &folder, "--secret-keys-file", &keys];
    with_publisher(&options, async |testbed| {
        let create = [("if-none-match", "*")];
        let created = testbed
            .send("PUT", &document("x"), &create, r#"{"l":["one","two"]}"#)
            .await?;
        assert_eq!(created.0, 201, "{}", created.1);
        let stored = testbed.send("GET", &document("x"), &[], "").await?.1;
        let mut stored: serde_json::Value = serde_json::from_str(&stored)?;
        let list = stored["configData"]["l"].as_array_mut().context("a list")?;
        list.reverse();
        let exact = [("confcast-write", "exact")];
        let swapped = json!({ "l": list }).to_string();
        let written = testbed
            .send("PUT", &document("x"), &exact, &swapped)
            .await?;
        assert_eq!(written.0, 200, "{}", written.1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_changed_schema_comes_into_force_without_a_restart() -> Outcome {
    let schemas = tempfile::tempdir()?;
    let path = schemas.path().join(format!("{SKILLS}.schema.json"));
    let schema = |kind: &str| json!({"properties": {"n": {"type": kind}}}).to_string();
    std::fs::write(&path, schema("integer"))?;
    let folder = schemas.path().display().to_string();
    with_publisher(&["--schemas-dir", &folder], async |testbed| {
        let create = [("if-none-match", "*")];
        let put = testbed
            .send("PUT", &document("x"), &create, r#"{"n":1}"#)
            .await?;
        assert_eq!(put.0, 201, "{}", put.1);
        std::fs::write(&path, schema("string"))?;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            let text = testbed
                .send("PUT", &document("x"), &[], r#"{"n":"a"}"#)
                .await?;
            if text.0 == 200 {
                break;
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}", text.1);
            tick.tick().await;
        }
        let number = testbed
            .send("PUT", &document("x"), &[], r#"{"n":2}"#)
            .await?;
        assert_eq!(number.0, 422, "{}", number.1);
        Ok(())
    })
    .await
}
