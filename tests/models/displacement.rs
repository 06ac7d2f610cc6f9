//! `displacement` and `displacement_simulated` against PyTorch's autograd
//! (`tests/goldens/make_displacement.py`).

use std::path::Path;
use std::sync::Arc;

use crate::support::{example_data, golden_lines, lines, model, root, session_with_pairs};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use datafusion::arrow::datatypes::{Float64Type, Int32Type};
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, ModelDtype, PromptFormat, families};
use serde_json::Value;

/// What was found of one pair.
struct Found {
    displacement: StructArray,
    simulated: StructArray,
}

fn number(row: &StructArray, field: &str) -> f64 {
    let column = row.column_by_name(field).unwrap();
    assert!(column.is_valid(0), "{field} is NULL: {row:?}");
    column.as_primitive::<Float64Type>().value(0)
}

/// The tokens of `gaining` and `losing` with their changes, by id, as goldens have them; and whether
/// they are in order.
fn changes(row: &StructArray) -> Vec<(i64, f64)> {
    let mut all = Vec::new();
    for (list, sign) in [("gaining", 1.0), ("losing", -1.0)] {
        let tokens = row.column_by_name(list).unwrap().as_list::<i32>().value(0);
        let tokens = tokens.as_struct();
        let ids = tokens.column(1).as_primitive::<Int32Type>();
        let changes = tokens.column(2).as_primitive::<Float64Type>();
        assert!(changes.iter().flatten().all(|change| sign * change > 0.0));
        assert!(changes.values().is_sorted_by(|a, b| a.abs() >= b.abs()));
        let ids = ids.iter().flatten().map(i64::from);
        all.extend(ids.zip(changes.iter().flatten()));
    }
    all.sort_by_key(|(id, _)| *id);
    all
}

fn golden_changes(golden: &Value, field: &str) -> Vec<(i64, f64)> {
    let changes = golden[field].as_array().unwrap().iter();
    let change = |change: &Value| (change[0].as_i64().unwrap(), change[1].as_f64().unwrap());
    changes.map(change).collect()
}

/// How far from its golden a number may be: of the larger of the terms that it is a difference of.
const RATE_BOUND: f64 = 1e-3;
const STEP_BOUND: f64 = 1e-2;

/// What rounding in f32 does to the difference of two `ln p` of the demo model, nats: a forward pass
/// of PyTorch in f32 is as far from one in f64.
const ROUNDING: f64 = 5e-5;

/// The largest of the errors, each over its bound.
#[derive(Debug, Default)]
struct Worst {
    rate: f64,
    change: f64,
    step: f64,
    step_change: f64,
}

impl Worst {
    fn see(&mut self, golden: &Value, found: &Found) {
        let of = |field: &str| golden[field].as_f64().unwrap();
        let rates = &found.displacement;
        let [pp, pm, mm] = ["plus_plus", "plus_minus", "minus_minus"].map(of);
        // A rate is a difference of what entries of one sign and of the other give.
        let larger = |rate: f64, of_all: f64| (of_all + rate.abs()) / 2.0;
        let mut scales = vec![
            ("chosen_logprob", of("chosen_logprob")),
            ("rejected_logprob", of("rejected_logprob")),
            ("chosen_rate_sgd", pp.max(pm.abs())),
            ("rejected_rate_sgd", mm.max(pm.abs())),
            ("overlap", (mm / pp).sqrt().max(of("overlap").abs())),
        ];
        for side in ["chosen", "rejected"] {
            let rate = format!("{side}_rate");
            let scale = larger(of(&rate), of(&format!("{side}_abs")));
            let error = (number(rates, &rate) - of(&rate)).abs();
            self.rate = self.rate.max(error / (RATE_BOUND * scale));
            let targets = of(&format!("{side}_targets"));
            let per_token = number(rates, &format!("{rate}_per_token"));
            assert!((per_token * targets / number(rates, &rate) - 1.0).abs() < 1e-12);
            let step = format!("{side}_change");
            let change = number(&found.simulated, &step);
            let per_token = number(&found.simulated, &format!("{step}_per_token"));
            assert!((per_token * targets / change - 1.0).abs() < 1e-12);
        }
        for (field, scale) in scales.drain(..) {
            let error = (number(rates, field) - of(field)).abs();
            self.rate = self.rate.max(error / (RATE_BOUND * scale.abs()));
        }
        let largest = |changes: &[(i64, f64)]| {
            let sizes = changes.iter().map(|(_, change)| change.abs());
            sizes.fold(0.0, f64::max)
        };
        let compare = |golden: &[(i64, f64)], found: &StructArray, bound: f64, rounding: f64| {
            let ours = changes(found);
            let ids = |of: &[(i64, f64)]| of.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(&ours), ids(golden));
            let pairs = ours.iter().zip(golden);
            let errors = pairs.map(|((_, ours), (_, golden))| (ours - golden).abs());
            errors.fold(0.0, f64::max) / (bound * largest(golden) + rounding)
        };
        let of_rates = golden_changes(golden, "changes");
        self.change = self.change.max(compare(&of_rates, rates, RATE_BOUND, 0.0));
        let of_step = golden_changes(golden, "simulated_changes");
        let simulated = &found.simulated;
        self.step_change = self
            .step_change
            .max(compare(&of_step, simulated, STEP_BOUND, ROUNDING));
        for side in ["chosen_change", "rejected_change"] {
            let error = (number(simulated, side) - of(side)).abs();
            // What targets gain and lose may cancel.
            let scale = of("chosen_change").abs().max(of("rejected_change").abs());
            self.step = self.step.max(error / (STEP_BOUND * scale));
        }
    }

    fn is_within(&self) -> bool {
        [self.rate, self.change, self.step, self.step_change]
            .iter()
            .all(|error| *error <= 1.0)
    }
}

