//! nginx with a configuration made of documents: changes arrive under load without a failed request, and a
//! configuration that nginx refuses never reaches it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use e2e::testbed::ports::free_port;
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;

/// Everything that Debian's nginx would write is below its prefix.
const TEMPLATE: &str = "\
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {
    listen 127.0.0.1:PORT;
{% for id, site in FreeForm|items %}
    location = /{{ id }} { return 200 {{ site.text|quoted }}; {{ site.more|default('') }} }
{% endfor %}
  }
}
";

#[tokio::test]
async fn nginx_serves_each_change_and_no_request_fails() -> Outcome {
    let nginx = dependencies::path_of("NGINX")?;
    let port = free_port()?;
    let template = TEMPLATE.replace("PORT", &port.to_string());
    let home = Home::start(&[("nginx.conf.j2", &template)]).await?;
    home.put("page", &json!({"text": "0"})).await?;
    let check = format!("'{}' -t -q -p . -c {{dir}}/nginx.conf", nginx.display());
    let signal = [
        "--check",
        &check,
        "--signal",
        "HUP",
        "--pid-file",
        "nginx.pid",
    ];
    let files = home.follow(&[&signal[..], &["--wait-min", "20ms"]].concat())?;
    // Before nginx runs there is nobody to notify, and that is said.
    home.until("/reload", json!("failing")).await?;
    let mut command = Command::new(&nginx);
    command
        .args(["-p", ".", "-c"])
        .arg(home.path("out/current/nginx.conf"))
        .current_dir(home.folder.path());
    let mut server = Process::start("nginx", home.folder.path(), &mut command)?;
    let get = async || get(port).await;
    let serves = async |expected: String| {
        eventually(&format!("nginx serves {expected}"), async || {
            let text = get().await?;
            ensure!(
                text == expected,
                "{text}, {:#}\n{}",
                home.status()?,
                files.tail()
            );
            Ok(())
        })
        .await
    };
    serves("0".to_owned()).await?;
    home.until("/reload", json!("done")).await?;

    let (is_over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = try_join_all((0..4).map(|_caller| async {
        while !is_over.load(Ordering::Relaxed) {
            get().await?;
            requests.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    }));
    let changes = async {
        for number in 1..=15 {
            home.put("page", &json!({"text": number.to_string()}))
                .await?;
            serves(number.to_string()).await?;
        }
        // It opens a block that nothing closes; nginx says so, and goes on with what it has.
        home.put("page", &json!({"text": "16", "more": "if ($host) {"}))
            .await?;
        let status = home.until("/failure/kind", json!("check")).await?;
        let message = status["failure"]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("nginx.conf") && message.contains("unexpected end of file"),
            "{message}"
        );
        ensure!(
            home.read("nginx.conf")?.contains("\"15\""),
            "the last good file stays"
        );
        serves("15".to_owned()).await?;
        home.put("page", &json!({"text": "a \"quoted\" one"}))
            .await?;
        serves("a \"quoted\" one".to_owned()).await?;
        home.until("/reload", json!("done")).await?;
        is_over.store(true, Ordering::Relaxed);
        Ok(())
    };
    tokio::try_join!(load, changes)?;
    let requests = requests.into_inner();
    ensure!(requests > 100, "only {requests} requests");
    ensure!(server.runs(), "{}", server.tail());
    server.stop().await?;
    Ok(())
}

/// Asks for the page on a connection of its own, so that no worker that ends is asked again.
async fn get(port: u16) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(10), exchange).await??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}
