//! The floor of a store: an actix application that appends each body to a file and answers when it is
//! on the disk. Bodies that arrive during one sync are one append and one sync.
//!
//! It runs as another process of this program. It checks, decides and reads nothing.

use std::{fs::File, io::Write, path::Path, process::ExitCode, sync::mpsc};

use actix_web::{App, HttpResponse, HttpServer, http::header::ContentType, web};
use tokio::sync::oneshot;

use super::server::{self, Server};

/// The first argument that makes this program the floor. A port and the path of the file follow.
pub(crate) const SERVE: &str = "serve-appended";
/// The number of threads of a publisher.
const WORKERS: usize = 2;
/// Most bodies of a group, as in a publisher.
const GROUP: usize = 256;

/// A body, and where its end is awaited.
type Queued = (web::Bytes, oneshot::Sender<()>);

/// Starts the floor, with a file where other stores of a test are.
///
/// # Errors
/// When the floor does not start.
pub(crate) async fn start() -> anyhow::Result<Server> {
    Server::of_this_program("appended", SERVE, None).await
}

/// Serves until it is killed.
pub(crate) fn serve(arguments: &[String]) -> ExitCode {
    server::serve(run(arguments))
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (port, file) = server::port_and_file(arguments)?;
    let (queue, queued) = mpsc::channel();
    let file = file.to_owned();
    std::thread::spawn(move || append(&file, &queued));
    let app = move || {
        App::new()
            .app_data(web::Data::new(queue.clone()))
            .service(web::resource("/v1/collections/{collection}/documents/{id}").put(put))
            .service(web::resource("/v1/status").get(HttpResponse::NoContent))
    };
    let server = HttpServer::new(app)
        .workers(WORKERS)
        .bind(("127.0.0.1", port))?;
    Ok(server.run().await?)
}

async fn put(body: web::Bytes, queue: web::Data<mpsc::Sender<Queued>>) -> HttpResponse {
    let (done, end) = oneshot::channel();
    let appended = queue.send((body, done)).is_ok() && end.await.is_ok();
    if !appended {
        return HttpResponse::InternalServerError().finish();
    }
    HttpResponse::Ok()
        .content_type(ContentType::json())
        .body("{}")
}

/// Appends what waits, until the queue ends or the disk fails.
fn append(path: &Path, queued: &mpsc::Receiver<Queued>) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut bytes = Vec::new();
    while let Ok(first) = queued.recv() {
        let group: Vec<Queued> = std::iter::once(first)
            .chain(queued.try_iter().take(GROUP - 1))
            .collect();
        bytes.clear();
        group
            .iter()
            .for_each(|(body, _done)| bytes.extend_from_slice(body));
        file.write_all(&bytes)?;
        file.sync_data()?;
        for (_body, done) in group {
            // A client may have gone.
            done.send(()).ok();
        }
    }
    Ok(())
}