fn texts(rows: &[Value], name: &str) -> ArrayRef {
    let texts = rows.iter().map(|row| row[name].as_str());
    Arc::new(texts.collect::<StringArray>())
}

/// The predictions of rows with texts, in one query or in one each.
async fn predictions(ches: &Ches, rows: &[Value], together: bool) -> Vec<Found> {
    let ctx = SessionContext::new();
    ches.register(&ctx).unwrap();
    let columns = ["prompt", "chosen", "rejected"].map(|name| (name, texts(rows, name)));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let batches = match together {
        true => vec![batch],
        false => (0..rows.len()).map(|row| batch.slice(row, 1)).collect(),
    };
    let mut found = Vec::new();
    for batch in batches {
        ctx.deregister_table("pairs").unwrap();
        ctx.register_batch("pairs", batch).unwrap();
        found.extend(select(&ctx, "").await);
    }
    assert_eq!(found.len(), rows.len());
    found
}

async fn select(ctx: &SessionContext, rest: &str) -> Vec<Found> {
    let sql = format!(
        "SELECT displacement(prompt, chosen, rejected), \
         displacement_simulated(prompt, chosen, rejected) FROM pairs {rest}"
    );
    let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
    let of_row = |batch: &RecordBatch, row: usize| Found {
        displacement: batch.column(0).slice(row, 1).as_struct().clone(),
        simulated: batch.column(1).slice(row, 1).as_struct().clone(),
    };
    let of_batch = |batch: &RecordBatch| {
        (0..batch.num_rows())
            .map(|row| of_row(batch, row))
            .collect()
    };
    let rows: Vec<Vec<Found>> = batches.iter().map(of_batch).collect();
    rows.into_iter().flatten().collect()
}

