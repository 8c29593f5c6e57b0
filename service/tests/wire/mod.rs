//! RFC 9110 to 9112 at the routes that both services have, with requests as they are on the wire: one
//! table for the tests of both.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer that pauses for this long has ended.
const QUIET: Duration = Duration::from_secs(3);
const HOST: &str = "HTTP/1.1\r\nHost: localhost\r\n";
const CLOSE: &str = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";

/// One answer, as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("no answer: {text:?}"))?;
        Ok(Self {
            status: head.split(' ').nth(1).unwrap_or_default().parse()?,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    /// All lines of a header, joined.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let values: Vec<_> = lines
            .filter(|(known, _value)| known.eq_ignore_ascii_case(name))
            .map(|(_known, value)| value)
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The last part of the type of a problem; empty for another answer.
    pub(crate) fn problem(&self) -> String {
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let kind = problem["type"].as_str().unwrap_or_default();
        kind.trim_start_matches("urn:confcast:problem:").to_owned()
    }
}

/// Sends a request as it is written, with its final blank line and body, and gives everything that
/// comes until the connection ends or nothing more comes for `QUIET`.
pub(crate) async fn raw(address: &str, request: &str) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while let Ok(read) = timeout(QUIET, connection.read_buf(&mut answer)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(String::from_utf8(answer)?)
}

/// Sends one request over HTTP/1.1 and gives the whole answer. The headers end with CRLF each.
pub(crate) async fn ask(
    address: &str,
    line: &str,
    headers: &str,
    body: &str,
) -> anyhow::Result<Answer> {
    let length = body.len();
    let request = format!("{line} {CLOSE}Content-Length: {length}\r\n{headers}\r\n{body}");
    Answer::read(&raw(address, &request).await?)
}

/// Checks GET at every path of `reads`, and the routes with a body that
/// both services have. At least `tagged` of the answers have an `ETag`.
pub(crate) async fn keeps_to_http(
    address: &str,
    reads: &[&str],
    tagged: usize,
) -> anyhow::Result<()> {
    let mut found = 0;
    for path in reads {
        check_framing(address, path).await?;
        check_refusals(address, path).await?;
        found += usize::from(check_tags(address, path).await?);
    }
    assert!(found >= tagged, "{found} answers with an ETag");
    check_bodies(address).await
}

/// A request that is answered 400: its line, its headers with CRLF each, its body, and the member of
/// the problem that names the culprit (`field` or `pointer`) with its value.
pub(crate) type Refused<'a> = (&'a str, &'a str, &'a str, (&'a str, &'a str));

