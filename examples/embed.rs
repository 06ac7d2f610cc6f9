//! The plugin in a DataFusion session of one's own.
//!
//! `cargo run --example embed -- <model.gguf>`

use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_ches::Ches;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let model = std::env::args().nth(1).expect("the path of a .gguf file");

    let ctx = SessionContext::new();
    Ches::new()
        .with_model(model)
        .with_max_length(2048)
        .register(&ctx)?;

    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/data/preferences.parquet"
    );
    ctx.register_parquet("pairs", data, ParquetReadOptions::default())
        .await?;
    ctx.sql(
        "SELECT id, chosen[1]['content'] AS chosen, rejected[1]['content'] AS rejected, score
         FROM (SELECT *, ches_normalized(prompt, chosen, rejected) AS score
               FROM pairs WHERE category = 'one_word')
         ORDER BY score DESC NULLS LAST",
    )
    .await?
    .show()
    .await
}
