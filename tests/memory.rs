//! `ches.memory_limit`: what a forward pass takes, and rows that are too large.

#[path = "support/counting.rs"]
mod counting;
mod support;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, OnError};
use support::{example_data, model, session_with_pairs};

const MIB: usize = 1 << 20;

async fn scored(ctx: &SessionContext, rows: usize) -> Result<usize, String> {
    let sql = format!(
        "SELECT ches(prompt, chosen, rejected) FROM \
         (SELECT * FROM pairs ORDER BY id LIMIT {rows})"
    );
    let frame = ctx.sql(&sql).await.unwrap();
    let batches = frame.collect().await.map_err(|error| error.to_string())?;
    let count = |scores: &datafusion::arrow::array::RecordBatch| {
        let scores = scores.column(0).as_primitive::<Float64Type>();
        scores.iter().flatten().count()
    };
    Ok(batches.iter().map(count).sum())
}

/// The most that was allocated above what was before, while 32 rows were scored in batches as
/// large as memory allows.
async fn most_taken(ches: &Ches) -> usize {
    let ctx = session_with_pairs(ches, &example_data()).await;
    let before = counting::restart();
    assert_eq!(scored(&ctx, 32).await, Ok(32));
    counting::peak() - before
}

// One test, since the count is of the whole process.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_kept() {
    let ches = Ches::new()
        .with_model(model())
        .with_memo_bytes(0)
        .with_batch_tokens(1_000_000);
    // Opens the model.
    let warm = session_with_pairs(&ches, &example_data()).await;
    assert_eq!(scored(&warm, 1).await, Ok(1));

    let unlimited = most_taken(&ches).await;
    let limited = most_taken(&ches.clone().with_memory_limit(24 * MIB)).await;
    // Queries, texts and token ids take some, too.
    assert!(limited < 30 * MIB, "{limited} bytes");
    assert!(unlimited > 2 * limited, "{unlimited} and {limited} bytes");

    let tight = ches.with_memory_limit(3 * MIB);
    let ctx = session_with_pairs(&tight, &example_data()).await;
    let error = scored(&ctx, 32).await.unwrap_err();
    assert!(
        error.contains("tokens are more than memory allows at once")
            && error.contains("ches.memory_limit"),
        "{error}"
    );
    let tolerant = tight.with_on_error(OnError::Null);
    let ctx = session_with_pairs(&tolerant, &example_data()).await;
    let count = scored(&ctx, 32).await.unwrap();
    assert!(0 < count && count < 32, "{count} rows");
}
