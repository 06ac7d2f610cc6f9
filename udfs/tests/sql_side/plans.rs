//! What a plan tells of scoring, and the extension for hosts that build their sessions themselves.

use std::sync::Arc;

use crate::support::fake_scorer::{self, FakeScorer};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use arrow::util::pretty::pretty_format_batches;
use ches_udfs::{ChesSettings, SessionExtension, register};
use datafusion::catalog::Session;
use datafusion::common::config::ConfigExtension;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::{SessionConfig, SessionContext};

const PAIRS: &str = "CREATE TABLE pairs AS \
    SELECT value AS id, CASE WHEN value % 10 = 0 THEN 'en' ELSE 'de' END AS lang, 'q' AS prompt, \
    repeat('a', 1 + value % 7) AS chosen, repeat('b', 1 + value % 5) AS rejected \
    FROM generate_series(1, 2000)";

/// The best scores of the tenth in English.
const BEST: &str = "SELECT ches(prompt, chosen, rejected) AS c FROM pairs WHERE lang = 'en' \
    AND ches(prompt, chosen, rejected) > -6 ORDER BY c DESC, id LIMIT 3";

async fn run(ctx: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    ctx.sql(sql).await.unwrap().collect().await.unwrap()
}

async fn best(ctx: &SessionContext) -> Vec<f64> {
    let batches = run(ctx, BEST).await;
    let of = |batch: &RecordBatch| {
        batch
            .column(0)
            .as_primitive::<Float64Type>()
            .values()
            .to_vec()
    };
    batches.iter().flat_map(of).collect()
}

