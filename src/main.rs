//! The command `ches`: SQL over preference data, with the CHES functions built in.

mod cli;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(cli::Args::parse()).await
}
