//! The floor of an HTTP service: an actix application like ours that only answers a constant.
//!
//! It runs as another process of this program. Its routes have the same form as ours; it reads
//! events to their end and ignores them.

use std::process::ExitCode;

use actix_web::{App, HttpResponse, HttpServer, http::header::ContentType, web};

use super::server::{self, Server};

/// The first argument that makes this program the floor. A port and a file with a document follow.
pub(crate) const SERVE: &str = "serve-constant";
/// The number of threads of a subscriber.
const WORKERS: usize = 2;

/// Starts the floor. Every read of a document returns `document`.
///
/// # Errors
/// When the floor does not start.
pub(crate) async fn start(document: &str) -> anyhow::Result<Server> {
    Server::of_this_program("constant", SERVE, Some(document)).await
}

/// Serves until it is killed.
pub(crate) fn serve(arguments: &[String]) -> ExitCode {
    server::serve(run(arguments))
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (port, file) = server::port_and_file(arguments)?;
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
