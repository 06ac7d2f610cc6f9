//! Arguments, the session, and what is run in it.

mod args;
mod object_stores;
mod progress;
mod report;
mod session;

use std::io::{IsTerminal, Read, stderr, stdin};
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion_cli::exec;
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;
use datafusion_cli::print_format::PrintFormat;
use datafusion_cli::print_options::{MaxRows, PrintOptions};

use datafusion_ches::ModelScorer;
use env_logger::Env;

pub use args::Args;
use args::Subcommand;
use progress::Progress;

/// Runs what the arguments ask for; stops at the first statement that fails.
pub async fn run(args: Args) -> Result<()> {
    let warnings = Env::default().default_filter_or("datafusion_ches=warn");
    env_logger::Builder::from_env(warnings)
        .format_timestamp(None)
        .format_target(false)
        .init();
    let mut scorer = ModelScorer::new();
    if !args.quiet && stderr().is_terminal() {
        scorer = scorer.with_observer(Arc::new(Progress::default()));
    }
    let stores = Arc::new(InstrumentedObjectStoreRegistry::new());
    let ctx = session::start(&args, Arc::new(scorer), Arc::clone(&stores)).await?;
    let mut options = PrintOptions {
        format: args.format,
        quiet: args.quiet,
        maxrows: max_rows(&args),
        color: false,
        instrumented_registry: stores,
    };
    if let Some(Subcommand::Report { source, output }) = &args.subcommand {
        exec::exec_from_commands(&ctx, given_scripts(&args)?, &options).await?;
        report::write(&ctx, source, output).await?;
        if !args.quiet {
            println!("wrote {}", output.display());
        }
        return Ok(());
    }
    let scripts = scripts(&args)?;
    if scripts.is_empty() {
        return exec::exec_from_repl(&ctx, &mut options)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)));
    }
    exec::exec_from_commands(&ctx, scripts, &options).await
}

/// Only tables are abridged: the other formats are read by programs, which want every row.
fn max_rows(args: &Args) -> MaxRows {
    match args.format {
        PrintFormat::Automatic | PrintFormat::Table => args.maxrows,
        _ => MaxRows::Unlimited,
    }
}

/// The SQL of the arguments: files first, then commands.
fn given_scripts(args: &Args) -> Result<Vec<String>> {
    let mut scripts = Vec::new();
    for file in &args.file {
        let script = std::fs::read_to_string(file).map_err(|error| {
            DataFusionError::Configuration(format!("{}: {error}", file.display()))
        })?;
        scripts.push(script);
    }
    scripts.extend(args.command.iter().cloned());
    Ok(scripts)
}

/// The SQL to run: that of the arguments, or else what is piped in. None: a person types.
fn scripts(args: &Args) -> Result<Vec<String>> {
    let mut scripts = given_scripts(args)?;
    if scripts.is_empty() && !stdin().is_terminal() {
        let mut script = String::new();
        stdin().read_to_string(&mut script)?;
        scripts.push(script);
    }
    Ok(scripts)
}
