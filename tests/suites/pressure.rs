//! Little memory, queries that are dropped, and several at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::SessionContext;
use datafusion_ches::decoder::Predicted;
use datafusion_ches::model_directory::ModelDirectory;
use datafusion_ches::{Ches, ModelDtype, OnError, PromptFormat, families};

use super::families::{Asked, rows_of};
use super::{Check, Subject};

/// So many pairs, whose prompts have so many words each.
fn pairs(count: usize, words: impl Fn(usize) -> usize) -> RecordBatch {
    pairs_of(count, |row| {
        let words = (0..words(row)).map(|word| format!("w{} ", word * (row + 7) % 50));
        words.collect()
    })
}

/// So many pairs with these prompts.
fn pairs_of(count: usize, prompt: impl Fn(usize) -> String) -> RecordBatch {
    let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..count).map(text)))
    };
    let columns = [
        ("prompt", texts(&prompt)),
        ("chosen", texts(&|row| format!("yes, {row}"))),
        ("rejected", texts(&|row| format!("no, not {row}"))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn ches(subject: &Subject) -> Ches {
    Ches::new()
        .with_model(subject.model("llama"))
        .with_prompt_format(PromptFormat::Raw)
        .with_dtype(ModelDtype::F32)
        .with_memo_bytes(0)
        .with_device(&subject.device)
        .unwrap()
}

/// Each pair's score and why it has none.
async fn scores(ches: &Ches, pairs: &RecordBatch) -> Vec<(Option<f64>, Option<String>)> {
    let ctx = SessionContext::new();
    ches.register(&ctx).unwrap();
    ctx.register_batch("pairs", pairs.clone()).unwrap();
    let sql = "SELECT s['ches'], s['error'] FROM \
               (SELECT preference_scores(prompt, chosen, rejected) AS s FROM pairs)";
    let mut found = Vec::new();
    for batch in ctx.sql(sql).await.unwrap().collect().await.unwrap() {
        let scores = batch.column(0).as_primitive::<Float64Type>();
        let errors = batch.column(1).as_string::<i32>();
        let errors = errors.iter().map(|error| error.map(str::to_owned));
        found.extend(scores.iter().zip(errors));
    }
    assert_eq!(found.len(), pairs.num_rows());
    found
}

fn check(name: &str, of_bound: f64, detail: String) -> Check {
    Check {
        name: name.into(),
        of_bound,
        detail,
    }
}

/// The largest difference of scores, of 1e-4 of the larger; what has one in one list alone is no number.
fn apart(a: &[Option<f64>], b: &[Option<f64>]) -> f64 {
    let mut worst: f64 = 0.0;
    for pair in a.iter().zip(b) {
        match pair {
            (Some(a), Some(b)) => worst = worst.max((a - b).abs() / (1e-4 * a.abs().max(b.abs()))),
            (None, None) => {}
            _ => return f64::NAN,
        }
    }
    worst
}

/// `ches.memory_limit`: the rows that fit have their scores in smaller passes, those that do not are refused
/// by name.
pub(crate) async fn memory_limit(subject: &Subject) -> Check {
    let name = "ches.memory_limit";
    let pairs = pairs(24, |row| 3 + 3 * row);
    let ches = ches(subject).with_on_error(OnError::Null);
    let free = scores(&ches, &pairs).await;
    let directory = ModelDirectory::open(subject.model("llama").as_ref()).unwrap();
    let config = families::config_from_hub(&directory).unwrap();
    let bytes = config.activation_bytes(150, Predicted::Nothing);
    let bounded = scores(&ches.with_memory_limit(bytes as usize), &pairs).await;
    let mut kept = (Vec::new(), Vec::new());
    let mut refused = 0;
    for ((free, error), (bounded, reason)) in free.iter().zip(&bounded) {
        match reason {
            Some(reason) if !reason.contains("ches.memory_limit") => {
                return check(name, f64::NAN, reason.clone());
            }
            Some(_) => refused += 1,
            None => {
                kept.0.push(*free);
                kept.1.push(*bounded);
            }
        }
        if let Some(error) = error {
            return check(name, f64::NAN, error.clone());
        }
    }
    let of_bound = match (refused, kept.0.len()) {
        (0, _) | (_, 0) => f64::NAN,
        _ => apart(&kept.0, &kept.1),
    };
    check(
        name,
        of_bound,
        format!("{refused} rows refused, {} kept", kept.0.len()),
    )
}

/// A query that is dropped makes room for the next one at once: in half of the time that it would have taken.
pub(crate) async fn cancellation(subject: &Subject) -> Check {
    let name = "a dropped query";
    let ches = ches(subject);
    let few = pairs(1, |_| 3);
    scores(&ches, &few).await;
    let many = pairs(3000, |row| 3 + row % 90);
    let began = Instant::now();
    scores(&ches, &many).await;
    let whole = began.elapsed().as_secs_f64();
    let query = tokio::spawn({
        let ches = ches.clone();
        async move { scores(&ches, &many).await }
    });
    tokio::time::sleep(Duration::from_secs_f64(whole / 10.0)).await;
    query.abort();
    let is_dropped = query.await.is_err_and(|error| error.is_cancelled());
    let began = Instant::now();
    scores(&ches, &few).await;
    let seconds = began.elapsed().as_secs_f64();
    let of_bound = if is_dropped {
        seconds / (0.5 * whole)
    } else {
        f64::NAN
    };
    let detail =
        format!("the next one took {seconds:.2} s, and the dropped one would have {whole:.2} s");
    check(name, of_bound, detail)
}

/// Two sessions with a model each, and two with the same one.
pub(crate) async fn at_once(subject: &Subject) -> Check {
    let asked = |family: &str| {
        Asked::of(
            &subject.device,
            subject.family(family).join("model"),
            PromptFormat::Raw,
        )
    };
    let rows = |family: &str| rows_of(&subject.family(family), "raw");
    let (llama, qwen) = (rows("llama"), rows("qwen2"));
    let (a, b, c) = (asked("llama"), asked("llama"), asked("qwen2"));
    let mut worst: f64 = 0.0;
    for _ in 0..3 {
        let found = tokio::join!(a.in_f32(&llama), b.in_f32(&llama), c.in_f32(&qwen));
        for of_bound in [found.0, found.1, found.2] {
            if of_bound.is_nan() {
                return check("sessions at once", f64::NAN, String::new());
            }
            worst = worst.max(of_bound);
        }
    }
    check("sessions at once", worst, "three times three".into())
}

/// A batch that the device has no memory for is computed in parts. None where there is no GPU.
pub(crate) async fn out_of_memory(subject: &Subject) -> Option<Check> {
    const BLOCK: usize = 32 << 20;
    const LEFT: usize = 96 << 20;
    // What one call takes, and nearly as long as the tiny model reads.
    const ROWS: usize = 1024;
    const TOKENS: usize = 200;
    if !subject.device.starts_with("cuda") {
        return None;
    }
    let device = datafusion_ches::devices(&subject.device)
        .ok()?
        .swap_remove(0);
    let name = "a batch that does not fit";
    // No two begin alike, so that nothing is computed once for both.
    let prompt = |row: usize| -> String {
        let words = (0..TOKENS / 3).map(|word| format!("w{} ", (row * 31 + word * 17) % 997));
        format!("{row} {}", words.collect::<String>())
    };
    let pairs = pairs_of(ROWS, prompt);
    let ches = ches(subject).with_batch_tokens(1 << 24);
    let free = scores(&ches, &pairs).await;
    let free: Vec<_> = free.into_iter().map(|(score, _)| score).collect();
    let mut ballast = Vec::new();
    while let Ok(block) = Tensor::zeros(BLOCK, DType::U8, &device) {
        ballast.push(block);
    }
    ballast.truncate(ballast.len().saturating_sub(LEFT / BLOCK));
    device.synchronize().unwrap();
    let directory = ModelDirectory::open(subject.model("llama").as_ref()).unwrap();
    let config = families::config_from_hub(&directory).unwrap();
    let needed = config.activation_bytes(ROWS * TOKENS, Predicted::Nothing) as usize;
    let fits = Tensor::zeros(needed, DType::U8, &device).is_ok();
    let found = scores(&ches.with_on_error(OnError::Null), &pairs).await;
    drop(ballast);
    // Freed memory is there for other processes when the device is waited for.
    device.synchronize().unwrap();
    if fits {
        let detail = format!("{} MB are there, and the batch needs no more", needed >> 20);
        return Some(check(name, f64::NAN, detail));
    }
    let error = found.iter().find_map(|(_, error)| error.clone());
    let found: Vec<_> = found.into_iter().map(|(score, _)| score).collect();
    Some(check(name, apart(&free, &found), error.unwrap_or_default()))
}

/// One query on two devices. None where there are not two.
pub(crate) async fn two_devices(subject: &Subject) -> Option<Check> {
    if !subject.device.starts_with("cuda") || datafusion_ches::devices("cuda:0,1").is_err() {
        return None;
    }
    let folder = subject.family("llama").join("model");
    let rows = rows_of(&subject.family("llama"), "raw");
    let asked = Asked::of("cuda:0,1", folder, PromptFormat::Raw);
    Some(check("cuda:0,1", asked.in_f32(&rows).await, String::new()))
}
