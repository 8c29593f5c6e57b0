//! `GET` of a document at a subscriber process, compared with an actix route that always answers
//! the same bytes.
//!
//! The timed part is the run of the generator: answers per second. Nothing is written meanwhile,
//! and no publisher runs.

use e2e::{client::document_path, testbed::FREE};

use crate::{
    Bench, documents,
    figures::{Comparison, Row, Target, Unit},
    floor::constant,
    generator::{self, Compared, Order, Processors, Requests},
};

/// Requested documents, in a pseudorandom order.
const DOCUMENTS: usize = 1_000;
/// Bytes of a value.
const BYTES: usize = 300;
/// Prepared requests, which are sent repeatedly.
const REQUESTS: usize = 10_000;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (mut publisher, _head) = documents::filled(DOCUMENTS, BYTES).await?;
    let mut subscriber = documents::subscriber(&publisher)?;
    subscriber.start().await?;
    publisher.stop().await?;
    let answer = subscriber
        .api()
        .document(FREE, &documents::id(0))
        .await?
        .expect(200)?
        .body;
    let constant = constant::start(&answer).await?;

    let places = documents::places(DOCUMENTS, REQUESTS);
    let requests = Requests::write(places.map(|place| {
        let path = document_path(FREE, &documents::id(place));
        Ok(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n").into_bytes())
    }))?;
    let ours = (subscriber.url(), subscriber.process()?.id());
    let floor = (constant.url().to_owned(), constant.id());
    let run = async |(url, id): &(String, u32)| {
        generator::run(
            bench,
            (url, *id),
            (&requests, Order::Again),
            Processors::Apart,
        )
        .await
    };
    bench.say("warming up");
    run(&floor).await?;
    run(&ours).await?;
    let beside = "actix: answers a constant of that size";
    let rate = Comparison::new(
        8,
        Unit::PerSecond,
        "GET of a document of 300 bytes, 64 connections",
        beside,
    )
    .must(Target::AtLeast(0.9));
    let processor = Comparison::new(8, Unit::Seconds, "processor time of a GET", beside);
    let mut compared = Compared::new(rate, processor);
    for round in 0..bench.rounds {
        let (ours, floor) = if round % 2 == 0 {
            (run(&ours).await?, run(&floor).await?)
        } else {
            let floor = run(&floor).await?;
            (run(&ours).await?, floor)
        };
        compared.round(&ours, &floor);
    }
    Ok(compared.rows())
}
