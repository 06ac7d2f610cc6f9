//! A tiny model of every supported family, as a directory, against what transformers makes of it
//! (`tests/goldens/make_families.py`).

mod support;

use std::path::{Path, PathBuf};

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
    assert_model(&folder(family).join("model"), format, rows, together).await;
}

async fn assert_model(model: &Path, format: PromptFormat, rows: &[Value], together: bool) {
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
                let model = model.display();
                let name = format!("{model}, {format:?}, row {at}, together: {together}");
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

#[test]
fn the_readme_lists_what_is_tested() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, table) = readme.split_once("| `model_type` | switches").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| `"));
    let listed: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert_eq!(listed, families::model_types());
}

/// The Hub's cache keeps revisions of a model below one folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_the_hubs_cache_works_by_its_path() {
    let cache = tempfile::tempdir().unwrap();
    let folder_of_model = cache.path().join("models--org--name");
    let snapshot = folder_of_model.join("snapshots/0123abcd");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::fs::create_dir_all(folder_of_model.join("refs")).unwrap();
    std::fs::write(folder_of_model.join("refs/main"), "0123abcd").unwrap();
    std::os::unix::fs::symlink(folder("llama").join("model"), &snapshot).unwrap();
    let rows = rows("llama", "chat");
    for model in [&folder_of_model, &snapshot] {
        assert_model(model, PromptFormat::Auto, &rows, true).await;
    }
}
