//! Arguments, the session, and what is run in it.

mod args;
mod cache;
mod context;
mod object_stores;
mod output;
mod progress;
mod report;
mod scores;
mod session;
mod tables;
mod watch;

use std::io::{IsTerminal, Read, stderr, stdin};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::{DataFusionError, Result};
use datafusion_cli::exec;
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;
use datafusion_cli::print_format::PrintFormat;
use datafusion_cli::print_options::{MaxRows, PrintOptions};

use datafusion_ches::{ChesSettings, ModelScorer, flush_cache};
use tracing_subscriber::EnvFilter;

pub use args::Args;
use args::{CacheAction, Subcommand};
use context::Context;
use output::Clearing;
use progress::Progress;
use scores::Scores;
use watch::Watch;

/// How long a stopped run may take to clear away what it wrote, and to write its scores to the cache.
const CLEARING: Duration = Duration::from_secs(10);

/// How long the end of a run waits for its last scores to be in the cache.
const FLUSH: Duration = Duration::from_secs(200);

/// The exit status of a run that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

/// Runs what the arguments ask for; stops at the first statement that fails, and when it is
/// interrupted.
pub async fn run(args: Args) -> ExitCode {
    start_logging();
    let began = Instant::now();
    let watch = Arc::new(Watch::default());
    let context = match start(&args, &watch).await {
        Ok(context) => context,
        Err(error) => return failed(&error),
    };
    let done = {
        let work = execute(&args, &context);
        tokio::select! {
            done = work => Some(done),
            () = stopped(), if !is_interactive(&args) => None,
        }
    };
    let Some(done) = done else {
        let cleared = clear(&context);
        tokio::select! {
            () = cleared => {}
            () = stopped() => {}
        }
        summarise(&args, &watch, began);
        // At once: a forward pass that is under way has no end that could be waited for.
        std::process::exit(INTERRUPTED.into());
    };
    if let Err(reason) = flushed(FLUSH).await {
        eprintln!("ches.cache: {reason}; its last scores are not kept");
    }
    summarise(&args, &watch, began);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &DataFusionError) -> ExitCode {
    eprintln!("Error: {error}");
    ExitCode::FAILURE
}

async fn start(args: &Args, watch: &Arc<Watch>) -> Result<Context> {
    let mut scorer = ModelScorer::new();
    if !args.quiet && stderr().is_terminal() {
        scorer = scorer.with_observer(Arc::new(Progress::new(Arc::clone(watch))));
    }
    let scorer = Arc::new(scorer);
    let stores = Arc::new(InstrumentedObjectStoreRegistry::new());
    let (scoring, watching) = (Arc::clone(&scorer), Arc::clone(watch));
    Ok(Context {
        session: session::start(args, scoring, watching, Arc::clone(&stores)).await?,
        stores,
        watch: Arc::clone(watch),
        scorer,
        clearing: Clearing::default(),
    })
}

/// Whether a person types statements, and interrupts one by one.
fn is_interactive(args: &Args) -> bool {
    let has_sql = !args.command.is_empty() || !args.file.is_empty();
    !has_sql && args.subcommand.is_none() && stdin().is_terminal()
}

async fn execute(args: &Args, context: &Context) -> Result<()> {
    let mut options = PrintOptions {
        format: args.format,
        quiet: args.quiet,
        maxrows: max_rows(args),
        color: false,
        instrumented_registry: Arc::clone(&context.stores),
    };
    match &args.subcommand {
        Some(Subcommand::Cache {
            action: CacheAction::Compact { place },
        }) => return cache::compact(place, args.quiet).await,
        Some(Subcommand::Report { source, output }) => {
            exec::exec_from_commands(context, given_scripts(args)?, &options).await?;
            report::write(&context.session, source, output).await?;
            if !args.quiet {
                println!("wrote {}", output.display());
            }
            return Ok(());
        }
        None => {}
    }
    let scripts = scripts(args)?;
    if scripts.is_empty() {
        return exec::exec_from_repl(context, &mut options)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)));
    }
    exec::exec_from_commands(context, scripts, &options).await
}

/// Ends when somebody wants the run to end: Ctrl-C, or SIGTERM from whoever takes the machine away.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Leaves nothing half done, and says how to go on.
async fn clear(context: &Context) {
    let is_cleared = context.clearing.wait(CLEARING).await;
    let is_flushed = flushed(CLEARING).await.is_ok();
    let settings = context.session.copied_config();
    let settings = settings.options().extensions.get::<ChesSettings>();
    let cache = settings.and_then(|settings| settings.cache.clone());
    eprintln!("Stopped.");
    if !is_cleared {
        eprintln!("Files of this run may be left; the next run removes them.");
    }
    match cache {
        Some(cache) if is_flushed => {
            eprintln!("Its scores are in {cache}: the same command goes on from there.");
        }
        Some(cache) => eprintln!("Its last scores could not be written to {cache}."),
        None => eprintln!(
            "Its scores are lost; with --set ches.cache=<directory or URL> a run that is started \
             again goes on from where it was."
        ),
    }
}

async fn flushed(within: Duration) -> Result<(), String> {
    let flush = tokio::task::spawn_blocking(move || flush_cache(within));
    flush.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// The last line of a run that scored: what became of the rows.
fn summarise(args: &Args, watch: &Watch, began: Instant) {
    let Some(scores) = watch.scores().filter(|_| !args.quiet) else {
        return;
    };
    let Scores {
        scored,
        failed,
        truncated,
        skipped,
        cache_hits,
        memo_hits,
        tokens,
    } = scores;
    let took = began.elapsed().as_secs_f64();
    let per_second = tokens as f64 / took.max(0.001);
    eprintln!(
        "{scored} rows scored: {failed} failed, {truncated} truncated; {skipped} skipped; \
         {cache_hits} cache hits, {memo_hits} memo hits; {tokens} tokens in {took:.1} s ({per_second:.0}/s)"
    );
}

/// What is told on stderr: warnings, or what `RUST_LOG` asks for.
fn start_logging() {
    let filter = EnvFilter::builder()
        .with_default_directive("datafusion_ches=warn".parse().expect("a directive"))
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
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
