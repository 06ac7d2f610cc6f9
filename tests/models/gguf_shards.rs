//! GGUF models of several files, and what else of a file must not be dropped without a word.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::one_pair::score_one;
use crate::support::{assert_scores, field, lines, root};
use crate::tiny_gguf::{GgufFile, Tensor, Value, shard_name, short, split_tiny_llama, tiny_llama};
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use datafusion_ches::ches_udfs::PairScores;
use datafusion_ches::{Ches, PromptFormat};
use serde_json::Value as Json;

const TEXTS: [&str; 3] = ["a b", " yes", " no"];

fn tensor(name: &str, dimensions: &[u64]) -> Tensor {
    let count = dimensions.iter().product::<u64>();
    Tensor {
        name: name.into(),
        dimensions: dimensions.to_vec(),
        values: (0..count).map(|at| at as f32 / 8.0 - 0.3).collect(),
        dtype: 0,
        offset: None,
    }
}

fn write(folder: &Path, shards: &[GgufFile]) -> Vec<PathBuf> {
    let write = |(at, shard): (usize, &GgufFile)| {
        let path = folder.join(shard_name(at + 1));
        std::fs::write(&path, shard.bytes()).unwrap();
        path
    };
    shards.iter().enumerate().map(write).collect()
}

async fn scored(path: &Path) -> PairScores {
    score_one(path, TEXTS).await.unwrap()
}

async fn refused(path: &Path) -> String {
    score_one(path, TEXTS).await.unwrap_err()
}

#[tokio::test]
async fn any_shard_names_the_whole_model() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.gguf");
    std::fs::write(&whole, tiny_llama().bytes()).unwrap();
    let expected = scored(&whole).await;
    for path in write(folder.path(), &split_tiny_llama()) {
        assert_eq!(scored(&path).await, expected, "{}", path.display());
    }
}

#[tokio::test]
async fn a_missing_shard_is_named() {
    for missing in 1..=3 {
        let folder = tempfile::tempdir().unwrap();
        let paths = write(folder.path(), &split_tiny_llama());
        std::fs::remove_file(folder.path().join(shard_name(missing))).unwrap();
        for path in paths.iter().filter(|path| path.exists()) {
            let error = refused(path).await;
            let expected = format!("{} is missing", shard_name(missing));
            assert!(error.contains(&expected), "{error}");
        }
    }
}

#[tokio::test]
async fn shards_that_do_not_belong_together_are_refused() {
    type Change = fn(&mut [GgufFile; 3]);
    let cases: [(Change, &str); 7] = [
        (
            |shards| shards.swap(1, 2),
            "tiny-00002-of-00003.gguf: split.no is 2; of shard 2 of 3 it is 1",
        ),
        (
            |shards| shards[2] = shards[2].clone().set("split.count", Some(short(4))),
            "tiny-00003-of-00003.gguf: split.count is 4; of shard 3 of 3 it is 3",
        ),
        (
            |shards| shards[1] = shards[1].clone().set("split.no", None),
            "tiny-00002-of-00003.gguf: split.no is missing",
        ),
        (
            |shards| shards[0] = shards[0].clone().set("split.count", Some(short(2))),
            "split.count is 2, which its name does not say",
        ),
        (
            |shards| {
                let all = Some(Value::U32(12));
                shards[0] = shards[0].clone().set("split.tensors.count", all);
            },
            "split.tensors.count is 12; its 3 shards have 11 tensors",
        ),
        (
            |shards| shards[2].tensors.push(shards[0].tensors[0].clone()),
            "tensor token_embd.weight is in ",
        ),
        (
            |shards| shards[1].magic = *b"GGML",
            "tiny-00002-of-00003.gguf: not a GGUF file",
        ),
    ];
    for (change, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut shards = split_tiny_llama();
        change(&mut shards);
        let error = refused(&write(folder.path(), &shards)[0]).await;
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("renamed.gguf");
    std::fs::write(&renamed, split_tiny_llama()[0].bytes()).unwrap();
    let error = refused(&renamed).await;
    assert!(error.contains("-00001-of-00003.gguf"), "{error}");
}

/// A file that is one of several by its name alone is a model of its own.
#[tokio::test]
async fn a_name_makes_no_shard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(shard_name(2));
    std::fs::write(&path, tiny_llama().bytes()).unwrap();
    scored(&path).await;
}

#[tokio::test]
async fn every_tensor_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny_llama().bytes()).unwrap();
    let plain = scored(&path).await;
    let with = |tensors: &[(&str, u64)]| {
        let mut file = tiny_llama();
        let tensors = tensors.iter();
        file.tensors
            .extend(tensors.map(|(name, width)| tensor(&format!("blk.0.{name}"), &[*width])));
        file.bytes()
    };
    let read: [&[(&str, u64)]; 4] = [
        &[("attn_q.bias", 8), ("attn_k.bias", 4), ("attn_v.bias", 4)],
        &[("attn_output.bias", 8)],
        &[("ffn_gate.bias", 16), ("ffn_up.bias", 16)],
        &[("ffn_down.bias", 8)],
    ];
    for tensors in read {
        std::fs::write(&path, with(tensors)).unwrap();
        assert_ne!(scored(&path).await.ches, plain.ches, "{tensors:?}");
    }
    let not_read: [(&[(&str, u64)], &str); 5] = [
        (
            &[("attn_q.bias", 8)],
            "there is a tensor blk.0.attn_q.bias and no blk.0.attn_k.bias",
        ),
        (
            &[("ffn_up.bias", 16)],
            "there is a tensor blk.0.ffn_up.bias and no blk.0.ffn_gate.bias",
        ),
        (
            &[("attn_q.scale", 1)],
            "would not be read: blk.0.attn_q.scale",
        ),
        (
            &[("attn_norm.bias", 8), ("attn_q_norm.weight", 4)],
            "2 of its tensors would not be read: blk.0.attn_norm.bias, blk.0.attn_q_norm.weight",
        ),
        (
            &[("attn_output.bias", 4)],
            "has shape [4]; the metadata calls for [8]",
        ),
    ];
    for (tensors, expected) in not_read {
        std::fs::write(&path, with(tensors)).unwrap();
        let error = refused(&path).await;
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
}

