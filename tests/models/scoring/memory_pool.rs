//! A query's memory pool: what scoring takes from it, and a sort by score that does not fit into it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::tiny_gguf::tiny_llama;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Float64Type, Int64Type};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::{Ches, flush_cache};
use tempfile::TempDir;

const LIMIT: usize = 24 << 20;
const ROWS: usize = 12_000;

/// A pool of [`LIMIT`] bytes that knows the most that each consumer had.
#[derive(Debug)]
struct Watched {
    pool: GreedyMemoryPool,
    most: Mutex<BTreeMap<String, usize>>,
}

impl Watched {
    fn note(&self, reservation: &MemoryReservation, more: usize) {
        let mut most = self.most.lock().unwrap();
        let name = reservation.consumer().name().to_owned();
        let of_name = most.entry(name).or_default();
        *of_name = (*of_name).max(reservation.size() + more);
    }

    fn most_of(&self, name: &str) -> usize {
        self.most.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.pool, f)
    }
}

impl MemoryPool for Watched {
    fn name(&self) -> &str {
        "watched"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.note(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.pool.try_grow(reservation, additional)?;
        self.note(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

fn session(folder: &TempDir, cache: &str, pool: Option<Arc<dyn MemoryPool>>) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_batch_size(512);
    let execution = &mut config.options_mut().execution;
    execution.sort_spill_reservation_bytes = 1 << 20;
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(pool) = pool {
        runtime = runtime.with_memory_pool(pool);
    }
    let ctx = SessionContext::new_with_config_rt(config, runtime.build_arc().unwrap());
    let ches = Ches::new()
        .with_model(folder.path().join("tiny.gguf").to_str().unwrap())
        .with_batch_tokens(1)
        .with_cache(folder.path().join(cache).to_str().unwrap());
    ches.unwrap().register(&ctx).unwrap();
    ctx
}

/// Rows by score, with texts of 6 KB each; how often a sort spilled.
async fn sorted(ctx: &SessionContext) -> (Vec<(i64, f64)>, usize) {
    let sql = format!(
        "SELECT id, score, wide FROM (SELECT value AS id, repeat(CAST(value AS VARCHAR), 1500) AS wide, \
           ches(translate(CAST(value AS VARCHAR), '0123456789', 'cdefghijkl'), \
             repeat('y', 1 + value % 3), 'no') AS score \
         FROM generate_series(1, {ROWS})) ORDER BY score, id"
    );
    let frame = ctx.sql(&sql).await.unwrap();
    let plan = frame.create_physical_plan().await.unwrap();
    let batches = collect(Arc::clone(&plan), ctx.task_ctx()).await.unwrap();
    let pairs = |batch: &RecordBatch| {
        let ids = batch
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .to_vec();
        let scores = batch.column(1).as_primitive::<Float64Type>().values();
        ids.into_iter().zip(scores.to_vec()).collect::<Vec<_>>()
    };
    (batches.iter().flat_map(pairs).collect(), spills(&plan))
}

fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|metrics| metrics.spill_count());
    let below = plan.children().into_iter().map(spills).sum::<usize>();
    own.unwrap_or(0) + below
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sort_by_score_spills_and_scoring_is_accounted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tiny.gguf"), tiny_llama().bytes()).unwrap();
    let ctx = session(&folder, "scores", None);
    let (expected, never) = sorted(&ctx).await;
    assert_eq!((expected.len(), never), (ROWS, 0));
    flush_cache(Duration::from_secs(10)).unwrap();
    assert!(expected.is_sorted_by(|a, b| a.1 < b.1 || a.1 == b.1 && a.0 < b.0));

    for (cache, is_computed) in [("scores", false), ("new", true)] {
        let pool = Arc::new(Watched {
            pool: GreedyMemoryPool::new(LIMIT),
            most: Mutex::default(),
        });
        let ctx = session(&folder, cache, Some(Arc::clone(&pool) as _));
        let (found, spilled) = sorted(&ctx).await;
        assert!(spilled > 0);
        assert_eq!(found, expected);
        for kept in ["ches memo", "ches cache"] {
            let bytes = pool.most_of(kept);
            assert!(bytes > 0 && bytes <= LIMIT / 8, "{kept}: {pool:?}");
        }
        let has_activations = pool.most_of("ches activations") > 0;
        assert_eq!(has_activations, is_computed, "{pool:?}");
    }
}
