//! How fast whole queries are, and where the time goes, with the lengths of real preference data.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::decoder::{Decoder, PackedBatch, Readout, Segment};
use datafusion_ches::model_directory::ModelDirectory;
use datafusion_ches::{Ches, PromptFormat, Target, families};
use serde_json::json;

use crate::Fallible;
use crate::report::Report;
use crate::shapes::{Shape, noise, word};

/// Tokens of prompts and of the two responses of 275 pairs of DPO-En-Zh-20k, in SmolLM2's vocabulary.
const LENGTHS: &str = include_str!("../../bench/lengths.csv");

/// A timed query takes about so long.
const SECONDS: f64 = 30.0;

/// The share of the matmul peak that a whole query of a shape is to reach on a GPU.
const TARGET: (&str, f64) = ("llama-3-8b", 0.6);

/// The check at opening is to take no longer on a GPU.
const LONGEST_CHECK: f64 = 1.0;

/// Tokens of the pass whose steps are timed.
const PASS: usize = 16_384;

/// The device that a shape is tried on.
pub(crate) struct On<'a> {
    pub device: &'a Device,
    pub name: &'a str,
    pub dtype: DType,
    /// Operations a second of large products.
    pub peak: f64,
}

fn lengths() -> Vec<[usize; 3]> {
    let lines = LENGTHS.lines().skip(1);
    let numbers = |line: &str| {
        let mut numbers = line.split(',').filter_map(|number| number.parse().ok());
        [(); 3].map(|()| numbers.next().unwrap_or(1))
    };
    lines.map(numbers).collect()
}

/// Pairs of random words, whose lengths are those of the data, again and again.
fn pairs(count: usize, vocab: usize) -> Vec<[String; 3]> {
    let lengths = lengths();
    let text = |row: usize, which: usize| {
        let length = lengths[row % lengths.len()][which];
        let id = |at: usize| {
            let fraction = f64::from(noise(3 * row + which, at)) / 2.0 + 0.5;
            3 + (fraction * (vocab - 4) as f64) as usize
        };
        let words: Vec<String> = (0..length).map(|at| word(id(at))).collect();
        // Responses follow the prompt's last word.
        let space = if which == 0 { "" } else { " " };
        format!("{space}{}", words.join(" "))
    };
    (0..count)
        .map(|row| [0, 1, 2].map(|which| text(row, which)))
        .collect()
}

/// Tokens that are computed of the first pairs: each prompt once.
fn tokens(count: usize) -> usize {
    let lengths = lengths();
    (0..count)
        .map(|row| lengths[row % lengths.len()].iter().sum::<usize>())
        .sum()
}

fn table(pairs: &[[String; 3]]) -> Fallible<RecordBatch> {
    let column = |which: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            pairs.iter().map(|pair| &pair[which]),
        ))
    };
    let columns = [
        ("prompt", column(0)),
        ("chosen", column(1)),
        ("rejected", column(2)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

async fn seconds(
    ches: &Ches,
    pairs: &[[String; 3]],
    function: &str,
) -> Fallible<(f64, Vec<RecordBatch>)> {
    let config = SessionConfig::new().with_target_partitions(1);
    let ctx = SessionContext::new_with_config(config);
    ches.register(&ctx)?;
    ctx.register_batch("pairs", table(pairs)?)?;
    let began = Instant::now();
    let query = format!("SELECT {function}(prompt, chosen, rejected) AS score FROM pairs");
    let batches = ctx.sql(&query).await?.collect().await?;
    Ok((began.elapsed().as_secs_f64(), batches))
}

fn ches(model: &Path, on: &On) -> Fallible<Ches> {
    Ok(Ches::new()
        .with_model(model.to_str().ok_or("the folder's name is no text")?)
        .with_prompt_format(PromptFormat::Raw)
        .with_memo_bytes(0)
        .with_device(on.name)?)
}

/// Makes the model if it is not there, and scores pairs for half a minute; leaves pairs and scores beside the
/// model. Tells the tokens a second.
pub(crate) async fn whole_query(
    report: &mut Report,
    shape: &Shape,
    folder: &Path,
    on: &On<'_>,
) -> Fallible<f64> {
    let model = folder.join(shape.name);
    if !model.exists() {
        let unfinished = model.with_extension("unfinished");
        shape.write(&unfinished)?;
        std::fs::rename(unfinished, &model)?;
    }
    let ches = ches(&model, on)?;
    let key = |name: &str| format!("{}_{name}", shape.name);
    let few = pairs(64, shape.vocab);
    let (opening, _) = seconds(&ches, &few[..1], "ches").await?;
    let said = format!("{opening:.1} s to open it");
    let gigabytes = shape.parameters() as f64 * on.dtype.size_in_bytes() as f64 / 1e9;
    let what = format!("{}, {gigabytes:.1} GB", shape.name);
    report.figure("c", &key("opening_seconds"), &what, opening, &said);
    let (warm, _) = seconds(&ches, &few, "ches").await?;
    let count = (few.len() as f64 * SECONDS / warm) as usize;
    let pairs = pairs(count.clamp(64, 100_000), shape.vocab);
    let (seconds, batches) = seconds(&ches, &pairs, "ches").await?;
    let computed = tokens(pairs.len());
    let rate = computed as f64 / seconds;
    let of_peak = rate * shape.operations() / on.peak;
    let said = format!(
        "{rate:.0} tokens/s, {:.1} pairs/s, {:.1} % of the matmul peak",
        rate * pairs.len() as f64 / computed as f64,
        100.0 * of_peak
    );
    let what = format!("{}, whole query of {} pairs", shape.name, pairs.len());
    let mut value =
        json!({"tokens_per_second": rate, "share_of_peak": of_peak, "pairs": pairs.len()});
    if shape.name == TARGET.0 && on.device.is_cuda() {
        value["target_share_of_peak"] = json!(TARGET.1);
        value["target_met"] = json!(of_peak >= TARGET.1);
    }
    report.figure("c", &key("whole_query"), &what, value, &said);
    let scores = batches.iter().flat_map(|batch| {
        let scores = batch.column(0).as_primitive::<Float64Type>();
        scores.iter().collect::<Vec<_>>()
    });
    let scores: Vec<Option<f64>> = scores.collect();
    let unscored = scores
        .iter()
        .filter(|score| !score.is_some_and(f64::is_finite));
    let unscored = unscored.count();
    if unscored > 0 {
        report.fail(
            "c",
            &what,
            &format!("{unscored} of its pairs have no finite score"),
        );
    }
    let mut out = BufWriter::new(File::create(model.join("pairs.jsonl"))?);
    for ([prompt, chosen, rejected], score) in pairs.iter().zip(scores) {
        let row = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "score": score});
        writeln!(out, "{row}")?;
    }
    out.flush()?;
    Ok(rate)
}

