//! Repairs that are asked for over HTTP.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Outcome, log::log, testbed::with_publisher};

#[tokio::test]
async fn the_log_has_the_end_of_a_repair_whose_client_reads_no_answer() -> Outcome {
    let log = log();
    with_publisher(&[], async |publisher| {
        let body = r#"{"collections":["Agents"]}"#;
        let request = format!(
            "POST /v1/repair HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut client = TcpStream::connect(publisher.address()).await?;
        client.write_all(request.as_bytes()).await?;
        let end = "a repair of 1 collections has ended: Agents Whole";
        let ended = log.line(&[end, "applied=false"]).await;
        drop(client);
        ended
    })
    .await
}
