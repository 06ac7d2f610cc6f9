//! `displacement` and `displacement_simulated` against PyTorch's autograd
//! (`tests/goldens/make_displacement.py`).

use std::path::Path;

use crate::suites::predictions::{Worst, changes, ches, golden_changes, predictions, select};
use crate::suites::{self, Subject, assert_pass};
use crate::support::{example_data, golden_lines, model, root, session_with_pairs};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::SessionContext;
use datafusion_ches::{Ches, ModelDtype, PromptFormat, families};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_family_agrees_with_autograd() {
    for subject in Subject::of_tests() {
        assert_pass(suites::predictions::of_every_family(&subject).await);
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
