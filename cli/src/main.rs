//! `confcast`: a publisher and its subscribers at your fingertips.
//!
//! Every command is one file in [`commands`]. It speaks to the services over HTTP alone
//! ([`client`]), `reap` to Redis as well, and never links them: `up` starts the programs that lie
//! beside it. Results go to standard output, everything else to standard error.

mod client;
mod commands;
mod output;
mod progress;
#[cfg(test)]
mod stand_in;
mod whole;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let result = commands::Confcast::parse().run().await;
    // Not by return: that would wait for a read of standard input that nobody wants any more.
    std::process::exit(output::exit_code(result));
}
