//! Measures 7 and 8: reads in the memory of a service that embeds the library (7) and over HTTP
//! (8).

mod http;
mod in_memory;
mod writer;

use crate::{Bench, figures::Row};

pub(crate) async fn measure(number: u8, bench: &Bench) -> anyhow::Result<Vec<Row>> {
    if number == 7 {
        in_memory::measure(bench).await
    } else {
        http::measure(bench).await
    }
}
