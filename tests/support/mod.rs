//! Where tests find the demo model and other people's data.

// Each test program uses a part of this.
#![allow(dead_code)]

pub(crate) mod file_server;

use std::path::{Path, PathBuf};

use datafusion::arrow::array::{Array, AsArray, StructArray};
use datafusion::arrow::datatypes::{Float64Type, Int32Type};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_ches::Ches;
use serde_json::{Value, json};

/// The project's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The demo model, which `make model` fetches and `make test` names in `CHES_TEST_MODEL`.
pub(crate) fn model() -> String {
    std::env::var("CHES_TEST_MODEL")
        .expect("CHES_TEST_MODEL names the demo model; run the tests by `make test`")
}

/// The project's example data.
pub(crate) fn example_data() -> String {
    let file = root().join("examples/data/preferences.parquet");
    file.to_str().unwrap().to_owned()
}

/// A session with the CHES functions and a Parquet file as `pairs`.
pub(crate) async fn session_with_pairs(ches: &Ches, file: &str) -> SessionContext {
    let ctx = SessionContext::new();
    ches.register(&ctx).unwrap();
    let options = ParquetReadOptions::default();
    ctx.register_parquet("pairs", file, options).await.unwrap();
    ctx
}

/// A field of a row of `preference_scores`.
pub(crate) fn field(scores: &StructArray, row: usize, name: &str) -> Value {
    let column = scores.column_by_name(name).unwrap();
    if column.is_null(row) {
        Value::Null
    } else if let Some(column) = column.as_primitive_opt::<Float64Type>() {
        json!(column.value(row))
    } else if let Some(column) = column.as_primitive_opt::<Int32Type>() {
        json!(column.value(row))
    } else if let Some(column) = column.as_boolean_opt() {
        json!(column.value(row))
    } else {
        json!(column.as_string::<i32>().value(row))
    }
}

/// Lines of JSON of a file under `tests/goldens`.
pub(crate) fn golden_lines(name: &str) -> Vec<Value> {
    lines(&root().join("tests/goldens").join(name))
}

/// Lines of JSON of a file.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// How far two scores may be apart: `1e-4 |ref| + 1e-6 ‖a‖ (‖a‖ + ‖b‖)`, with the norms of the two
/// vectors whose products the score is made of. Such a score is a difference of large numbers.
pub(crate) fn bound(reference: f64, a: f64, b: f64) -> f64 {
    1e-4 * reference.abs() + 1e-6 * a * (a + b)
}

/// Whether two scores are no further apart than [`bound`].
pub(crate) fn agree(found: f64, reference: f64, a: f64, b: f64) -> bool {
    (found - reference).abs() <= bound(reference, a, b)
}

/// How far `found`, a row of `preference_scores` by field name, is from the golden at most, of what it
/// may be, and in which field.
///
/// # Panics
/// When the two are not of the same tokens.
pub(crate) fn worst_score(
    name: &str,
    golden: &Value,
    found: impl Fn(&str) -> Value,
) -> (String, f64) {
    if golden["no_score"] == true {
        assert_eq!(found("prompt_tokens"), golden["prompt_tokens"], "{name}");
        assert_eq!(found("ches"), Value::Null, "{name}");
        return ("ches".into(), 0.0);
    }
    let reference = |field: &str| golden[field].as_f64().unwrap();
    for field in [
        "prompt_tokens",
        "chosen_tokens",
        "rejected_tokens",
        "truncated",
    ] {
        assert_eq!(found(field), golden[field], "{name}: {field}");
    }
    let (plus, minus) = (reference("chosen_norm"), reference("rejected_norm"));
    let m = |field| reference(field) + 1.0;
    let (mean_plus, mean_minus) = (plus / m("chosen_tokens"), minus / m("rejected_tokens"));
    let (last_plus, last_minus) = (
        reference("chosen_last_norm"),
        reference("rejected_last_norm"),
    );
    let checks = [
        ("ches", plus, minus),
        ("ches_normalized", mean_plus, mean_minus),
        ("last_hidden_similarity", last_plus, last_minus),
        ("normalized_edit_distance", 0.0, 0.0),
        ("chosen_logprob", 0.0, 0.0),
        ("rejected_logprob", 0.0, 0.0),
    ];
    let mut worst = (String::new(), -1.0);
    for (field, a, b) in checks {
        let reference = reference(field);
        let found = found(field).as_f64().unwrap_or(f64::NAN);
        let bound = bound(reference, a, b);
        let of_bound = match (found - reference).abs() {
            0.0 => 0.0,
            apart => apart / bound,
        };
        if of_bound > worst.1 || of_bound.is_nan() {
            let said = format!("{name}: {field} is {found}, the reference has {reference}");
            worst = (said, of_bound);
        }
        if of_bound.is_nan() {
            break;
        }
    }
    worst
}

/// Panics unless `found`, a row of `preference_scores` by field name, agrees with the golden.
pub(crate) fn assert_scores(name: &str, golden: &Value, found: impl Fn(&str) -> Value) {
    let (worst, of_bound) = worst_score(name, golden, found);
    assert!(of_bound <= 1.0, "{worst}");
}
