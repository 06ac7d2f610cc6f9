//! A tiny model of every supported family, as a directory, against what transformers makes of it
//! (`tests/goldens/make_families.py`).

mod support;

use std::path::PathBuf;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, PromptFormat, families};
use serde_json::Value;
use std::sync::Arc;
use support::{assert_scores, field, root};

fn folder(family: &str) -> PathBuf {
    root().join("tests/goldens/families").join(family)
}

fn rows(family: &str, format: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(family).join("rows.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    rows.filter(|row: &Value| row["format"] == format).collect()
}

/// The rows' scores, all of them in one query, or each in one of its own.
async fn assert_rows(family: &str, format: PromptFormat, rows: &[Value], together: bool) {
    let model = folder(family).join("model");
    let ches = Ches::new()
        .with_model(model.to_str().unwrap())
        .with_prompt_format(format)
        .with_memo_bytes(0);
    let ctx = SessionContext::new();
    ches.register(&ctx).unwrap();
    let texts = |name: &str| -> ArrayRef {
        let texts = rows.iter().map(|row| row[name].as_str());
        Arc::new(texts.collect::<StringArray>())
    };
    let id: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..rows.len() as u64));
    let columns = [
        ("id", id),
        ("prompt", texts("prompt")),
        ("chosen", texts("chosen")),
        ("rejected", texts("rejected")),
    ];
    ctx.register_batch("pairs", RecordBatch::try_from_iter(columns).unwrap())
        .unwrap();
    let scores = "SELECT preference_scores(prompt, chosen, rejected) AS s FROM pairs";
    let queries = if together {
        vec![format!("{scores} ORDER BY id")]
    } else {
        let one = |at: usize| format!("{scores} WHERE id = {at}");
        (0..rows.len()).map(one).collect()
    };
    let mut at = 0;
    for query in queries {
        for batch in ctx.sql(&query).await.unwrap().collect().await.unwrap() {
            let structs = batch.column(0).as_struct();
            for row in 0..batch.num_rows() {
                let name = format!("{family}, {format:?}, row {at}, together: {together}");
                assert_eq!(field(structs, row, "error"), Value::Null, "{name}");
                assert_scores(&name, &rows[at], |name| field(structs, row, name));
                at += 1;
            }
        }
    }
    assert_eq!(at, rows.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_agrees_with_its_golden() {
    let families = families::model_types();
    assert!(families.len() >= 6);
    for family in families {
        for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
            let rows = rows(family, name);
            assert_eq!(rows.len(), 10, "{family}");
            assert_rows(family, format, &rows, true).await;
            assert_rows(family, format, &rows, false).await;
        }
    }
}
