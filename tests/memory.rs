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

const CHES: &str = "ches(prompt, chosen, rejected)";
const DISPLACEMENT: &str = "displacement(prompt, chosen, rejected)['chosen_rate']";
const SIMULATED: &str = "displacement_simulated(prompt, chosen, rejected)['chosen_change']";

async fn scored(ctx: &SessionContext, score: &str, rows: usize) -> Result<usize, String> {
    let sql = format!("SELECT {score} FROM (SELECT * FROM pairs ORDER BY id LIMIT {rows})");
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
async fn most_taken(ches: &Ches, score: &str) -> usize {
    let ctx = session_with_pairs(ches, &example_data()).await;
    let before = counting::restart();
    assert_eq!(scored(&ctx, score, 32).await, Ok(32));
    counting::peak() - before
}

/// The same for one pair of responses of this many words each.
async fn most_taken_by_one(ches: &Ches, score: &str, words: usize) -> usize {
    let ctx = SessionContext::new();
    ches.register(&ctx).unwrap();
    let text = |word: &str| format!("repeat('{word} ', {words})");
    let (chosen, rejected) = (text("one two"), text("two three"));
    let sql = format!(
        "SELECT {score} FROM (SELECT 'Count.' AS prompt, {chosen} AS chosen, {rejected} AS rejected)"
    );
    let before = counting::restart();
    ctx.sql(&sql).await.unwrap().collect().await.unwrap();
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
    assert_eq!(scored(&warm, SIMULATED, 1).await, Ok(1));

    let unlimited = most_taken(&ches, CHES).await;
    let of_24_mib = ches.clone().with_memory_limit(24 * MIB);
    let limited = most_taken(&of_24_mib, CHES).await;
    // Queries, texts and token ids take some, too.
    assert!(limited < 30 * MIB, "{limited} bytes");
    assert!(unlimited > 2 * limited, "{unlimited} and {limited} bytes");

    let limited = most_taken(&of_24_mib, DISPLACEMENT).await;
    assert!(limited < 30 * MIB, "{limited} bytes");
    let of_256_mib = ches.clone().with_memory_limit(256 * MIB);
    let limited = most_taken(&of_256_mib, SIMULATED).await;
    assert!(limited < 270 * MIB, "{limited} bytes");

    // Of 3000 tokens of responses: a row of the vocabulary each would take 562 MiB.
    let of_ches = most_taken_by_one(&ches, CHES, 750).await;
    let of_rates = most_taken_by_one(&ches, DISPLACEMENT, 750).await;
    assert!(of_rates < of_ches + 160 * MIB, "{of_ches} and {of_rates}");

    let tight = ches.with_memory_limit(3 * MIB);
    let ctx = session_with_pairs(&tight, &example_data()).await;
    let error = scored(&ctx, CHES, 32).await.unwrap_err();
    assert!(
        error.contains("tokens are more than memory allows at once")
            && error.contains("ches.memory_limit"),
        "{error}"
    );
    let tolerant = tight.with_on_error(OnError::Null);
    let ctx = session_with_pairs(&tolerant, &example_data()).await;
    let count = scored(&ctx, CHES, 32).await.unwrap();
    assert!(0 < count && count < 32, "{count} rows");
}
