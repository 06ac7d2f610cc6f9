//! A tiny model of every supported family, as a directory, against what transformers makes of it
//! (`tests/goldens/make_families.py`).

use std::path::PathBuf;

use crate::support::{agree, assert_scores, field, lines, root};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, UInt64Array};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, ModelDtype, PromptFormat, families};
use serde_json::Value;
use std::sync::Arc;

fn folder(family: &str) -> PathBuf {
    root().join("tests/goldens/families").join(family)
}

fn rows(family: &str, format: &str) -> Vec<Value> {
    let mut rows = lines(&folder(family).join("rows.jsonl"));
    rows.retain(|row| row["format"] == format);
    rows
}

/// What is asked of a model, and how.
struct Asked {
    model: PathBuf,
    format: PromptFormat,
    dtype: ModelDtype,
    /// All rows in one query, or each in one of its own.
    together: bool,
}

impl Asked {
    fn of(model: impl Into<PathBuf>, format: PromptFormat) -> Self {
        Self {
            model: model.into(),
            format,
            dtype: ModelDtype::Auto,
            together: true,
        }
    }

    fn of_family(family: &str, format: PromptFormat) -> Self {
        Self::of(folder(family).join("model"), format)
    }

    /// The rows' `preference_scores`.
    async fn scores(&self, rows: &[Value]) -> Vec<StructArray> {
        let scores = "preference_scores(prompt, chosen, rejected)";
        let columns = self.select(scores, rows).await.into_iter();
        columns.map(|column| column.as_struct().clone()).collect()
    }

    /// An expression's values, each in a column of its own.
    async fn select(&self, expression: &str, rows: &[Value]) -> Vec<ArrayRef> {
        let ches = Ches::new()
            .with_model(self.model.to_str().unwrap())
            .with_prompt_format(self.format)
            .with_dtype(self.dtype)
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
        let scores = format!("SELECT {expression} FROM pairs");
        let queries = if self.together {
            vec![format!("{scores} ORDER BY id")]
        } else {
            let one = |at: usize| format!("{scores} WHERE id = {at}");
            (0..rows.len()).map(one).collect()
        };
        let mut found = Vec::new();
        for query in queries {
            for batch in ctx.sql(&query).await.unwrap().collect().await.unwrap() {
                found.extend((0..batch.num_rows()).map(|row| batch.column(0).slice(row, 1)));
            }
        }
        assert_eq!(found.len(), rows.len());
        found
    }

    /// Asserts that the rows' scores are the golden ones.
    async fn assert(&self, rows: &[Value]) {
        let scores = self.scores(rows).await;
        for (at, (row, scores)) in rows.iter().zip(scores).enumerate() {
            let (model, format) = (self.model.display(), self.format);
            let together = self.together;
            let name = format!("{model}, {format:?}, row {at}, together: {together}");
            assert_eq!(field(&scores, 0, "error"), Value::Null, "{name}");
            assert_scores(&name, row, |name| field(&scores, 0, name));
        }
    }
}

/// Each response by itself, so that nothing is computed once for two.
#[tokio::test(flavor = "multi_thread")]
async fn responses_that_share_no_prompt_agree_too() {
    for family in families::model_types() {
        let rows = rows(family, "chat");
        let from_embeddings = "ches_from_embeddings(response_embedding(prompt, chosen), \
                               response_embedding(prompt, rejected))";
        let asked = Asked::of_family(family, PromptFormat::Chat);
        let scores = asked.select(from_embeddings, &rows).await;
        for (row, score) in rows.iter().zip(scores) {
            let score = score.as_primitive::<Float64Type>().value(0);
            let number = |field: &str| row[field].as_f64().unwrap();
            let (plus, minus) = (number("chosen_norm"), number("rejected_norm"));
            assert!(agree(score, number("ches"), plus, minus), "{family}: {row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_agrees_with_its_golden() {
    let families = families::model_types();
    assert!(families.len() >= 12);
    for family in families {
        for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
            let rows = rows(family, name);
            assert_eq!(rows.len(), 10, "{family}");
            let mut asked = Asked::of_family(family, format);
            asked.assert(&rows).await;
            asked.together = false;
            asked.assert(&rows).await;
        }
    }
}

/// A GGUF file of a family holds the same model as its directory.
#[tokio::test(flavor = "multi_thread")]
async fn gguf_files_agree_with_the_goldens_of_their_directories() {
    let architectures = families::architectures();
    assert!(architectures.len() >= 4);
    for architecture in architectures {
        let file = root().join(format!("tests/goldens/gguf/{architecture}.gguf"));
        for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
            let rows = rows(architecture, name);
            Asked::of(&file, format).assert(&rows).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantised_file_agrees_with_what_transformers_reads_in_it() {
    let file = root().join("tests/goldens/gguf/llama-q4_0.gguf");
    let rows = lines(&file.with_extension("jsonl"));
    assert_eq!(rows.len(), 10);
    Asked::of(&file, PromptFormat::Raw).assert(&rows).await;
}

/// In half precision a score is as near to the one in float32 as transformers' is: the median and
/// the 95th percentile of the errors are at most 1.3 times as large, and the order stays.
#[tokio::test(flavor = "multi_thread")]
async fn half_precision_is_as_near_as_that_of_transformers() {
    let number = |value: &Value| value.as_f64().unwrap();
    for family in families::model_types() {
        let rows = lines(&folder(family).join("half.jsonl"));
        assert_eq!(rows.len(), 90, "{family}");
        let exact: Vec<f64> = rows.iter().map(|row| number(&row["ches"])).collect();
        for (dtype, name) in [
            (ModelDtype::Bf16, "ches_bfloat16"),
            (ModelDtype::F16, "ches_float16"),
        ] {
            let mut asked = Asked::of_family(family, PromptFormat::Raw);
            asked.dtype = dtype;
            let scores = asked.scores(&rows).await;
            let ours: Vec<f64> = scores
                .iter()
                .map(|scores| number(&field(scores, 0, "ches")))
                .collect();
            let theirs: Vec<f64> = rows.iter().map(|row| number(&row[name])).collect();
            // Relative to the products that the score is a difference of.
            let errors = |scores: &[f64]| {
                let error = |(row, score): (&Value, &f64)| {
                    let [plus, minus] = ["chosen_norm", "rejected_norm"].map(|n| number(&row[n]));
                    (score - number(&row["ches"])).abs() / (plus * (plus + minus))
                };
                let mut errors: Vec<f64> = rows.iter().zip(scores).map(error).collect();
                errors.sort_by(f64::total_cmp);
                [errors[45], errors[85]]
            };
            let [of_ours, of_theirs] = [errors(&ours), errors(&theirs)];
            let order = spearman(&exact, &ours);
            println!("{family} {name}: {of_ours:?}, theirs {of_theirs:?}, rho {order:.5}");
            for (ours, theirs) in of_ours.iter().zip(of_theirs) {
                assert!(*ours <= 1.3 * theirs, "{family}, {name}");
            }
            assert!(order >= 0.999, "{family}, {name}: {order}");
        }
    }
}

/// Rank correlation of numbers without ties.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |numbers: &[f64]| {
        let rank = |x: &f64| numbers.iter().filter(|y| *y < x).count() as f64;
        numbers.iter().map(rank).collect::<Vec<_>>()
    };
    let differences = ranks(a)
        .into_iter()
        .zip(ranks(b))
        .map(|(a, b)| (a - b) * (a - b));
    let n = a.len() as f64;
    1.0 - 6.0 * differences.sum::<f64>() / (n * (n * n - 1.0))
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
        Asked::of(model, PromptFormat::Auto).assert(&rows).await;
    }
}
