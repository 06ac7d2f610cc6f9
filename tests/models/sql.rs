//! The demo model behind SQL: every `.slt` file of `tests/slt`, in a session with the example
//! data as `pairs`.

use crate::support::{example_data, model, root, session_with_pairs};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_ches::Ches;

#[tokio::test(flavor = "multi_thread")]
async fn slt_files() {
    let ches = Ches::new().with_model(model());
    let ctx = session_with_pairs(&ches, &example_data()).await;
    let mut files = 0;
    for entry in std::fs::read_dir(root().join("tests/slt")).unwrap() {
        crate::slt::run_file(&entry.unwrap().path(), || ctx.clone()).await;
        files += 1;
    }
    assert!(files > 0);
}

#[tokio::test]
async fn the_example_data_is_its_source() {
    let ctx = SessionContext::new();
    let folder = root().join("examples/data");
    let read = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    ctx.sql(&format!(
        "CREATE EXTERNAL TABLE source STORED AS JSON LOCATION '{}' \
         OPTIONS ('format.newline_delimited' 'true')",
        read("preferences.jsonl")
    ))
    .await
    .unwrap();
    let options = ParquetReadOptions::default();
    ctx.register_parquet("made", read("preferences.parquet"), options)
        .await
        .unwrap();
    let rows = async |table: &str| {
        let sql = format!("SELECT id, category, prompt, chosen, rejected FROM {table} ORDER BY id");
        let rows = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        assert!(count >= 80);
        pretty_format_batches(&rows).unwrap().to_string()
    };
    let same = rows("source").await == rows("made").await;
    assert!(
        same,
        "the example data is not its source: run make example-data"
    );
}
