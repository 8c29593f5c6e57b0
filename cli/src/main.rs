//! `confcast`: the command line of Confcast.
//!
//! Every command is one file in [`commands`]. It talks to the services over HTTP alone (crate
//! `client`), `reap` to Redis as well, and never links the services: `up` starts the programs that
//! are in the same folder. Results go to standard output, everything else to standard error.

mod author;
mod backup_file;
mod commands;
mod credentials;
#[cfg(test)]
mod fake_publisher;
mod input;
mod output;
mod progress;
mod target;
mod whole_file;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for (name, _value) in std::env::vars_os() {
        if let Some(warning) = contract::environment::warning(&name.to_string_lossy()) {
            output::note(format_args!("confcast: {warning}"));
        }
    }
    let result = commands::Confcast::parse().run().await;
    // Not by return: that would wait for a pending read of standard input, whose result nothing
    // needs.
    std::process::exit(output::exit_code(result));
}
