//! Queries on several machines: thin start-ups around Ballista's scheduler and executors, and their
//! client, with the CHES functions, rules and settings on all sides.
//!
//! Plans name functions and carry settings; each side has its own of both. Models are on the executors: a
//! query says by [`ModelName`] which one it expects.

pub(super) mod client;
mod errors;
pub(super) mod executor;
pub(super) mod gather;
pub(super) mod listing;
mod model_name;
pub(super) mod planner;
pub(super) mod scheduler;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::extension::SessionConfigExt;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_ches::ChesSettings;
use datafusion_ches::ches_udfs::{Scorer, SessionExtension};
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;
use tokio::net::TcpStream;
use url::Url;

use super::object_stores::ObjectStores;
pub(super) use errors::said_by_executor;
use model_name::ModelName;

/// How long an address has to answer.
const CONNECTING: Duration = Duration::from_secs(10);

/// Where schedulers listen.
pub(super) const SCHEDULER_PORT: u16 = 50050;

/// The host and port of a scheduler's URL.
///
/// # Errors
/// When it is none.
pub(super) fn scheduler_of(url: &str) -> Result<(String, u16)> {
    let refused = || {
        DataFusionError::Configuration(format!(
            "'{url}' is no URL of a scheduler; accepted: df://host:port"
        ))
    };
    let parsed = Url::parse(url).map_err(|_| refused())?;
    let host = parsed.host_str().filter(|_| parsed.scheme() == "df");
    let host = host.ok_or_else(refused)?.to_owned();
    Ok((host, parsed.port().unwrap_or(SCHEDULER_PORT)))
}

/// Returns when somebody listens at a scheduler's address.
///
/// # Errors
/// When nobody does for as long as `patience`.
async fn reachable(url: &str, patience: Duration) -> Result<()> {
    let (host, port) = scheduler_of(url)?;
    let began = Instant::now();
    loop {
        let connecting = TcpStream::connect((host.as_str(), port));
        let reason = match tokio::time::timeout(CONNECTING, connecting).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer for {} s", CONNECTING.as_secs()),
        };
        if began.elapsed() >= patience {
            return Err(DataFusionError::Execution(format!(
                "no scheduler at {url}: {reason}; accepted: the address of a running `ches scheduler`"
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What every side's sessions begin with.
fn config() -> SessionConfig {
    let mut config = SessionConfig::new_with_ballista();
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    options.extensions.insert(ChesSettings::default());
    config
}

/// A session with this configuration whose plans run elsewhere.
fn state(config: SessionConfig, scorer: Arc<dyn Scorer>) -> Result<SessionState> {
    let settings = ChesSettings::of(config.options());
    let stores = ObjectStores::new(Arc::new(InstrumentedObjectStoreRegistry::new()));
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(stores))
        .build_arc()?;
    let builder = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_optimizer_rules(ballista_core::optimizer::ballista_default_optimizer_rules());
    Ok(SessionExtension::new(scorer)
        .add_to_planner(builder, settings)
        .build())
}
