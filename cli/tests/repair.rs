//! The report of `confcast repair`, as a terminal shows it.

use std::{process::Command, thread};

use actix_web::{App, HttpResponse, HttpServer, web};

const REPORT: &str = r#"{"applied":false,"collections":[
    {"collection":"A","state":"whole","rows":3,"fromLog":{"count":0},"stray":{"count":0},
     "unrecoverable":{"count":0},"records":{"count":0}},
    {"collection":"B","state":"repairable","rows":2,
     "fromLog":{"count":1,"named":[{"id":"x","damage":"a\nb"}]},"stray":{"count":0},
     "unrecoverable":{"count":0},"records":{"count":0}}]}"#;

#[test]
fn the_report_is_a_table_of_one_line_for_each_collection() {
    let (address, publisher) = std::sync::mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(|| {
                let answer = async || {
                    HttpResponse::Ok()
                        .content_type("application/json")
                        .body(REPORT)
                };
                App::new().route("/v1/repair", web::post().to(answer))
            });
            let server = server.workers(1).disable_signals();
            let server = server.bind(("127.0.0.1", 0)).expect("a free port");
            address.send(server.addrs()[0]).expect("the test waits");
            server.run().await
        })
    });
    let url = format!("http://{}", publisher.recv().expect("it listens"));
    let output = Command::new(env!("CARGO_BIN_EXE_confcast"))
        .args(["repair", "--publisher", &url])
        .output()
        .expect("confcast runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines_of = |name: &str| {
        let begin = format!("│ {name} ");
        shown
            .lines()
            .filter(|line| line.starts_with(&begin))
            .count()
    };
    assert_eq!((lines_of("A"), lines_of("B")), (1, 1), "{shown}{stderr}");
    let named = r"a\nb";
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("B ") && line.ends_with(named)),
        "text of the store begins no line: {shown}"
    );
}
