//! What scheduling on a cluster costs: one, two and three Ballista executors in this process, whose
//! scorer sleeps for two milliseconds a row, against the time that this sleep takes.
//!
//! ```sh
//! cargo run --release --features cluster --example cluster_throughput
//! ```

#[path = "../tests/support/ballista.rs"]
mod ballista;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista::Cluster;
use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_ches::ches_udfs::{
    Job, PairScores, PreferencePair, PromptedResponse, ResponseScores, RowError, Scorer,
    ScorerError,
};

const ROW: Duration = Duration::from_millis(2);
const FILES: usize = 24;
const ROWS_EACH: usize = 500;

/// A device that is slow, and shared by the tasks of its executor.
#[derive(Debug, Default)]
struct Sleeping {
    device: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Scorer for Sleeping {
    async fn score_pairs(
        &self,
        _job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        let _device = self.device.lock().await;
        tokio::time::sleep(ROW * pairs.len() as u32).await;
        let scores = PairScores {
            ches: Some(1.0),
            ..PairScores::default()
        };
        Ok(vec![Ok(scores); pairs.len()])
    }

    async fn score_responses(
        &self,
        _job: &Job,
        _responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        Err(ScorerError::Other("only pairs".into()))
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("ches-throughput-{}", std::process::id()));
    let local = SessionContext::new();
    for file in 0..FILES {
        let first = file * ROWS_EACH;
        let (last, place) = (
            first + ROWS_EACH - 1,
            folder.join(format!("{file}.parquet")),
        );
        let sql = format!(
            "COPY (SELECT value AS id, 'q' || value AS prompt, repeat('a', 200) AS chosen, \
             repeat('b', 200) AS rejected FROM generate_series({first}, {last})) TO '{}'",
            place.display()
        );
        local.sql(&sql).await?.collect().await?;
    }
    println!("| executors | seconds | of sleep | more |\n|---|---|---|---|");
    for executors in 1..=3 {
        let cluster = Cluster::start(Vec::new()).await;
        for _ in 0..executors {
            // The next task's rows are read while those of the last are scored.
            cluster.add_executor(Arc::new(Sleeping::default()), 2).await;
        }
        let ctx = cluster.session().await;
        let options = ParquetReadOptions::default();
        let place = folder.to_str().expect("a UTF-8 path");
        ctx.register_parquet("pairs", place, options).await?;
        let sql = "SELECT id, ches(prompt, chosen, rejected) FROM pairs";
        let began = Instant::now();
        let batches = ctx.sql(sql).await?.collect().await?;
        let took = began.elapsed().as_secs_f64();
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, FILES * ROWS_EACH);
        let slept = (ROW * rows as u32).as_secs_f64() / f64::from(executors);
        let more = 100.0 * (took / slept - 1.0);
        println!("| {executors} | {took:.2} | {slept:.2} | {more:.1} % |");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
