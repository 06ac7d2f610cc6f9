//! Delta Lake tables in a session of one's own: pairs are filtered by score into the table's next
//! version, and the version before is still there.
//!
//! `cargo run --features delta --example delta_lake -- <model.gguf>`

use std::path::Path;

use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_ches::Ches;
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableBuilder};
use url::Url;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let model = std::env::args().nth(1).expect("the path of a .gguf file");
    let ctx = SessionContext::new();
    Ches::new().with_model(model).register(&ctx)?;

    let folder = std::env::temp_dir().join(format!("delta_lake-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let done = filter(&ctx, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    done
}

async fn filter(ctx: &SessionContext, folder: &Path) -> Result<()> {
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/data/preferences.parquet"
    );
    ctx.register_parquet("source", data, ParquetReadOptions::default())
        .await?;
    let url = Url::from_directory_path(folder).expect("an absolute path");

    // Version 0: the pairs as they are.
    let source =
        "SELECT id, category, prompt, chosen, rejected FROM source WHERE category <> 'code'";
    let table = DeltaTable::try_from_url(url.clone()).await?;
    let rows = ctx.sql(source).await?.collect().await?;
    let table = table
        .write(rows)
        .with_partition_columns(["category"])
        .await?;

    // Version 1: those that are kept. Only the files of the one category are read and scored.
    ctx.register_table("pairs", table.table_provider().await?)?;
    let kept = "SELECT * FROM pairs
                WHERE category = 'one_word' AND ches_normalized(prompt, chosen, rejected) < 0";
    let rows = ctx.sql(kept).await?.collect().await?;
    table
        .write(rows)
        .with_save_mode(SaveMode::Overwrite)
        .await?;

    for version in [0, 1] {
        let table = DeltaTableBuilder::from_url(url.clone())?
            .with_version(version)
            .load()
            .await?;
        ctx.deregister_table("pairs")?;
        ctx.register_table("pairs", table.table_provider().await?)?;
        let counts = format!("SELECT {version} AS version, count(*) AS pairs FROM pairs");
        ctx.sql(&counts).await?.show().await?;
    }
    Ok(())
}