/// Pairs packed into one pass, each prompt once.
fn pass(vocab: usize) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for (row, [prompt, chosen, rejected]) in lengths().into_iter().cycle().enumerate() {
        if batch.tokens.len() + prompt + chosen + rejected > PASS {
            break;
        }
        let first = batch.tokens.len();
        let asked = first..first + prompt;
        let mut add = |length: usize, context: &[std::ops::Range<usize>], from: usize| {
            let start = batch.tokens.len();
            let number = |at: usize| 3 + (at * 7919 + row * 104_729) % (vocab - 4);
            batch
                .tokens
                .extend((start..start + length).map(|at| number(at) as u32));
            batch
                .positions
                .extend((from..from + length).map(|at| at as u32));
            batch.segments.push(Segment {
                own: start..start + length,
                context: context.to_vec(),
                sequence_tokens: from + length,
            });
            start..start + length
        };
        add(prompt, &[], 0);
        for length in [chosen, rejected] {
            let own = add(length, std::slice::from_ref(&asked), prompt);
            let last = asked.end - 1..asked.end;
            batch.readouts.push(Readout {
                tokens: last.chain(own).map(|token| token as u32).collect(),
                targets: Vec::new(),
            });
        }
    }
    batch
}

/// The time of one pass by kind of step, the device waited for after each.
pub(crate) fn steps(report: &mut Report, shape: &Shape, folder: &Path, on: &On) -> Fallible<()> {
    let directory = ModelDirectory::open(&folder.join(shape.name))?;
    let config = families::config_from_hub(&directory)?;
    let target = Target::new(on.device.clone(), on.dtype);
    let weights = families::weights_from_hub(&directory, &config, &target)?;
    let decoder = Decoder::new(config, weights, on.device.clone()).by_tensors();
    let began = Instant::now();
    let check = decoder.check_device()?;
    let checking = began.elapsed().as_secs_f64();
    let said = format!("{} steps in {checking:.2} s", check.steps);
    let what = format!("{}, check at opening", shape.name);
    report.figure(
        "c",
        &format!("{}_check_seconds", shape.name),
        &what,
        checking,
        &said,
    );
    if on.device.is_cuda() && checking > LONGEST_CHECK {
        report.fail("c", &what, &format!("takes longer than {LONGEST_CHECK} s"));
    }
    let batch = pass(shape.vocab);
    decoder.step_times(&batch)?;
    let times = decoder.step_times(&batch)?;
    let kinds = [
        ("attention", times.attention),
        ("products", times.products),
        ("norms and sums", times.norms),
        ("host and rest", times.host),
    ];
    let all: f64 = kinds.iter().map(|(_, time)| time.as_secs_f64()).sum();
    let said: Vec<String> = kinds
        .iter()
        .map(|(kind, time)| {
            let time = time.as_secs_f64();
            format!("{kind} {:.1} ms ({:.0} %)", 1e3 * time, 100.0 * time / all)
        })
        .collect();
    let milliseconds = kinds.map(|(kind, time)| (kind.to_owned(), json!(1e3 * time.as_secs_f64())));
    let what = format!("{}, a pass of {} tokens", shape.name, batch.tokens.len());
    let value: serde_json::Map<_, _> = milliseconds.into_iter().collect();
    report.figure(
        "c",
        &format!("{}_steps_ms", shape.name),
        &what,
        value,
        &said.join(", "),
    );
    Ok(())
}

/// What predictions cost, of a plain score.
pub(crate) async fn predictions(
    report: &mut Report,
    shape: &Shape,
    folder: &Path,
    on: &On<'_>,
) -> Fallible<()> {
    let ches = ches(&folder.join(shape.name), on)?;
    let few = pairs(8, shape.vocab);
    seconds(&ches, &few, "ches").await?;
    let pairs = pairs(if on.device.is_cuda() { 256 } else { 8 }, shape.vocab);
    let (plain, _) = seconds(&ches, &pairs, "ches").await?;
    for function in ["displacement", "displacement_simulated"] {
        let (time, _) = seconds(&ches, &pairs, function).await?;
        let said = format!(
            "{:.1} pairs/s, {:.1} × ches",
            pairs.len() as f64 / time,
            time / plain
        );
        let what = format!("{}, {function}", shape.name);
        report.figure(
            "d",
            &format!("{}_{function}", shape.name),
            &what,
            time / plain,
            &said,
        );
    }
    Ok(())
}
