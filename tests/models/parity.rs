//! Scores against those of Hugging Face transformers (`tests/goldens/make_scores.py`).

use crate::support::{assert_scores, example_data, field, golden_lines, model, session_with_pairs};
use datafusion::arrow::array::AsArray;
use datafusion_ches::Ches;
use serde_json::Value;

/// Scores every `every`-th row of a file and compares it with its golden.
async fn compare(file: &str, goldens: &str, every: usize) {
    let goldens: Vec<Value> = golden_lines(goldens).into_iter().step_by(every).collect();
    let ches = Ches::new().with_model(model()).with_max_length(2048);
    let ctx = session_with_pairs(&ches, file).await;
    let ids: Vec<String> = goldens
        .iter()
        .map(|golden| format!("'{}'", golden["id"].as_str().unwrap()))
        .collect();
    let sql = format!(
        "SELECT arrow_cast(id, 'Utf8') AS id, preference_scores(prompt, chosen, rejected) AS s \
         FROM (SELECT * FROM pairs WHERE id IN ({}))",
        ids.join(", ")
    );
    let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
    let mut compared = 0;
    for batch in &batches {
        let ids = batch.column(0).as_string::<i32>();
        let scores = batch.column(1).as_struct();
        for row in 0..batch.num_rows() {
            let golden = goldens.iter().find(|golden| golden["id"] == ids.value(row));
            assert_scores(ids.value(row), golden.unwrap(), |name| {
                field(scores, row, name)
            });
            compared += 1;
        }
    }
    assert_eq!(compared, goldens.len());
    println!("{file}: {compared} rows agree");
}

/// One test, so that the files do not compete for the cores.
#[tokio::test(flavor = "multi_thread")]
async fn goldens() {
    compare(&example_data(), "preferences.jsonl", 1).await;

    // Data of other people's: every so many rows of what a folder has.
    let Ok(folder) = std::env::var("CHES_TEST_DATA") else {
        println!("CHES_TEST_DATA is not set: only the example data was compared");
        return;
    };
    let every = std::env::var("CHES_TEST_DATA_EVERY").map_or(1, |every| every.parse().unwrap());
    for name in ["standard", "conversational"] {
        let file = format!("{folder}/{name}.parquet");
        compare(&file, &format!("{name}.jsonl"), every).await;
    }
}
