//! A row's scores do not depend on what is computed beside it: neither on the other rows, nor on
//! `ches.batch_tokens`, partitions, files, or other sessions.

use std::path::Path;
use std::sync::Arc;

use crate::seeded::Seeded;
use crate::support::{model, root};
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{Float32Type, Float64Type, UInt64Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::{Ches, PromptFormat, families};
use serde_json::Value;

/// A prompt and two responses.
type Pair = [String; 3];

/// Pairs in a table of several partitions, each of several batches.
fn session(ches: &Ches, pairs: &[(usize, Pair)], random: &mut Seeded) -> SessionContext {
    let partitions = 1 + random.below(8);
    let config = SessionConfig::new().with_target_partitions(partitions);
    let ctx = SessionContext::new_with_config(config);
    ches.register(&ctx).unwrap();
    let mut parts = vec![Vec::new(); partitions];
    let mut rest = pairs;
    while !rest.is_empty() {
        let (here, others) = rest.split_at(rest.len().min(1 + random.below(12)));
        rest = others;
        let text = |which: usize| -> ArrayRef {
            let texts = here.iter().map(|(_, pair)| Some(&pair[which]));
            Arc::new(texts.collect::<StringArray>())
        };
        let ids = here.iter().map(|(id, _)| *id as u64);
        let id: ArrayRef = Arc::new(UInt64Array::from_iter_values(ids));
        let columns = [
            ("id", id),
            ("prompt", text(0)),
            ("chosen", text(1)),
            ("rejected", text(2)),
        ];
        parts[random.below(partitions)].push(RecordBatch::try_from_iter(columns).unwrap());
    }
    let schema = parts.iter().flatten().next().unwrap().schema();
    let table = MemTable::try_new(schema, parts).unwrap();
    ctx.register_table("pairs", Arc::new(table)).unwrap();
    ctx
}

/// Each pair's CHES score and log-probability of the chosen response, by id; `None` where a pair
/// has none.
async fn scores(ctx: SessionContext, count: usize) -> Vec<Option<[f64; 2]>> {
    let sql = "SELECT id, s['ches'], s['chosen_logprob'] FROM \
               (SELECT id, preference_scores(prompt, chosen, rejected) AS s FROM pairs)";
    let mut scores = vec![None; count];
    let mut rows = 0;
    for batch in ctx.sql(sql).await.unwrap().collect().await.unwrap() {
        let ids = batch.column(0).as_primitive::<UInt64Type>();
        let [ches, log_prob] = [1, 2].map(|at| batch.column(at).as_primitive::<Float64Type>());
        let values = ches.iter().zip(log_prob.iter());
        for (id, (ches, log_prob)) in ids.values().iter().zip(values) {
            scores[*id as usize] = ches.zip(log_prob).map(|(ches, log_prob)| [ches, log_prob]);
            rows += 1;
        }
    }
    assert_eq!(rows, count);
    scores
}

/// The norms of the two responses' summed embeddings.
async fn norms(ctx: &SessionContext, count: usize) -> Vec<[f64; 2]> {
    let sql = "SELECT id, response_embedding(prompt, chosen)['sum'], \
               response_embedding(prompt, rejected)['sum'] FROM pairs";
    let mut norms = vec![[0.0; 2]; count];
    for batch in ctx.sql(sql).await.unwrap().collect().await.unwrap() {
        let ids = batch.column(0).as_primitive::<UInt64Type>();
        for (row, id) in ids.values().iter().enumerate() {
            for which in [0, 1] {
                let sum = batch.column(which + 1).as_list::<i32>().value(row);
                let squares = sum.as_primitive::<Float32Type>().iter();
                let squares = squares.map(|value| f64::from(value.unwrap_or_default()).powi(2));
                norms[*id as usize][which] = squares.sum::<f64>().sqrt();
            }
        }
    }
    norms
}

/// Compares pairs, each computed alone, with the same in company.
async fn compare(name: &str, ches: &Ches, pairs: &[Pair], rounds: usize, seed: u64) {
    let mut random = Seeded(seed);
    let numbered: Vec<(usize, Pair)> = pairs.iter().cloned().enumerate().collect();
    let alone = ches.clone().with_memo_bytes(0).with_batch_tokens(1);
    let alone = session(&alone, &numbered, &mut random);
    let norms = norms(&alone, pairs.len()).await;
    let exact = scores(alone, pairs.len()).await;
    assert!(exact.iter().filter(|score| score.is_some()).count() > pairs.len() / 2);
    for round in 0..rounds {
        // Several sessions at once, each with its own order, partitions and batches.
        let queries: Vec<_> = (0..3)
            .map(|_| {
                let mut shuffled = numbered.clone();
                for at in (1..shuffled.len()).rev() {
                    shuffled.swap(at, random.below(at + 1));
                }
                if random.below(2) == 0 {
                    // Equal prompts side by side.
                    shuffled.sort_by(|a, b| a.1[0].cmp(&b.1[0]));
                }
                let batch_tokens = [60, 300, 1024, 10_000][random.below(4)];
                let ches = ches
                    .clone()
                    .with_memo_bytes(0)
                    .with_batch_tokens(batch_tokens);
                let ctx = session(&ches, &shuffled, &mut random);
                tokio::spawn(scores(ctx, pairs.len()))
            })
            .collect();
        for query in queries {
            let found = query.await.unwrap();
            for (id, (found, exact)) in found.into_iter().zip(&exact).enumerate() {
                let name = format!("{name}, seed {seed}, round {round}, row {id}");
                let (Some(found), Some(exact)) = (found, exact) else {
                    assert_eq!(found.is_some(), exact.is_some(), "{name}");
                    continue;
                };
                let [plus, minus] = norms[id];
                let bound = 1e-5 * exact[0].abs() + 1e-7 * plus * (plus + minus);
                let difference = (found[0] - exact[0]).abs();
                assert!(difference <= bound, "{name}: {found:?}, alone {exact:?}");
                let difference = (found[1] - exact[1]).abs();
                assert!(
                    difference <= 1e-5 * exact[1].abs(),
                    "{name}: {found:?}, alone {exact:?}"
                );
            }
        }
    }
}

/// Pairs whose prompts begin alike, are equal, or have nothing in common.
fn mixed(texts: &[Pair], count: usize, random: &mut Seeded) -> Vec<Pair> {
    let beginnings = ["", "You help. ", "You help. Always in short words. "];
    let pair = |_| {
        let mut text = |which: usize| texts[random.below(texts.len())][which].clone();
        let (prompt, chosen, rejected) = (text(0), text(1), text(2));
        let beginning = beginnings[random.below(beginnings.len())];
        [format!("{beginning}{prompt}"), chosen, rejected]
    };
    (0..count).map(pair).collect()
}

fn golden_texts(family: &Path) -> Vec<Pair> {
    let rows = std::fs::read_to_string(family.join("rows.jsonl")).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str(line).unwrap());
    let texts = |row: Value| {
        ["prompt", "chosen", "rejected"].map(|name| row[name].as_str().unwrap().to_owned())
    };
    rows.map(texts).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_every_family() {
    for (number, family) in families::model_types().into_iter().enumerate() {
        let folder = root().join("tests/goldens/families").join(family);
        let mut random = Seeded(2026 + number as u64);
        let pairs = mixed(&golden_texts(&folder), 40, &mut random);
        let ches = Ches::new()
            .with_model(folder.join("model").to_str().unwrap())
            .with_prompt_format(PromptFormat::Raw);
        compare(family, &ches, &pairs, 3, number as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_real_model() {
    let texts = golden_texts(&root().join("tests/goldens/families/llama"));
    let pairs = mixed(&texts, 24, &mut Seeded(7));
    let ches = Ches::new().with_model(model());
    compare("SmolLM2", &ches, &pairs, 1, 7).await;
}
