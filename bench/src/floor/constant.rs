//! The floor of an HTTP service: an actix application like ours that only answers a constant.
//!
//! It runs as another process of this program. Its routes have the same form as ours; it reads
//! events to their end and ignores them.

use std::process::{Command, ExitCode};

use actix_web::{App, HttpResponse, HttpServer, http::header::ContentType, web};
use anyhow::Context;
use e2e::testbed::{ports::free_port, process::folder};

use super::server::Server;

/// The first argument that makes this program the floor. A port and a file with a document follow.
pub(crate) const SERVE: &str = "serve-constant";
/// The number of threads of a subscriber.
const WORKERS: usize = 2;

/// Starts the floor. Every read of a document returns `document`.
///
/// # Errors
/// When the floor does not start.
pub(crate) async fn start(document: &str) -> anyhow::Result<Server> {
    let folder = folder()?;
    let port = free_port()?;
    let file = folder.path().join("document");
    std::fs::write(&file, document)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVE).arg(port.to_string()).arg(file);
    Server::start("constant", port, folder, &mut command).await
}

/// Serves until it is killed.
pub(crate) fn serve(arguments: &[String]) -> ExitCode {
    let served = actix_web::rt::System::new().block_on(run(arguments));
    if served.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [port, file] = arguments else {
        anyhow::bail!("a port and a file are needed")
    };
    let port: u16 = port.parse().context("a port")?;
    let document = web::Bytes::from(std::fs::read(file)?);
    let app = move || {
        let document = document.clone();
        let documents = web::resource("/v1/collections/{collection}/documents/{id}");
        App::new()
            .service(web::resource("/dapr/processConfigurationEvents").post(process))
            .service(documents.get(move || {
                std::future::ready(
                    HttpResponse::Ok()
                        .content_type(ContentType::json())
                        .body(document.clone()),
                )
            }))
            .service(web::resource("/v1/status").get(HttpResponse::NoContent))
    };
    let server = HttpServer::new(app)
        .workers(WORKERS)
        .bind(("127.0.0.1", port))?;
    Ok(server.run().await?)
}

async fn process(_body: web::Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(r#"{"status":"SUCCESS"}"#)
}
