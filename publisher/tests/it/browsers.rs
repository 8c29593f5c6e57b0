//! What a web page can make a browser send: nothing of it changes anything, and no answer of it can
//! be read. Clients that are no browsers are not affected.

use super::{
    Outcome,
    testbed::{Answer, SKILLS, with_publisher},
};

const LIST: &str = "/v1/collections/Skills/documents";
const SET: &str =
    r#"{"changes":[{"collection":"Skills","op":"Create","id":"x","configData":{"v":1}}]}"#;
const DOCUMENT: &str = r#"{"id":"x","v":1}"#;
const EVIL: &str = "Origin: https://evil.example\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() -> Outcome {
    with_publisher(&[], async |publisher| {
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let text = "Content-Type: text/plain;charset=UTF-8\r\n";
        let parts = "Content-Type: multipart/form-data; boundary=b\r\n";
        let several = "Content-Type: application/json\r\nContent-Type: text/plain\r\n";
        let writes = [
            ("POST /v1/changes", SET),
            ("POST /v1/collections/Skills/documents", DOCUMENT),
            ("PUT /v1/collections/Skills/documents/x", DOCUMENT),
            ("PATCH /v1/collections/Skills/documents/x", "{}"),
            ("PUT /v1/replicas/r", "{}"),
            ("POST /v1/epoch", "{\"adopt\":true}"),
        ];
        for (line, body) in writes {
            // A type that needs no preflight, and none at all.
            for media_type in [form, text, parts, several, ""] {
                let answer = publisher.ask(line, media_type, body).await?;
                assert_eq!(
                    (answer.status, answer.problem().as_str()),
                    (415, "media-type"),
                    "{line} {media_type} {answer:?}"
                );
                assert!(answer.body.contains("json"), "it names what is expected");
                let answer = publisher
                    .ask(line, &format!("{media_type}{EVIL}"), body)
                    .await?;
                assert_eq!(answer.problem(), "foreign-origin", "{line} {media_type}");
            }
            for origin in [
                EVIL,
                "Origin: null\r\n",
                "Origin: http://localhost:3000\r\n",
                "Origin: http://127.0.0.1\r\n",
                "Sec-Fetch-Site: cross-site\r\n",
                "Sec-Fetch-Site: same-site\r\n",
                "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
            ] {
                let answer = publisher.ask(line, &format!("{JSON}{origin}"), body).await?;
                assert_eq!(
                    (answer.status, answer.problem().as_str()),
                    (403, "foreign-origin"),
                    "{line} {origin}"
                );
            }
        }
        // Methods without a body, and a POST without one.
        for line in [
            "DELETE /v1/collections/Skills/documents/x",
            "POST /v1/epoch",
        ] {
            let answer = publisher.ask(line, &format!("{JSON}{EVIL}"), "").await?;
            assert_eq!(answer.problem(), "foreign-origin", "{line}");
        }
        let answer = publisher.ask("POST /v1/epoch", "", "").await?;
        assert_eq!(answer.problem(), "media-type");
        assert_eq!(publisher.read(SKILLS, "x").await?, None);
        assert_eq!(publisher.log(SKILLS).await?, []);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_page_of_another_origin_reads_nothing_unless_a_setting_lists_it() -> Outcome {
    let listed = [
        "--cors-origins",
        "https://admin.example, http://localhost:3000",
    ];
    with_publisher(&listed, async |publisher| {
        for path in [LIST, "/v1/collections", "/healthz", "/metrics", "/none"] {
            let line = format!("GET {path}");
            let refused = publisher.ask(&line, EVIL, "").await?;
            assert_eq!(
                (refused.status, refused.problem().as_str()),
                (403, "foreign-origin"),
                "{path}"
            );
            assert_eq!(refused.header("access-control-allow-origin"), None);
            let frame = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n";
            assert_eq!(publisher.ask(&line, frame, "").await?.status, 403, "{path}");

            let own = "Origin: https://admin.example\r\nSec-Fetch-Site: cross-site\r\n";
            let answer = publisher.ask(&line, own, "").await?;
            assert_eq!(
                answer.header("access-control-allow-origin").as_deref(),
                Some("https://admin.example"),
                "{path} {answer:?}"
            );
            let vary = answer.header("vary").unwrap_or_default();
            assert!(vary.contains("Origin"), "{path} {vary}");
        }
        let asks = "Origin: http://localhost:3000\r\nAccess-Control-Request-Method: GET\r\n\
                    Access-Control-Request-Headers: if-none-match\r\n";
        let preflight = publisher.ask(&format!("OPTIONS {LIST}"), asks, "").await?;
        assert_eq!(preflight.status, 204, "{preflight:?}");
        let methods = preflight.header("access-control-allow-methods");
        assert_eq!(methods.as_deref(), Some("GET, HEAD"));
        assert!(
            preflight
                .header("access-control-allow-headers")
                .is_some_and(|headers| headers.contains("if-none-match"))
        );
        for asks in [
            "Origin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\n",
            "Origin: https://admin.example\r\nAccess-Control-Request-Method: POST\r\n",
        ] {
            let refused = publisher.ask(&format!("OPTIONS {LIST}"), asks, "").await?;
            assert_eq!(refused.problem(), "foreign-origin", "{asks}");
            assert_eq!(refused.header("access-control-allow-methods"), None);
        }
        let write = format!("{JSON}Origin: https://admin.example\r\n");
        let refused = publisher.ask(&format!("POST {LIST}"), &write, DOCUMENT).await?;
        assert_eq!(refused.problem(), "foreign-origin", "a listed page reads only");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn only_names_of_the_service_are_accepted_as_its_host() -> Outcome {
    let named = ["--allowed-hosts", "config.example, *.svc"];
    with_publisher(&named, async |publisher| {
        for (host, expected) in [
            ("localhost:8080", "200"),
            ("127.0.0.1:1", "200"),
            ("10.1.2.3", "200"),
            ("[::1]:8080", "200"),
            ("Config.Example:443", "200"),
            ("publisher.confcast.svc:8080", "200"),
            ("evil.example:8080", "unknown-host"),
            ("127.0.0.1.evil.example", "unknown-host"),
            ("config.example.evil.example", "unknown-host"),
            ("publisher", "unknown-host"),
            ("a b", "bad-request"),
            ("", "bad-request"),
        ] {
            for line in [
                "GET /v1/collections HTTP/1.1",
                "GET /none HTTP/1.1",
                "GET /v1/collections HTTP/1.0",
                "PUT /v1/collections HTTP/1.1",
            ] {
                let text = format!("{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                let answer = Answer::read(&publisher.raw(&text).await?)?;
                match expected {
                    "200" => assert!(![400, 421].contains(&answer.status), "{host} {line}"),
                    kind => assert_eq!(answer.problem(), kind, "{host} {line} {answer:?}"),
                }
            }
        }
        // The host of the target wins over the header (RFC 9112 section 3.2.2).
        let text = "GET http://evil.example/v1/collections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = Answer::read(&publisher.raw(text).await?)?;
        assert_eq!((answer.status, answer.problem().as_str()), (421, "unknown-host"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn clients_that_are_no_browsers_and_pages_of_the_own_origin_are_served() -> Outcome {
    with_publisher(&[], async |publisher| {
        for headers in [
            "",
            "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n",
            // Behind a proxy that takes off TLS.
            "Origin: https://localhost\r\n",
            "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n",
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        ] {
            let answer = publisher.ask("GET /v1/collections", headers, "").await?;
            assert_eq!(answer.status, 200, "{headers} {answer:?}");
        }
        let put = "Content-Type: Application/JSON; charset=utf-8\r\n";
        let answer = publisher.ask(&format!("POST {LIST}"), put, DOCUMENT).await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        // An HTTP/1.0 client need not name a host.
        let answer = publisher.raw("GET /healthz HTTP/1.0\r\n\r\n").await?;
        assert!(answer.starts_with("HTTP/1.0 204"), "{answer}");
        Ok(())
    })
    .await
}
