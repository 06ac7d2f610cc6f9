//! The memo behind queries: how many of 20,000 rows the model runs over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tiny_gguf::tiny_llama;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{Float64Type, Int64Type};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::ches_udfs::SessionExtension;
use datafusion_ches::{Ches, ChesSettings, ModelScorer, Observer};
use tempfile::TempDir;

#[derive(Debug, Default)]
struct Counts {
    computed: AtomicUsize,
    remembered: AtomicUsize,
}

impl Observer for Counts {
    fn scored(&self, rows: usize, _tokens: usize) {
        self.computed.fetch_add(rows, Ordering::SeqCst);
    }

    fn remembered(&self, rows: usize) {
        self.remembered.fetch_add(rows, Ordering::SeqCst);
    }
}

impl Counts {
    /// Rows that the model ran over, and rows that were remembered, since last asked.
    fn take(&self) -> [usize; 2] {
        [&self.computed, &self.remembered].map(|count| count.swap(0, Ordering::SeqCst))
    }
}

struct Fixture {
    folder: TempDir,
    counts: Arc<Counts>,
    ches: Ches,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        std::fs::write(&model, tiny_llama().bytes()).unwrap();
        let counts = Arc::new(Counts::default());
        let scorer = ModelScorer::new().with_observer(Arc::clone(&counts) as _);
        let ches = Ches::new()
            .with_scorer(Arc::new(scorer))
            .with_model(model.to_str().unwrap());
        Self {
            folder,
            counts,
            ches,
        }
    }

    async fn session(&self) -> SessionContext {
        let ctx = session_of_pairs().await;
        self.ches.register(&ctx).unwrap();
        ctx
    }
}

/// 20,000 pairs of distinct prompts, in the letters that the tiny model knows.
async fn session_of_pairs() -> SessionContext {
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    let pairs = "CREATE TABLE pairs AS SELECT value AS id, \
         translate(CAST(value AS VARCHAR), '0123456789', 'cdefghijkl') AS prompt, \
         repeat('y', 1 + value % 3) AS chosen, 'no' AS rejected FROM generate_series(1, 20000)";
    ctx.sql(pairs).await.unwrap().collect().await.unwrap();
    ctx
}

async fn run(ctx: &SessionContext, sql: &str) -> Result<f64> {
    let batches = ctx.sql(sql).await?.collect().await?;
    let column = batches[0].column(0);
    Ok(match column.as_primitive_opt::<Float64Type>() {
        Some(number) => number.value(0),
        None => column.as_primitive::<Int64Type>().value(0) as f64,
    })
}

async fn set(ctx: &SessionContext, key: &str, value: &str) {
    let sql = format!("SET ches.{key} = '{value}'");
    ctx.sql(&sql).await.unwrap().collect().await.unwrap();
}

/// Whether sums are of the same scores, computed in other company maybe.
fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

