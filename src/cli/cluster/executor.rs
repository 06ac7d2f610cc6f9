//! `ches executor`: Ballista's, with a model that is opened once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use datafusion::error::{DataFusionError, Result};
use datafusion_ches::ModelScorer;
use datafusion_ches::ches_udfs::{
    ChesSettings, Job, PairScores, PreferencePair, PromptedResponse, ResponseScores, RowError,
    Scorer, ScorerError,
};

use super::ModelName;

/// Seconds between two signs of life.
const HEARTBEAT: u64 = 5;

/// How long an executor waits for a scheduler that is started beside it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where to listen, and whose tasks to run.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecutorArgs {
    /// The scheduler
    #[arg(long, value_name = "URL", default_value = "df://127.0.0.1:50050")]
    scheduler: String,

    /// The address to listen at, by which the scheduler and other executors reach it
    #[arg(long, default_value = "127.0.0.1")]
    host: String,

    /// The port that results are fetched from
    #[arg(long, default_value_t = 50051)]
    port: u16,

    /// The port that tasks come to
    #[arg(long, default_value_t = 50052)]
    grpc_port: u16,

    /// Tasks at the same time; 0: one for each core
    #[arg(long, default_value_t = 0)]
    tasks: usize,
}

/// Opens the model, and runs tasks until the process ends.
///
/// # Errors
/// When there is no usable model, or no scheduler.
pub(crate) async fn run(args: &ExecutorArgs, settings: &ChesSettings) -> Result<()> {
    let failed = |error: String| DataFusionError::Execution(format!("ches executor: {error}"));
    let (scheduler_host, scheduler_port) = super::scheduler_of(&args.scheduler)?;
    super::reachable(&args.scheduler, PATIENCE).await?;
    let scorer = Arc::new(ExecutorScorer::open(settings.clone()).await?);
    let state = super::state(super::config(), Arc::clone(&scorer) as _)?;
    let runtime = Arc::clone(state.runtime_env());
    let config = ExecutorProcessConfig {
        bind_host: args.host.clone(),
        external_host: Some(args.host.clone()),
        port: args.port,
        grpc_port: args.grpc_port,
        scheduler_host,
        scheduler_port,
        vcores: args.tasks,
        executor_heartbeat_interval_seconds: HEARTBEAT,
        override_function_registry: Some(Arc::new(BallistaFunctionRegistry::from(&state))),
        override_config_producer: Some(Arc::new(super::config)),
        override_runtime_producer: Some(Arc::new(move |_| Ok(Arc::clone(&runtime)))),
        ..ExecutorProcessConfig::default()
    };
    eprintln!(
        "ches executor at {}:{} with {}",
        args.host, args.port, scorer.name
    );
    let served = start_executor_process(Arc::new(config)).await;
    served.map_err(|error| failed(error.to_string()))
}

/// Scores by one model on one device, whatever path a query names.
#[derive(Debug)]
struct ExecutorScorer {
    scorer: ModelScorer,
    settings: ChesSettings,
    name: ModelName,
}

impl ExecutorScorer {
    async fn open(settings: ChesSettings) -> Result<Self> {
        let scorer = ModelScorer::new();
        let opened = scorer.encode_pairs(&settings, Vec::new()).await;
        opened.map_err(|error| DataFusionError::Configuration(error.to_string()))?;
        Ok(Self {
            name: ModelName::of(&scorer, &settings),
            scorer,
            settings,
        })
    }

    /// The same job, by this process's model.
    fn own(&self, job: &Job) -> Result<Job, ScorerError> {
        let checked = self.name.check(job.settings.model.as_deref());
        checked.map_err(|reason| ScorerError::Setting {
            key: "model",
            reason,
        })?;
        let mut own = job.clone();
        own.settings.model.clone_from(&self.settings.model);
        own.settings.device.clone_from(&self.settings.device);
        Ok(own)
    }
}

#[async_trait]
impl Scorer for ExecutorScorer {
    async fn score_pairs(
        &self,
        job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        self.scorer.score_pairs(&self.own(job)?, pairs).await
    }

    async fn score_responses(
        &self,
        job: &Job,
        responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        self.scorer
            .score_responses(&self.own(job)?, responses)
            .await
    }
}
