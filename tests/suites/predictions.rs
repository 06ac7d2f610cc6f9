//! `displacement` and `displacement_simulated` of every family against PyTorch's autograd
//! (`tests/goldens/make_displacement.py`).

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use datafusion::arrow::datatypes::{Float64Type, Int32Type};
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, PromptFormat};
use serde_json::Value;

use super::{Check, Subject, of_families};
use crate::support::lines;

/// What was found of one pair.
pub(crate) struct Found {
    pub displacement: StructArray,
    pub simulated: StructArray,
}

fn number(row: &StructArray, field: &str) -> f64 {
    let column = row.column_by_name(field).unwrap();
    assert!(column.is_valid(0), "{field} is NULL: {row:?}");
    column.as_primitive::<Float64Type>().value(0)
}

/// The tokens of `gaining` and `losing` with their changes, by id, as goldens have them; and whether
/// they are in order.
pub(crate) fn changes(row: &StructArray) -> Vec<(i64, f64)> {
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

pub(crate) fn golden_changes(golden: &Value, field: &str) -> Vec<(i64, f64)> {
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
pub(crate) struct Worst {
    rate: f64,
    change: f64,
    step: f64,
    step_change: f64,
}

impl Worst {
    pub(crate) fn see(&mut self, golden: &Value, found: &Found) {
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

    /// The largest of them all.
    pub(crate) fn of_bound(&self) -> f64 {
        let errors = [self.rate, self.change, self.step, self.step_change];
        match errors.iter().any(|error| error.is_nan()) {
            true => f64::NAN,
            false => errors.into_iter().fold(0.0, f64::max),
        }
    }

    pub(crate) fn is_within(&self) -> bool {
        self.of_bound() <= 1.0
    }
}

fn texts(rows: &[Value], name: &str) -> ArrayRef {
    let texts = rows.iter().map(|row| row[name].as_str());
    Arc::new(texts.collect::<StringArray>())
}

/// The predictions of rows with texts, in one query or in one each.
pub(crate) async fn predictions(ches: &Ches, rows: &[Value], together: bool) -> Vec<Found> {
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

/// The predictions of the rows of `pairs`.
pub(crate) async fn select(ctx: &SessionContext, rest: &str) -> Vec<Found> {
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

/// What the golden was made with.
pub(crate) fn ches(model: &Path, golden: &Value) -> Ches {
    let rate = golden["learning_rate"].as_f64().unwrap();
    Ches::new()
        .with_model(model.to_str().unwrap())
        .with_memo_bytes(0)
        .with_top_tokens(60)
        .with_learning_rate(rate)
        .unwrap()
}

/// Each family's predictions, its goldens together in one query and each in one of its own.
pub(crate) async fn of_every_family(subject: &Subject) -> Vec<Check> {
    of_families(|family| of_family(subject, family)).await
}

async fn of_family(subject: &Subject, family: &str) -> Vec<Check> {
    let folder = subject.family(family);
    let all = lines(&folder.join("displacement.jsonl"));
    let mut worst = Worst::default();
    for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
        let rows = all.iter().filter(|row| row["format"] == name);
        let rows: Vec<Value> = rows.cloned().collect();
        assert_eq!(rows.len(), 10, "{family}");
        let ches = ches(&folder.join("model"), &rows[0]).with_prompt_format(format);
        let ches = ches.with_device(&subject.device).unwrap();
        for together in [true, false] {
            for (row, found) in rows.iter().zip(predictions(&ches, &rows, together).await) {
                worst.see(row, &found);
            }
        }
    }
    vec![Check {
        name: format!("{family}, predictions"),
        of_bound: worst.of_bound(),
        detail: format!("{worst:?}"),
    }]
}