const C: &str = "ches(prompt, chosen, rejected)";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_paid_for_once() {
    let queries = [
        format!(
            "WITH s AS (SELECT id, {C} AS c FROM pairs) \
             SELECT count(*) FROM s AS a JOIN s AS b ON a.id = b.id WHERE a.c = b.c"
        ),
        format!(
            "SELECT count(c) FROM (SELECT {C} AS c FROM pairs UNION ALL SELECT {C} FROM pairs)"
        ),
        "SELECT count(*) FROM pairs AS a JOIN pairs AS b ON a.id = b.id \
         AND ches(a.prompt, a.chosen, a.rejected) = ches(b.prompt, b.chosen, b.rejected)"
            .into(),
        format!("SELECT count(*) FROM pairs WHERE {C} < (SELECT max({C}) + 1 FROM pairs)"),
    ];
    let mut found = Vec::new();
    for query in &queries {
        let fixture = Fixture::new();
        let rows = run(&fixture.session().await, query).await.unwrap();
        let [computed, remembered] = fixture.counts.take();
        assert_eq!([computed, remembered], [20_000, 20_000], "{query}");
        found.push(rows);
    }
    assert_eq!(found, [20_000.0, 40_000.0, 20_000.0, 20_000.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_queries_and_other_sessions_remember() {
    let fixture = Fixture::new();
    let ctx = fixture.session().await;
    let sum = format!("SELECT sum({C}) FROM pairs");
    let first = run(&ctx, &sum).await.unwrap();
    assert_eq!(fixture.counts.take(), [20_000, 0]);
    assert!(is_close(run(&ctx, &sum).await.unwrap(), first));
    assert_eq!(fixture.counts.take(), [0, 20_000]);

    let sql = format!("EXPLAIN ANALYZE SELECT sum({C}) FROM pairs");
    let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
    let plan = pretty_format_batches(&batches).unwrap().to_string();
    assert!(
        plan.contains("memo_hits=20.00 K") && plan.contains("model_time="),
        "{plan}"
    );
    assert_eq!(fixture.counts.take(), [0, 20_000]);

    // More of the same rows is computed again, and then all of it is known.
    let logprob =
        "SELECT sum(preference_scores(prompt, chosen, rejected)['chosen_logprob']) FROM pairs";
    run(&ctx, logprob).await.unwrap();
    assert_eq!(fixture.counts.take(), [20_000, 0]);
    let other = fixture.session().await;
    assert!(is_close(run(&other, &sum).await.unwrap(), first));
    run(&other, logprob).await.unwrap();
    assert_eq!(fixture.counts.take(), [0, 40_000]);

    // What changes a number is another row; what does not is the same.
    set(&ctx, "max_length", "7").await;
    assert!(!is_close(run(&ctx, &sum).await.unwrap(), first));
    let [computed, _] = fixture.counts.take();
    assert!(computed > 0);
    set(&ctx, "max_length", "0").await;
    set(&ctx, "on_error", "null").await;
    set(&ctx, "device", "cpu").await;
    let moved = fixture.folder.path().join("moved.gguf");
    std::fs::rename(fixture.folder.path().join("tiny.gguf"), &moved).unwrap();
    set(&ctx, "model", moved.to_str().unwrap()).await;
    assert!(is_close(run(&ctx, &sum).await.unwrap(), first));
    assert_eq!(fixture.counts.take(), [0, 20_000]);

    // Another model is another model.
    let changed = tiny_llama().change("blk.0.ffn_up.weight", |tensor| tensor.values[0] += 0.5);
    std::fs::write(&moved, changed.bytes()).unwrap();
    assert!(!is_close(run(&ctx, &sum).await.unwrap(), first));
    assert_eq!(fixture.counts.take(), [20_000, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_nothing_may_be() {
    let fixture = Fixture::new();
    let ctx = fixture.session().await;
    set(&ctx, "memo_bytes", "0").await;
    let sum = format!("SELECT sum({C}) FROM pairs");
    let first = run(&ctx, &sum).await.unwrap();
    assert!(is_close(run(&ctx, &sum).await.unwrap(), first));
    assert_eq!(fixture.counts.take(), [40_000, 0]);
}

/// A host that adds the functions alone pays once for what stock DataFusion calls twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_the_rules_pays_once() {
    let fixture = Fixture::new();
    let ctx = session_of_pairs().await;
    let settings = ChesSettings {
        model: fixture
            .folder
            .path()
            .join("tiny.gguf")
            .to_str()
            .map(str::to_owned),
        ..ChesSettings::default()
    };
    let state = ctx.state_ref();
    state
        .write()
        .config_mut()
        .options_mut()
        .extensions
        .insert(settings);
    for function in SessionExtension::new(fixture.ches.scorer()).functions {
        ctx.register_udf(Arc::unwrap_or_clone(function));
    }
    let query =
        format!("SELECT count(c) FROM (SELECT {C} AS c FROM pairs) WHERE c < 1000 AND c > -1000");
    assert_eq!(run(&ctx, &query).await.unwrap(), 20_000.0);
    let [computed, remembered] = fixture.counts.take();
    assert_eq!(computed, 20_000);
    assert!(remembered > 0, "the query no longer calls twice");
}
