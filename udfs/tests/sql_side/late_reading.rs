//! Wide text columns of Parquet files are read for the rows that the cheap conditions keep, where
//! the host turns on DataFusion's own late reading, `parquet.pushdown_filters`.

use std::sync::Arc;

use crate::support::fake_scorer;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{ParquetReadOptions, SessionContext};

/// 20,000 rows of about 2 KB of text; those in English are together, as in a file that was
/// written language by language. The condition is one that no statistics of pages decide.
const PAIRS: &str = "SELECT value AS id, CASE WHEN value <= 2000 THEN 'en' ELSE 'de' END AS lang, \
    value || repeat(md5(CAST(value AS VARCHAR)), 20) AS prompt, \
    repeat(md5(CAST(-value AS VARCHAR)), 20) AS chosen, \
    repeat(md5(CAST(2 * value AS VARCHAR)), 20) AS rejected FROM generate_series(1, 20000)";

fn bytes_scanned(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let of_children = plan
        .children()
        .into_iter()
        .map(bytes_scanned)
        .sum::<usize>();
    let here = plan
        .metrics()
        .and_then(|metrics| metrics.sum_by_name("bytes_scanned"));
    of_children + here.map_or(0, |bytes| bytes.as_usize())
}

async fn scanned(ctx: &SessionContext, sql: &str) -> usize {
    let plan = ctx
        .sql(sql)
        .await
        .unwrap()
        .create_physical_plan()
        .await
        .unwrap();
    collect(Arc::clone(&plan), ctx.task_ctx()).await.unwrap();
    bytes_scanned(&plan)
}

async fn rows_scored(ctx: &SessionContext) -> String {
    let batches = ctx
        .sql("SELECT rows_scored()")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    arrow::util::display::array_value_to_string(batches[0].column(0), 0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_read_for_the_rows_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pairs.parquet");
    let file = file.to_str().unwrap();
    let ctx = fake_scorer::session();
    let copy = format!(
        "COPY ({PAIRS}) TO '{file}' OPTIONS ('format.data_page_row_count_limit' '500', \
         'format.write_batch_size' '500', 'format.dictionary_enabled' 'false', 'format.compression' 'uncompressed')"
    );
    ctx.sql(&copy).await.unwrap().collect().await.unwrap();
    ctx.register_parquet("pairs", file, ParquetReadOptions::default())
        .await
        .unwrap();
    let score = "ches(prompt, chosen, rejected)";
    let all = scanned(&ctx, &format!("SELECT sum({score}) FROM pairs")).await;
    assert_eq!(rows_scored(&ctx).await, "20000");
    let english = format!("SELECT id FROM pairs WHERE {score} > -1 AND upper(lang) = 'EN'");
    let eager = scanned(&ctx, &english).await;
    assert_eq!(rows_scored(&ctx).await, "2000");
    ctx.sql("SET datafusion.execution.parquet.pushdown_filters = true")
        .await
        .unwrap();
    let late = scanned(&ctx, &english).await;
    assert_eq!(rows_scored(&ctx).await, "2000");
    println!("bytes scanned: {all} for all, {eager} eagerly, {late} late");
    assert!(
        late * 5 < all && late * 5 < eager,
        "{late} of {all} bytes were read, {eager} before"
    );

    // A cheap top k: its texts alone.
    let first = scanned(
        &ctx,
        &format!("SELECT id, {score} FROM pairs ORDER BY id LIMIT 5"),
    )
    .await;
    assert_eq!(rows_scored(&ctx).await, "5");
    println!("bytes scanned for a top 5: {first}");
}
