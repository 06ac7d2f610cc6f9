//! The command line.

use std::path::PathBuf;

use clap::Parser;
use datafusion_cli::print_format::PrintFormat;
use datafusion_cli::print_options::MaxRows;

#[cfg(feature = "cluster")]
use super::cluster::{executor::ExecutorArgs, scheduler::SchedulerArgs};

/// SQL over preference data, with CHES scores as functions.
///
/// Without -c and -f, reads statements from standard input: typed by a person, or piped in.
#[derive(Debug, Parser)]
#[command(name = "ches", version)]
pub(crate) struct Args {
    /// SQL to run; several statements each, may be repeated
    #[arg(short, long, value_name = "SQL", allow_hyphen_values = true)]
    pub command: Vec<String>,

    /// File of SQL to run before the commands; may be repeated
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// The language model: a directory, a .gguf file or a URL (ches.model)
    #[arg(long, global = true)]
    pub model: Option<String>,

    /// Where it runs: auto, cpu, cuda or cuda:0 (ches.device)
    #[arg(long, global = true)]
    pub device: Option<String>,

    /// A setting, such as ches.max_length=2048 or datafusion.execution.target_partitions=1;
    /// may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,

    /// Run queries on the cluster of this scheduler: df://host:port
    #[cfg(feature = "cluster")]
    #[arg(long, value_name = "URL")]
    pub cluster: Option<String>,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = PrintFormat::Automatic)]
    pub format: PrintFormat,

    /// Rows of a printed table; inf for all of them
    #[arg(long, default_value = "40")]
    pub maxrows: MaxRows,

    /// Print results only
    #[arg(short, long, global = true)]
    pub quiet: bool,

    #[command(subcommand)]
    pub subcommand: Option<Subcommand>,
}

/// What is done instead of printing results.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    /// Write an HTML page about a data set: how its scores are distributed, which pairs are worst,
    /// and what cut-offs would drop
    Report {
        /// A table, a file, a URL or a query with the columns chosen and rejected, and prompt unless
        /// they repeat it
        #[arg(value_name = "TABLE OR QUERY")]
        source: String,

        /// Where the page goes
        #[arg(short, long, value_name = "FILE", default_value = "ches-report.html")]
        output: PathBuf,
    },

    /// Look after a directory of scores (ches.cache)
    Cache {
        #[command(subcommand)]
        action: CacheAction,
    },

    /// Distribute the queries of clients (--cluster) among executors
    #[cfg(feature = "cluster")]
    Scheduler(SchedulerArgs),

    /// Run tasks of a scheduler, with the model of --model
    #[cfg(feature = "cluster")]
    Executor(ExecutorArgs),
}

/// What is done to a directory of scores.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CacheAction {
    /// Put small files together, and forget what stands in several
    Compact {
        /// The directory, by path or URL, that ches.cache names
        #[arg(value_name = "PLACE")]
        place: String,
    },
}

fn key_value(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("accepted: KEY=VALUE with a whole key, such as ches.max_length=2048".into()),
    }
}