fn ches(model: &Path, golden: &Value) -> Ches {
    let rate = golden["learning_rate"].as_f64().unwrap();
    Ches::new()
        .with_model(model.to_str().unwrap())
        .with_memo_bytes(0)
        .with_top_tokens(60)
        .with_learning_rate(rate)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_agrees_with_autograd() {
    for family in families::model_types() {
        let folder = root().join("tests/goldens/families").join(family);
        let all = lines(&folder.join("displacement.jsonl"));
        for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
            let rows: Vec<Value> = all
                .iter()
                .filter(|row| row["format"] == name)
                .cloned()
                .collect();
            assert_eq!(rows.len(), 10, "{family}");
            let ches = ches(&folder.join("model"), &rows[0]).with_prompt_format(format);
            for together in [true, false] {
                let mut worst = Worst::default();
                for (row, found) in rows.iter().zip(predictions(&ches, &rows, together).await) {
                    worst.see(row, &found);
                }
                println!("{family}, {name}, together: {together}: {worst:?}");
                assert!(worst.is_within(), "{family}, {name}: {worst:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_model_agrees_with_autograd() {
    let goldens = golden_lines("displacement.jsonl");
    let (cut, whole): (Vec<Value>, Vec<Value>) = goldens
        .into_iter()
        .partition(|golden| golden.get("max_length").is_some());
    assert_eq!((whole.len(), cut.len()), (24, 4));
    let mut worst = Worst::default();
    let of_model = ches(Path::new(&model()), &whole[0]);
    let ctx = session_with_pairs(&of_model, &example_data()).await;
    let id = |golden: &Value| format!("'{}'", golden["id"].as_str().unwrap());
    let ids: Vec<String> = whole.iter().map(id).collect();
    let mut of_ids = whole.clone();
    of_ids.sort_by_key(|golden| golden["id"].to_string());
    let found = select(
        &ctx,
        &format!("WHERE id IN ({}) ORDER BY id", ids.join(", ")),
    )
    .await;
    assert_eq!(found.len(), 24);
    for (golden, found) in of_ids.iter().zip(&found) {
        worst.see(golden, found);
    }
    for golden in &cut {
        let length = golden["max_length"].as_u64().unwrap() as usize;
        let of_model = ches(Path::new(&model()), golden).with_max_length(length);
        let ctx = session_with_pairs(&of_model, &example_data()).await;
        let found = select(&ctx, &format!("WHERE id = {}", id(golden))).await;
        worst.see(golden, &found[0]);
    }
    println!("{worst:?}");
    assert!(worst.is_within(), "{worst:?}");
}

/// The single-token case of Razin et al. 2024: on yes/no prompts, `No` is preferred over `Never`.
/// What the tokens' probabilities truly do is what a step along the signs of all gradients does, of
/// every parameter (Adam's first), by PyTorch.
#[tokio::test(flavor = "multi_thread")]
async fn preferring_no_over_never() {
    const NO: i64 = 5230;
    const NEVER: i64 = 19525;
    let rows = golden_lines("no_never.jsonl");
    assert_eq!(rows.len(), 6);
    let of_model = ches(Path::new(&model()), &rows[0]);
    let found = predictions(&of_model, &rows, true).await;
    let mut worst = Worst::default();
    let mut agreeing = [0, 0];
    for (golden, found) in rows.iter().zip(&found) {
        worst.see(golden, found);
        let mut truth = golden_changes(golden, "true_changes");
        truth.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
        let predicted = [&found.displacement, &found.simulated].map(changes);
        for (predicted, agreeing) in predicted.iter().zip(&mut agreeing) {
            let agrees = |(token, change): &&(i64, f64)| {
                let (_, of_token) = predicted.iter().find(|(id, _)| id == token).unwrap();
                (of_token > &0.0) == (*change > 0.0)
            };
            let is_named = |(token, _): &&(i64, f64)| [NO, NEVER].contains(token);
            assert_eq!(truth.iter().filter(is_named).filter(agrees).count(), 2);
            *agreeing += truth[..10].iter().filter(agrees).count();
        }
    }
    println!("{worst:?}; of the 60 largest true changes {agreeing:?} have the predicted sign");
    assert!(worst.is_within(), "{worst:?}");
    // By autograd's own numbers: 30, no better than chance, and 41.
    assert!(agreeing[0] >= 29 && agreeing[1] >= 40, "{agreeing:?}");
}

/// Tokens are told of as they are in texts, whatever the model was read from.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_decoded() {
    let gguf = |name: &str| root().join(format!("tests/goldens/gguf/{name}.gguf"));
    let families = families::architectures().into_iter().map(gguf);
    let folders = ["llama", "gemma"].map(|family| {
        let families = root().join("tests/goldens/families");
        families.join(family).join("model")
    });
    for model in families.chain(folders).chain([model().into()]) {
        let ctx = SessionContext::new();
        let ches = Ches::new().with_model(model.to_str().unwrap());
        let ches = ches
            .with_prompt_format(PromptFormat::Raw)
            .with_top_tokens(100);
        ches.register(&ctx).unwrap();
        let sql = "SELECT displacement('Is it safe?', ' No.', ' Yes, it is.') AS d";
        let batches = ctx.sql(sql).await.unwrap().collect().await.unwrap();
        let row = batches[0].column(0).as_struct();
        let mut tokens = Vec::new();
        for list in ["gaining", "losing"] {
            let list = row.column_by_name(list).unwrap().as_list::<i32>().value(0);
            let texts = list.as_struct().column(0).as_string::<i32>().clone();
            tokens.extend(texts.iter().flatten().map(str::to_owned));
        }
        assert!(tokens.len() > 20, "{}", model.display());
        assert!(
            tokens.iter().any(|token| token.starts_with(' ')),
            "{tokens:?}"
        );
        let is_raw = |token: &String| token.contains(['Ġ', '▁', 'Ċ']);
        assert!(
            !tokens.iter().any(is_raw),
            "{}: {tokens:?}",
            model.display()
        );
    }
}

/// A score is the same whatever else is asked of the row.
#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_do_not_depend_on_predictions() {
    for family in families::model_types() {
        let folder = root().join("tests/goldens/families").join(family);
        for (dtype, bound) in [(ModelDtype::F32, 1e-6), (ModelDtype::Bf16, 0.0)] {
            let ctx = SessionContext::new();
            let model = folder.join("model");
            let ches = Ches::new().with_model(model.to_str().unwrap());
            let ches = ches.with_dtype(dtype).with_memo_bytes(0);
            ches.register(&ctx).unwrap();
            let score =
                |arguments: &str| format!("preference_scores({arguments})['chosen_logprob']");
            let arguments = "'The sky is', ' blue today', ' green as grass'";
            let alone = format!("SELECT {}", score(arguments));
            let beside = format!("{alone}, displacement({arguments})");
            let mut found = Vec::new();
            for sql in [alone, beside] {
                let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
                found.push(batches[0].column(0).as_primitive::<Float64Type>().value(0));
            }
            let difference = (found[0] - found[1]).abs();
            assert!(
                difference <= bound * found[0].abs(),
                "{family}, {dtype:?}: {found:?}"
            );
        }
    }
}