async fn explained(ctx: &SessionContext, sql: &str) -> String {
    let batches = run(ctx, &format!("EXPLAIN {sql}")).await;
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_counts() {
    let ctx = fake_scorer::session();
    run(&ctx, PAIRS).await;
    let analyzed = explained(&ctx, &format!("ANALYZE {BEST}")).await;
    let line = analyzed.lines().find(|line| line.contains("ScoreExec"));
    let line = line.unwrap_or_else(|| panic!("{analyzed}"));
    // Each row: the prompt's byte twice, 1 + id % 7 and 1 + id % 5 bytes of responses.
    let tokens: i64 = (1..=200).map(|tenth| 4 + 10 * tenth % 7).sum();
    assert_eq!(tokens, 1404);
    for metric in [
        "output_rows=200",
        "rows_scored=200",
        "tokens=1.40 K",
        "truncated_rows=0",
        "memo_hits=0",
        "wait_time=",
        "model_time=",
    ] {
        assert!(line.contains(metric), "{metric}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_above_a_filter_by_score_is_soon_full() {
    let ctx = fake_scorer::session();
    run(&ctx, PAIRS).await;
    run(
        &ctx,
        "SELECT id FROM pairs WHERE ches(prompt, chosen, rejected) > -6 LIMIT 5",
    )
    .await;
    let counted = run(&ctx, "SELECT rows_scored()").await;
    let rows = counted[0]
        .column(0)
        .as_primitive::<arrow::datatypes::Int64Type>()
        .value(0);
    assert!(rows < 500, "{rows} rows were scored");
}

#[tokio::test(flavor = "multi_thread")]
async fn registered_twice_is_registered_once() {
    let ctx = SessionContext::new();
    for _ in 0..2 {
        register(
            &ctx,
            Arc::new(FakeScorer::default()),
            ChesSettings::default(),
        )
        .unwrap();
    }
    let state = ctx.state();
    let ours = |name: &str| name.starts_with("ches_");
    assert_eq!(
        state
            .optimizers()
            .iter()
            .filter(|rule| ours(rule.name()))
            .count(),
        1
    );
    assert_eq!(
        state
            .physical_optimizers()
            .iter()
            .filter(|rule| ours(rule.name()))
            .count(),
        1
    );
    assert_eq!(
        state
            .analyzer()
            .function_rewrites()
            .iter()
            .filter(|rule| ours(rule.name()))
            .count(),
        2
    );
    assert_eq!(ctx.session_id(), state.session_id());
    run(&ctx, PAIRS).await;
    assert_eq!(best(&ctx).await.len(), 3);
}

/// A host's own planner, which sees what the rules made of a plan.
#[derive(Debug)]
struct OwnPlanner;

#[async_trait::async_trait]
impl QueryPlanner for OwnPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        state: &dyn Session,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::default()
            .create_physical_plan(plan, state)
            .await
    }
}

fn extension() -> SessionExtension {
    SessionExtension::new(Arc::new(FakeScorer::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_builds_its_own_state() {
    let builder = SessionStateBuilder::new()
        .with_default_features()
        .with_config(SessionConfig::new().with_target_partitions(3))
        .with_query_planner(Arc::new(OwnPlanner));
    let settings = ChesSettings {
        max_length: 7,
        ..ChesSettings::default()
    };
    let ctx = SessionContext::new_with_state(extension().add_to(builder, settings).build());
    assert_eq!(ctx.state().config().target_partitions(), 3);
    let options = ctx.copied_config();
    let settings = options.options().extensions.get::<ChesSettings>().unwrap();
    assert_eq!(settings.max_length, 7);
    run(&ctx, PAIRS).await;
    assert_eq!(best(&ctx).await.len(), 3);
    assert!(explained(&ctx, BEST).await.contains("ScoreExec"));
}

/// Piece by piece: functions and settings answer the plain queries, each rule adds its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_some_pieces() {
    let ctx = SessionContext::new();
    let state = ctx.state_ref();
    let settings = ChesSettings::default();
    state
        .write()
        .config_mut()
        .options_mut()
        .extensions
        .insert(settings);
    let extension = extension();
    for function in &extension.functions {
        ctx.register_udf(function.as_ref().clone());
    }
    run(&ctx, PAIRS).await;
    let plain = "SELECT ches(prompt, chosen, rejected) FROM pairs WHERE lang = 'en'";
    assert_eq!(
        run(&ctx, plain)
            .await
            .iter()
            .map(RecordBatch::num_rows)
            .sum::<usize>(),
        200
    );
    let sorted = "SELECT id FROM pairs ORDER BY ches(prompt, chosen, rejected) DESC, id LIMIT 1";
    assert!(ctx.sql(sorted).await.unwrap().collect().await.is_err());

    ctx.add_optimizer_rule(Arc::clone(&extension.hoist_scores));
    let rows = run(&ctx, sorted).await;
    let id = rows[0]
        .column(0)
        .as_primitive::<arrow::datatypes::Int64Type>()
        .value(0);
    assert_eq!(id, 14);
    // Without the physical rule the plan is stock, and can be sent to another process.
    let plan = ctx
        .sql(sorted)
        .await
        .unwrap()
        .create_physical_plan()
        .await
        .unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    assert!(
        plan.contains("AsyncFuncExec") && !plan.contains("ScoreExec"),
        "{plan}"
    );
}

/// The settings of a session, taken as keys and values to another one, or to an executor.
#[tokio::test]
async fn settings_travel() {
    let sets = [
        ("model", "/models/a.gguf"),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", r#"{"enable_thinking": false}"#),
        ("tools_column", "tools"),
        ("chat_template_kwargs_column", "kwargs"),
        ("device", "cuda:1"),
        ("dtype", "bf16"),
        ("max_length", "512"),
        ("prompt_format", "chat"),
        ("batch_tokens", "2048"),
        ("on_error", "null"),
        ("max_failed_fraction", "0.25"),
        ("memo_bytes", "1000"),
        ("cache", "s3://bucket/scores"),
        ("memory_limit", "1000000"),
        ("top_tokens", "3"),
        ("learning_rate", "1.5e-5"),
    ];
    let ctx = fake_scorer::session();
    for (key, value) in sets {
        run(&ctx, &format!("SET ches.{key} = '{value}'")).await;
    }
    let of = |ctx: &SessionContext| {
        let config = ctx.copied_config();
        config
            .options()
            .extensions
            .get::<ChesSettings>()
            .unwrap()
            .clone()
    };
    let mut settings = of(&ctx);
    // None is left at its default, so that all of them are seen to arrive.
    let default = ChesSettings::default();
    assert_ne!(settings, default);
    let entries = ctx.copied_config().options().entries();
    let ours: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry.key.starts_with(&format!("{}.", ChesSettings::PREFIX)))
        .collect();
    assert_eq!(ours.len(), sets.len());

    let other = fake_scorer::session();
    for entry in &ours {
        let state = other.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        options
            .set(&entry.key, entry.value.as_deref().unwrap_or_default())
            .unwrap();
    }
    assert_eq!(of(&other), settings);
    settings.memo_bytes = 0;
    assert_ne!(of(&other), settings);
}
