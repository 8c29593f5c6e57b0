//! What templates make of documents, and what their errors say.

use std::os::unix::fs::symlink;

use super::*;

fn error(template: &str, documents: &[(&str, Value)]) -> String {
    let folder = folder_of(&[("a.conf.j2", template)]);
    let rendered = render(&templates(&folder), &root(documents), None);
    rendered.expect_err(template).to_string()
}

fn text(template: &str, documents: &[(&str, Value)]) -> String {
    let folder = folder_of(&[("a.conf.j2", template)]);
    let mut files = render(&templates(&folder), &root(documents), None).expect(template);
    files.remove(0).1
}

#[test]
fn a_folder_becomes_the_same_tree_of_files() {
    let folder = folder_of(&[
        ("a/b/site.conf.j2", "{% include 'a/_part.j2' %}\nend\n"),
        ("a/_part.j2", "{{ Site.one.port }};"),
        ("a/plain.txt", "{{ not a template }}"),
        ("data.json.j2", "[{{ Site.one.name }}]"),
        (".hidden/x.j2", "{{ broken"),
    ]);
    let documents = root(&[("one", json!({"port": 80, "name": "a\"b"}))]);
    let files = render(&templates(&folder), &documents, None).expect("rendered");
    let expected = [
        ("a/b/site.conf", "80;end\n"),
        ("a/plain.txt", "{{ not a template }}"),
        ("data.json", "[\"a\\\"b\"]"),
    ];
    let files: Vec<_> = files
        .iter()
        .map(|(path, text, has_secrets)| {
            assert!(!has_secrets);
            (path.as_str(), text.as_str())
        })
        .collect();
    assert_eq!(files, expected);
}

#[test]
fn documents_are_read_in_the_order_of_their_ids() {
    let documents = [
        ("b", json!({"n": 2, "tags": ["x", "y"]})),
        ("a", json!({"n": 1, "tags": []})),
    ];
    let loop_text = "{% for id, site in Site|items %}\n{{ id }}={{ site.n }} {{ site.tags|join(',') }}\n{% endfor %}\n{{ Site|length }} {{ Site['b'].n }} {{ 'c' in Site }}";
    assert_eq!(text(loop_text, &documents), "a=1 \nb=2 x,y\n2 2 false");
    assert_eq!(
        text("{{ Site.b|tojson }}", &documents),
        r#"{"n": 2, "tags": ["x", "y"]}"#
    );
    assert_eq!(
        text(
            "{{ Site.c is defined }} {{ Site.a.x is defined }}",
            &documents
        ),
        "false false"
    );
}

#[test]
fn an_error_names_template_line_and_document() {
    let documents = [("a", json!({"n": 1})), ("b", json!({"m": 1}))];
    let message = error(
        "first\n{% for id, site in Site|items %}\n{{ site.n }}\n{% endfor %}\n",
        &documents,
    );
    assert!(
        message.starts_with("the template a.conf.j2, line 3: undefined value: {{ site.n }}"),
        "{message}"
    );
    assert!(message.contains("it had read Site/b last"), "{message}");
    for (wrong, expected) in [
        ("{{ Sites.a.n }}", "line 1: undefined value"),
        ("x\n{% for %}", "line 2: syntax error"),
        ("{% include 'none.j2' %}", "none.j2"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            "fuel",
        ),
        (
            "{% for i in range(100000) %}xxxxxxxxxx{% endfor %}",
            "--max-file-bytes",
        ),
    ] {
        let message = error(wrong, &documents);
        assert!(message.contains(expected), "{wrong}: {message}");
    }
}

#[test]
fn values_are_written_as_in_json_and_null_is_an_error() {
    let documents = [(
        "a",
        json!({"yes": true, "none": null, "n": 1.5, "big": 9_007_199_254_740_991_u64}),
    )];
    let all = "{{ Site.a.yes }} {{ Site.a.n }} {{ Site.a.big }} {{ Site.a.none is none }}";
    assert_eq!(text(all, &documents), "true 1.5 9007199254740991 true");
    let message = error("{{ Site.a.none }}", &documents);
    assert!(message.contains("the value is null"), "{message}");
}

#[test]
fn a_value_cannot_end_its_line() {
    let documents = [("a", json!({"good": "a \"b\" \\", "bad": "x;\n}\nserver {"}))];
    assert_eq!(
        text("{{ Site.a.good|quoted }}", &documents),
        r#""a \"b\" \\""#
    );
    assert_eq!(text("{{ Site.a.good|line }}", &documents), r#"a "b" \"#);
    for filter in ["quoted", "line"] {
        let message = error(&format!("{{{{ Site.a.bad|{filter} }}}}"), &documents);
        assert!(message.contains("a line feed"), "{message}");
    }
}

#[test]
fn a_secret_is_opened_with_its_key_alone_and_never_in_a_message() {
    let documents = root(&[
        (
            "a",
            json!({"host": "h", "password": sealed("a", "/password", &json!("hunter2"))}),
        ),
        ("b", json!({"host": "h"})),
    ]);
    let folder = folder_of(&[
        ("open.j2", "{{ Site.b.host }}"),
        ("secret.j2", "{{ Site.a.password }}"),
    ]);
    let keys = keyring();
    let files = render(&templates(&folder), &documents, Some(&keys)).expect("rendered");
    let expected = [
        ("open".to_owned(), "h".to_owned(), false),
        ("secret".to_owned(), "hunter2".to_owned(), true),
    ];
    assert_eq!(files, expected);
    let sealed = render(&templates(&folder), &documents, None).expect_err("no key");
    assert!(sealed.to_string().contains("no secret keys"), "{sealed}");

    let folder = folder_of(&[("a.j2", "{{ Site.a.password|int }}")]);
    let failed = render(&templates(&folder), &documents, Some(&keys)).expect_err("no number");
    assert!(!failed.to_string().contains("hunter"), "{failed}");

    let other = json!({"active": "b", "keys": {"b": KEY.replace("Bwc", "Cwc")}}).to_string();
    let other = Arc::new(Keyring::parse(&other).expect("a keyring"));
    let refused = render(&Content::Documents, &documents, Some(&other)).expect_err("another key");
    assert!(
        refused
            .to_string()
            .contains("Site/a: the secret at /password"),
        "{refused}"
    );

    let files = render(&Content::Documents, &documents, Some(&keys)).expect("rendered");
    let plain = r#"{"host":"h","password":"hunter2"}"#;
    assert_eq!(
        files[0],
        ("Site/a.json".to_owned(), format!("{plain}\n"), true)
    );
    assert!(!files[1].2);
    let files = render(&Content::Documents, &documents, None).expect("as any reader gets it");
    assert!(files[0].1.contains("$secret") && !files[0].2);
}

#[test]
fn bounds_are_kept() {
    let folder = folder_of(&[("a.j2", "x")]);
    symlink(".", folder.path().join("loop")).expect("a link");
    let error = render(&templates(&folder), &root(&[]), None).expect_err("no end");
    assert!(error.to_string().contains("too many folders"), "{error}");
    let ids: Vec<_> = (0..11).map(|number| format!("d{number}")).collect();
    let documents: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
    let error = render(&Content::Documents, &root(&documents), None).expect_err("too many");
    assert!(error.to_string().contains("--max-files"), "{error}");
    let long = [("a", json!("x".repeat(10_000)))];
    let error = render(&Content::Documents, &root(&long), None).expect_err("too long");
    assert!(
        error.to_string().contains("Site/a.json has more than"),
        "{error}"
    );
    let empty = folder_of(&[]);
    assert!(render(&templates(&empty), &root(&[]), None).is_err());
}
