//! A Ballista scheduler and executors in this process, with a scorer of one's choice, and their
//! sessions: as a host embeds the plugin in a cluster of its own.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista::prelude::SessionContextExt;
use ballista_core::extension::SessionConfigExt;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::ches_udfs::{
    ChesSettings, Job, PairScores, PreferencePair, PromptedResponse, ResponseScores, RowError,
    Scorer, ScorerError, SessionExtension,
};

const LOCALHOST: &str = "127.0.0.1";

/// A scheduler, and what its executors know.
pub(crate) struct Cluster {
    port: u16,
    functions: Vec<ScalarUDF>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

async fn until_somebody_listens(port: u16) {
    let began = Instant::now();
    while tokio::net::TcpStream::connect((LOCALHOST, port))
        .await
        .is_err()
    {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "nobody listens at {port}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn config() -> SessionConfig {
    let mut config = SessionConfig::new_with_ballista().with_information_schema(true);
    config
        .options_mut()
        .extensions
        .insert(ChesSettings::default());
    config
}

fn state(config: SessionConfig, scorer: Arc<dyn Scorer>, functions: &[ScalarUDF]) -> SessionState {
    let settings = ChesSettings::of(config.options());
    let mut builder = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_optimizer_rules(ballista_core::optimizer::ballista_default_optimizer_rules());
    let known = builder.scalar_functions().get_or_insert_default();
    known.extend(functions.iter().cloned().map(Arc::new));
    let builder = SessionExtension::new(scorer).add_to_planner(builder, settings);
    builder.build()
}

impl Cluster {
    /// A scheduler that knows the CHES functions, and `functions`.
    pub(crate) async fn start(functions: Vec<ScalarUDF>) -> Self {
        let port = free_port();
        let known = functions.clone();
        let config = Arc::new(SchedulerConfig {
            bind_host: LOCALHOST.into(),
            external_host: LOCALHOST.into(),
            bind_port: port,
            override_config_producer: Some(Arc::new(config)),
            override_session_builder: Some(Arc::new(move |config| {
                Ok(state(config, Arc::new(Nobody), &known))
            })),
            ..SchedulerConfig::default()
        });
        let cluster = BallistaCluster::new_from_config(&config).await.unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        tokio::spawn(async move { start_server(cluster, address, config).await.unwrap() });
        until_somebody_listens(port).await;
        Self { port, functions }
    }

    /// Adds an executor that runs as many tasks at a time, by this scorer.
    pub(crate) async fn add_executor(&self, scorer: Arc<dyn Scorer>, tasks: usize) {
        let state = state(config(), scorer, &self.functions);
        let grpc_port = free_port();
        let config = ExecutorProcessConfig {
            bind_host: LOCALHOST.into(),
            external_host: Some(LOCALHOST.into()),
            port: free_port(),
            grpc_port,
            scheduler_host: LOCALHOST.into(),
            scheduler_port: self.port,
            scheduler_connect_timeout_seconds: 20,
            vcores: tasks,
            override_function_registry: Some(Arc::new(BallistaFunctionRegistry::from(&state))),
            override_config_producer: Some(Arc::new(config)),
            ..ExecutorProcessConfig::default()
        };
        tokio::spawn(async move { start_executor_process(Arc::new(config)).await.unwrap() });
        until_somebody_listens(grpc_port).await;
    }

    /// A session whose queries run there.
    pub(crate) async fn session(&self) -> SessionContext {
        let url = format!("df://{LOCALHOST}:{}", self.port);
        let nobody = || Arc::new(Nobody);
        let state = state(config(), nobody(), &self.functions);
        let settings = ChesSettings::of(state.config().options());
        let remote = SessionContext::remote_with_state(&url, state)
            .await
            .unwrap();
        // Ballista has put its own functions in the place of all.
        let mut builder = SessionStateBuilder::new_from_existing(remote.state())
            .with_session_id(remote.session_id());
        let known = builder.scalar_functions().get_or_insert_default();
        known.extend(self.functions.iter().cloned().map(Arc::new));
        let state = SessionExtension::new(nobody())
            .add_to_planner(builder, settings)
            .build();
        SessionContext::new_with_state(state)
    }
}

/// Where plans are only made.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Scorer for Nobody {
    async fn score_pairs(
        &self,
        _job: &Job,
        _pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        panic!("a client or scheduler scores")
    }

    async fn score_responses(
        &self,
        _job: &Job,
        _responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        panic!("a client or scheduler scores")
    }
}
