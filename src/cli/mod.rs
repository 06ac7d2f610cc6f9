//! Arguments, the session, and what is run in it.

mod args;
mod cache;
#[cfg(feature = "cluster")]
mod cluster;
mod context;
#[cfg(feature = "delta")]
mod delta;
mod object_stores;
mod output;
mod progress;
mod report;
mod scores;
mod session;
mod stop;
mod tables;
mod watch;

use std::io::{IsTerminal, Read, stderr, stdin};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::{DataFusionError, Result};
#[cfg(feature = "cluster")]
use datafusion::prelude::SessionContext;
use datafusion_cli::exec;
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;
use datafusion_cli::print_format::PrintFormat;
use datafusion_cli::print_options::{MaxRows, PrintOptions};

use datafusion_ches::{ChesSettings, ModelScorer, flush_cache};
use tracing_subscriber::EnvFilter;

pub(crate) use args::Args;
use args::{CacheAction, Subcommand};
use context::Context;
use output::Cleanup;
use progress::Progress;
use scores::Scores;
use stop::{INTERRUPTED, Stop};
use watch::Watch;

/// How long a stopped run may take to clear away what it wrote, and to write its scores to the cache.
const CLEARING: Duration = Duration::from_secs(10);

/// How long the end of a run waits for its last scores to be in the cache.
const FLUSH: Duration = Duration::from_secs(200);

/// How long statements that were stopped may take to finish.
const LETTING_GO: Duration = Duration::from_secs(5);

/// What is told on stderr unless `RUST_LOG` asks for something else.
const WARNINGS: &str = "datafusion_ches=warn,ches_udfs=warn";

/// Plans may be deep.
const STACK_BYTES: usize = 16 << 20;

/// Runs what the arguments ask for; stops at the first statement that fails, and when it is
/// interrupted.
pub(crate) async fn run(args: Args) -> ExitCode {
    start_logging();
    let began = Instant::now();
    // Where a person types, statements are interrupted one by one.
    let stop = match is_interactive(&args) {
        true => Ok(Stop::never()),
        false => Stop::listen(),
    };
    let stop = match stop {
        Ok(stop) => stop,
        Err(error) => return failed(&DataFusionError::IoError(error)),
    };
    let watch = Arc::new(Watch::default());
    let args = Arc::new(args);
    let context = match start(&args, &watch).await {
        Ok(context) => Arc::new(context),
        Err(error) => return failed(&error),
    };
    let done = tokio::select! {
        done = statements(&args, &context, &stop) => done,
        () = letting_go(&stop) => None,
    };
    let Some(done) = done else {
        clear(&context, &watch).await;
        summarise(&args, &watch, began);
        // At once: a forward pass that is under way has no end that could be waited for.
        std::process::exit(INTERRUPTED.into());
    };
    let flushed = tokio::select! {
        flushed = flushed(FLUSH) => flushed,
        () = stop.asked() => Err("stopped".into()),
    };
    if let Err(reason) = flushed {
        eprintln!("ches.cache: {reason}; its last scores are not kept");
    }
    summarise(&args, &watch, began);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Executes on a thread of its own, which may block while signals are waited for. None if it was
/// stopped.
async fn statements(args: &Arc<Args>, context: &Arc<Context>, stop: &Stop) -> Option<Result<()>> {
    let (args, context, stop) = (Arc::clone(args), Arc::clone(context), stop.clone());
    let runtime = tokio::runtime::Handle::current();
    let (end, ended) = tokio::sync::oneshot::channel();
    let work = move || {
        let done = runtime.block_on(async {
            tokio::select! {
                done = execute(&args, &context) => Some(done),
                () = stop.asked() => None,
            }
        });
        let _ = end.send(done);
    };
    let thread = std::thread::Builder::new()
        .name("ches-statements".into())
        .stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(work) {
        return Some(Err(DataFusionError::IoError(error)));
    }
    let panicked = |_| Some(Err(DataFusionError::Internal("it panicked".into())));
    ended.await.unwrap_or_else(panicked)
}

async fn letting_go(stop: &Stop) {
    stop.asked().await;
    tokio::time::sleep(LETTING_GO).await;
}

fn failed(error: &DataFusionError) -> ExitCode {
    let message = error.to_string();
    #[cfg(feature = "cluster")]
    let message = cluster::said_by_executor(&message).unwrap_or(message);
    eprintln!("Error: {message}");
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
    let session = session::start(args, scoring, watching, Arc::clone(&stores)).await?;
    #[cfg(feature = "cluster")]
    let local = match &args.cluster {
        Some(url) => {
            let local = SessionContext::new_with_state(session.state());
            let planner = cluster::client::connect(&session, url).await?;
            Some(cluster::gather::Local {
                session: local,
                planner,
            })
        }
        None => None,
    };
    Ok(Context {
        session,
        #[cfg(feature = "cluster")]
        local,
        stores,
        watch: Arc::clone(watch),
        scorer,
        clearing: Cleanup::default(),
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
        #[cfg(feature = "cluster")]
        Some(Subcommand::Scheduler(scheduler)) => return cluster::scheduler::run(scheduler).await,
        #[cfg(feature = "cluster")]
        Some(Subcommand::Executor(executor)) => {
            let settings = ChesSettings::of(context.session.copied_config().options());
            return cluster::executor::run(executor, &settings).await;
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

/// Leaves nothing half done, and says how to go on.
async fn clear(context: &Context, watch: &Watch) {
    let is_cleared = context.clearing.wait(CLEARING).await;
    let is_flushed = flushed(CLEARING).await.is_ok();
    let settings = context.session.copied_config();
    let settings = settings.options().extensions.get::<ChesSettings>();
    let cache = settings.and_then(|settings| settings.cache.clone());
    eprintln!("Stopped.");
    if !is_cleared {
        eprintln!("Files of this run may be left; the next run removes them.");
    }
    let has_scores = watch.scores().is_some_and(|scores| scores.scored > 0);
    match cache {
        _ if !has_scores => {}
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

/// The last line of a run that scored: the outcome of its rows.
fn summarise(args: &Args, watch: &Watch, began: Instant) {
    let Some(scores) = watch.scores().filter(|_| !args.quiet) else {
        return;
    };
    // Nothing but plans were asked for.
    if scores == Scores::default() {
        return;
    }
    let tokens = scores.tokens;
    let took = began.elapsed().as_secs_f64();
    let per_second = tokens as f64 / took.max(0.001);
    let failed = watch.failed().map(|failed| format!("; {failed}"));
    let failed = failed.unwrap_or_default();
    eprintln!("{scores}; {tokens} tokens in {took:.1} s ({per_second:.0}/s){failed}");
}

/// What is told on stderr: warnings, or what `RUST_LOG` asks for.
fn start_logging() {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = EnvFilter::builder().parse_lossy(match asked.as_str() {
        "" => WARNINGS,
        asked => asked,
    });
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