/// Requires that each refusal names what is wrong, and says in words why.
pub(crate) async fn refusals_name_the_culprit(
    address: &str,
    refused: &[Refused<'_>],
) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (line, headers, body, (member, named)) in refused {
        let answer = ask(address, line, headers, body).await?;
        let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or_default();
        if answer.status != 400 || problem[*member] != **named || detail.is_empty() {
            let status = answer.status;
            wrong.push(format!("{line} {body}: {status} {problem}, not {named:?}"));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// HTTP/1.0, HEAD, and requests that arrive while another one is being answered.
async fn check_framing(address: &str, path: &str) -> anyhow::Result<()> {
    let old = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let old = Answer::read(&raw(address, &old).await?)?;
    assert_eq!(old.header("transfer-encoding"), None, "{path} {old:?}");
    let whole = ask(address, &format!("GET {path}"), "", "").await?;
    // Whole, without the length of a piece or the date, which differ from answer to answer.
    let end = whole
        .body
        .trim_end()
        .rsplit_once('\n')
        .map_or("", |(_before, end)| end);
    let pipelined = format!(
        "GET {path} {HOST}\r\nHEAD {path} {HOST}\r\nHEAD {path} {HOST}\r\nGET /healthz {CLOSE}\r\n"
    );
    let text = raw(address, &pipelined).await?;
    let statuses: Vec<_> = text
        .match_indices("HTTP/1.1 ")
        .map(|(at, _line)| text[at..].split(' ').nth(1).unwrap_or_default())
        .collect();
    let status = old.status.to_string();
    assert_eq!(statuses, [&status, &status, &status, "204"], "{path}");
    let heads = text.split_once("\r\n\r\n").map_or("", |(_head, rest)| rest);
    let (body, heads) = heads.split_once("HTTP/1.1 ").context("a second answer")?;
    assert_eq!(body.is_empty(), whole.body.is_empty(), "{path}: {text}");
    assert!(
        body.contains(end) || path.contains("metrics"),
        "{path}: {body} without {end}"
    );
    let second = heads
        .split_once("\r\n\r\n")
        .map_or("", |(_head, rest)| rest);
    assert!(
        second.starts_with("HTTP/1.1 "),
        "no body after HEAD {path}: {text}"
    );
    Ok(())
}

/// Query parameters that do not exist, and methods that do not.
async fn check_refusals(address: &str, path: &str) -> anyhow::Result<()> {
    let mark = if path.contains('?') { '&' } else { '?' };
    let answer = ask(address, &format!("GET {path}{mark}dry-run=true"), "", "").await?;
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    assert_eq!(
        (answer.status, &problem["field"]),
        (400, &"dry-run".into()),
        "{path} {answer:?}"
    );
    let answer = ask(address, &format!("TRACE {path}"), "", "").await?;
    assert_eq!(answer.problem(), "method-not-allowed", "{path} {answer:?}");
    let allow = answer.header("allow").unwrap_or_default();
    assert!(
        answer.status == 405 && allow.contains("GET, HEAD"),
        "{path} {allow}"
    );
    Ok(())
}

/// 304 and 412 by the `ETag`; `false` when the answer has none.
async fn check_tags(address: &str, path: &str) -> anyhow::Result<bool> {
    let line = format!("GET {path}");
    let Some(etag) = ask(address, &line, "", "").await?.header("etag") else {
        return Ok(false);
    };
    for known in [
        "*".to_owned(),
        etag.clone(),
        format!("W/{etag}"),
        format!("\"a\", {etag}"),
    ] {
        let headers = format!("If-None-Match: {known}\r\n");
        let answer = ask(address, &line, &headers, "").await?;
        let found = (answer.status, answer.header("etag"), answer.body.as_str());
        assert_eq!(found, (304, Some(etag.clone()), ""), "{path} {known}");
    }
    let answer = ask(address, &line, "If-Match: \"other\"\r\n", "").await?;
    assert_eq!(answer.problem(), "condition-failed", "{path}");
    Ok(true)
}

/// Content codings, media types and `Expect`, at a route with a body.
async fn check_bodies(address: &str) -> anyhow::Result<()> {
    let put = "PUT /v1/replicas/r";
    let json = "Content-Type: application/json\r\n";
    let coded = format!("{json}Content-Encoding: gzip\r\n");
    let answer = ask(address, put, &coded, "{}").await?;
    assert_eq!(answer.problem(), "media-type", "{answer:?}");
    assert_eq!(
        answer.header("accept-encoding").as_deref(),
        Some("identity")
    );
    let answer = ask(address, put, "Content-Type: text/plain\r\n", "{}").await?;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (415, "media-type")
    );
    let twice = "GET /v1/collections?collections=a&collections=b";
    assert_eq!(ask(address, twice, "", "").await?.problem(), "bad-request");
    // The body is sent only after 100, and the final answer follows.
    let mut connection = TcpStream::connect(address).await?;
    let head = format!("{put} {CLOSE}{json}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let mut first = [0; 25];
    timeout(QUIET, connection.read_exact(&mut first)).await??;
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write_all(b"{}").await?;
    let mut rest = String::new();
    timeout(QUIET, connection.read_to_string(&mut rest)).await??;
    assert!(Answer::read(&rest)?.status >= 200, "{rest}");
    Ok(())
}