#[tokio::test]
async fn keys_that_change_numbers_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let with = |key: &str, value: Value| {
        let file = tiny_llama().set(&format!("llama.{key}"), Some(value));
        std::fs::write(&path, file.bytes()).unwrap();
    };
    std::fs::write(&path, tiny_llama().bytes()).unwrap();
    let plain = scored(&path).await;
    let refusals = [
        ("attention.causal", Value::Bool(false)),
        ("attention.sliding_window", Value::U32(8)),
        ("attention.scale", Value::F32(0.5)),
        ("attn_logit_softcapping", Value::F32(50.0)),
        ("final_logit_softcapping", Value::F32(30.0)),
        ("logit_scale", Value::F32(2.0)),
        ("nextn_predict_layers", Value::U32(1)),
        ("rope.scaling.attn_factor", Value::F32(1.1)),
    ];
    for (key, value) in refusals {
        with(key, value);
        let error = refused(&path).await;
        let expected = format!("llama.{key} asks for what is not supported; accepted: ");
        assert!(error.contains(&expected), "{error}");
    }
    let neutral = [
        ("attention.causal", Value::Bool(true)),
        ("attention.sliding_window", Value::U32(64)),
        ("attention.head_count", Value::I32s(vec![2])),
        ("feed_forward_length", Value::I32s(vec![16])),
        ("rope.scaling.factor", Value::F32(0.0)),
        ("rope.scaling.factor", Value::F32(1.0)),
        ("vocab_size", Value::U32(1)),
        ("what_nobody_knows", Value::U32(1)),
    ];
    for (key, value) in neutral {
        with(key, value);
        assert_eq!(scored(&path).await, plain, "{key}");
    }
    for key in ["rope.scaling.factor", "rope.scale_linear"] {
        with(key, Value::F32(4.0));
        assert_ne!(scored(&path).await.ches, plain.ches, "{key}");
    }
}

/// Puts an entry into the metadata, and another that keeps the data where alignment wants it.
fn with_number(file: &[u8], key: &str, value: f32) -> Vec<u8> {
    let length = |text: &str| (text.len() as u64).to_le_bytes();
    let mut entries = [&length(key)[..], key.as_bytes(), &6u32.to_le_bytes()].concat();
    entries.extend(value.to_le_bytes());
    let filler = "general.description";
    entries.extend([&length(filler)[..], filler.as_bytes(), &8u32.to_le_bytes()].concat());
    let text = " ".repeat((entries.len() + 8).next_multiple_of(32) - entries.len() - 8);
    entries.extend([&length(&text)[..], text.as_bytes()].concat());
    let count = u64::from_le_bytes(file[16..24].try_into().unwrap()) + 2;
    [&file[..16], &count.to_le_bytes(), &entries, &file[24..]].concat()
}

/// Whether scores are those that llama.cpp gives (`tests/goldens/make_gguf.py`).
async fn assert_golden(model: &Path, rows: &str) {
    let rows: Vec<Json> = lines(&root().join("tests/goldens/gguf").join(rows));
    assert_eq!(rows.len(), 10);
    let ches = Ches::new()
        .with_model(model.to_str().unwrap())
        .with_prompt_format(PromptFormat::Raw);
    for (at, row) in rows.iter().enumerate() {
        let ctx = SessionContext::new();
        ches.register(&ctx).unwrap();
        let columns = ["prompt", "chosen", "rejected"].map(|name| {
            let text: ArrayRef = Arc::new(StringArray::from(vec![row[name].as_str()]));
            (name, text)
        });
        let pairs = RecordBatch::try_from_iter(columns).unwrap();
        ctx.register_batch("pairs", pairs).unwrap();
        let query = "SELECT preference_scores(prompt, chosen, rejected) FROM pairs";
        let batches = ctx.sql(query).await.unwrap().collect().await.unwrap();
        let scores = batches[0].column(0).as_struct();
        let name = format!("{}, row {at}", model.display());
        assert_eq!(field(scores, 0, "error"), Json::Null, "{name}");
        assert_scores(&name, row, |name| field(scores, 0, name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn biases_are_those_of_llama_cpp() {
    let file = root().join("tests/goldens/gguf/llama-biases.gguf");
    assert_golden(&file, "llama-biases.jsonl").await;
}

/// With a factor for each frequency besides.
#[tokio::test(flavor = "multi_thread")]
async fn a_factor_without_a_type_is_linear() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("linear.gguf");
    let file = std::fs::read(root().join("tests/goldens/gguf/llama.gguf")).unwrap();
    std::fs::write(&path, with_number(&file, "llama.rope.scaling.factor", 4.0)).unwrap();
    assert_golden(&path, "llama-linear-untyped.jsonl").await;
}
