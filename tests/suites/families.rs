//! A tiny model of every supported family, as a directory, against what transformers makes of it
//! (`tests/goldens/make_families.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, RecordBatch, StringArray, StructArray, UInt64Array,
};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, ModelDtype, PromptFormat};
use serde_json::Value;

use super::{Check, Subject, of_families};
use crate::support::{bound, field, lines, worst_score};

/// The goldens of a family that are of one format.
pub(crate) fn rows_of(folder: &Path, format: &str) -> Vec<Value> {
    let mut rows = lines(&folder.join("rows.jsonl"));
    rows.retain(|row| row["format"] == format);
    rows
}

/// What is asked of a model, and how.
pub(crate) struct Asked {
    device: String,
    model: PathBuf,
    format: PromptFormat,
    dtype: ModelDtype,
    /// All rows in one query, or each in one of its own.
    together: bool,
}

impl Asked {
    /// All rows in one query, in the model's own type.
    pub(crate) fn of(device: &str, model: impl Into<PathBuf>, format: PromptFormat) -> Self {
        Self {
            device: device.into(),
            model: model.into(),
            format,
            dtype: ModelDtype::Auto,
            together: true,
        }
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
            .with_memo_bytes(0)
            .with_device(&self.device)
            .unwrap();
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

    /// How far the rows' scores are from the golden ones, of what they may be, and which is furthest.
    async fn worst(&self, rows: &[Value]) -> (String, f64) {
        let scores = self.scores(rows).await;
        let mut worst = (String::new(), 0.0);
        for (at, (row, scores)) in rows.iter().zip(scores).enumerate() {
            let (model, format) = (self.model.display(), self.format);
            let together = self.together;
            let name = format!("{model}, {format:?}, row {at}, together: {together}");
            assert_eq!(field(&scores, 0, "error"), Value::Null, "{name}");
            let found = worst_score(&name, row, |name| field(&scores, 0, name));
            if found.1.is_nan() || found.1 > worst.1 {
                worst = found;
            }
            if worst.1.is_nan() {
                break;
            }
        }
        worst
    }

    /// How far the rows' scores in f32 are from the golden ones, of what they may be.
    pub(crate) async fn in_f32(&self, rows: &[Value]) -> f64 {
        let asked = Self {
            device: self.device.clone(),
            model: self.model.clone(),
            dtype: ModelDtype::F32,
            ..*self
        };
        asked.worst(rows).await.1
    }

    /// Panics unless the rows' scores are the golden ones.
    pub(crate) async fn assert(&self, rows: &[Value]) {
        let (worst, of_bound) = self.worst(rows).await;
        assert!(of_bound <= 1.0, "{worst}");
    }
}

/// Every family in f32: raw and by its template; all rows in one query, each in one of its own, and each
/// response by itself, so that nothing is computed once for two.
pub(crate) async fn in_f32(subject: &Subject) -> Vec<Check> {
    of_families(|family| family_in_f32(subject, family)).await
}

async fn family_in_f32(subject: &Subject, family: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    let folder = subject.family(family);
    let asked = |format, together| {
        let mut asked = Asked::of(&subject.device, folder.join("model"), format);
        asked.dtype = ModelDtype::F32;
        asked.together = together;
        asked
    };
    for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
        let rows = rows_of(&folder, name);
        assert_eq!(rows.len(), 10, "{family}");
        for (together, packed) in [(true, "packed"), (false, "alone")] {
            let (detail, of_bound) = asked(format, together).worst(&rows).await;
            checks.push(Check {
                name: format!("{family}, f32, {name}, {packed}"),
                of_bound,
                detail,
            });
        }
    }
    let rows = rows_of(&folder, "chat");
    let from_embeddings = "ches_from_embeddings(response_embedding(prompt, chosen), \
                               response_embedding(prompt, rejected))";
    let asked = asked(PromptFormat::Chat, true);
    let scores = asked.select(from_embeddings, &rows).await;
    let mut check = Check {
        name: format!("{family}, f32, embeddings"),
        of_bound: 0.0,
        detail: String::new(),
    };
    for (row, score) in rows.iter().zip(scores) {
        let score = score.as_primitive::<Float64Type>().value(0);
        let number = |field: &str| row[field].as_f64().unwrap();
        let (ches, plus, minus) = (
            number("ches"),
            number("chosen_norm"),
            number("rejected_norm"),
        );
        let of_bound = (score - ches).abs() / bound(ches, plus, minus);
        if of_bound.is_nan() || of_bound > check.of_bound {
            check.of_bound = of_bound;
            check.detail = format!("{score}, the reference has {ches}");
        }
        if of_bound.is_nan() {
            break;
        }
    }
    checks.push(check);
    checks
}

/// In half precision a score is as near to the one in f32 as transformers' is: the median and the 95th
/// percentile of the errors are at most 1.3 times as large on the CPU, whose roundings are always the same, and
/// 1.6 times on devices, and the order stays.
pub(crate) async fn in_half_precision(subject: &Subject) -> Vec<Check> {
    of_families(|family| family_in_half_precision(subject, family)).await
}

async fn family_in_half_precision(subject: &Subject, family: &str) -> Vec<Check> {
    let number = |value: &Value| value.as_f64().unwrap();
    let mut checks = Vec::new();
    let folder = subject.family(family);
    let rows = lines(&folder.join("half.jsonl"));
    assert_eq!(rows.len(), 90, "{family}");
    let most = if subject.device == "cpu" { 1.3 } else { 1.6 };
    let exact: Vec<f64> = rows.iter().map(|row| number(&row["ches"])).collect();
    for (dtype, name, golden) in [
        (ModelDtype::Bf16, "bf16", "ches_bfloat16"),
        (ModelDtype::F16, "f16", "ches_float16"),
    ] {
        let mut asked = Asked::of(&subject.device, folder.join("model"), PromptFormat::Raw);
        asked.dtype = dtype;
        let scores = asked.scores(&rows).await;
        let ours = scores.iter().map(|scores| field(scores, 0, "ches"));
        let ours: Vec<f64> = ours
            .map(|score| score.as_f64().unwrap_or(f64::NAN))
            .collect();
        let theirs: Vec<f64> = rows.iter().map(|row| number(&row[golden])).collect();
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
        let is_whole = ours.iter().all(|score| score.is_finite());
        let ratios = [of_ours[0] / of_theirs[0], of_ours[1] / of_theirs[1]];
        let near = ratios[0].max(ratios[1]) / most;
        let of_bound = near.max((1.0 - order) / 1e-3);
        checks.push(Check {
            name: format!("{family}, {name}"),
            of_bound: if is_whole { of_bound } else { f64::NAN },
            detail: format!("{of_ours:?}, transformers {of_theirs:?}, rho {order:.5}"),
        });
    }
    checks
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
