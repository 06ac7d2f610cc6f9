//! `ches scheduler`: Ballista's, which knows the functions by name and computes nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::error::{DataFusionError, Result};

use super::planner::Planner;

/// An executor that is not heard of for so many seconds is given up, and its tasks go to others.
const EXECUTOR_TIMEOUT: u64 = 30;

/// How often that is looked at, in seconds.
const LOOK: u64 = 5;

/// Where to listen.
#[derive(Debug, clap::Args)]
pub(crate) struct SchedulerArgs {
    /// The address to listen at; other machines reach one that is theirs
    #[arg(long, default_value = "127.0.0.1")]
    host: String,

    /// Its port
    #[arg(long, default_value_t = super::SCHEDULER_PORT)]
    port: u16,
}

/// Runs until the process ends.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn run(args: &SchedulerArgs) -> Result<()> {
    let failed = |error: String| DataFusionError::Execution(format!("ches scheduler: {error}"));
    let address = format!("{}:{}", args.host, args.port);
    let address: SocketAddr = address.parse().map_err(|_| {
        failed(format!(
            "'{address}' is no address; accepted: an IP address and a port"
        ))
    })?;
    let config = SchedulerConfig {
        bind_host: args.host.clone(),
        external_host: args.host.clone(),
        bind_port: args.port,
        executor_timeout_seconds: EXECUTOR_TIMEOUT,
        expire_dead_executor_interval_seconds: LOOK,
        no_executors_grace_period_seconds: EXECUTOR_TIMEOUT,
        override_config_producer: Some(Arc::new(super::config)),
        override_session_builder: Some(Arc::new(|config| {
            super::state(config, Arc::new(Planner::default()))
        })),
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await;
    let cluster = cluster.map_err(|error| failed(error.to_string()))?;
    eprintln!("ches scheduler listens at df://{address}");
    let served = start_server(cluster, address, Arc::new(config)).await;
    served.map_err(|error| failed(error.to_string()))
}
