//! How near a GPU (or the CPU) a whole query comes to what its matrix multiplier can do, with a model of
//! random weights that is made on the spot: for a machine that has nothing but this program.
//!
//! ```text
//! gpu_bench <folder> [llama-3-8b | smollm2-135m | tiny] [pairs] [device]
//! ```
//!
//! Leaves the model and the pairs (`<folder>/<shape>`, `pairs.jsonl` with our scores) for
//! `bench/gpu_with_transformers.py`, which times transformers on them. Prints one line of JSON.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::{Ches, PromptFormat};
use half::bf16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The widths of a model of the llama family.
struct Shape {
    name: &'static str,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    is_tied: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "llama-3-8b",
        hidden: 4096,
        inner: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        vocab: 128_256,
        is_tied: false,
    },
    Shape {
        name: "smollm2-135m",
        hidden: 576,
        inner: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        vocab: 49_152,
        is_tied: true,
    },
    Shape {
        name: "tiny",
        hidden: 128,
        inner: 256,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        vocab: 1000,
        is_tied: true,
    },
];

impl Shape {
    fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Matrices of one block, `(name, out, in)`.
    fn matrices(&self) -> [(&'static str, usize, usize); 7] {
        let (d, kv) = (self.hidden, self.kv_heads * self.head_dim());
        [
            ("self_attn.q_proj", d, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, d),
            ("mlp.gate_proj", self.inner, d),
            ("mlp.up_proj", self.inner, d),
            ("mlp.down_proj", d, self.inner),
        ]
    }

    /// Multiplications and additions of the linear layers, for each token.
    fn operations(&self) -> f64 {
        let of_block: usize = self
            .matrices()
            .iter()
            .map(|(_, out, inner)| out * inner)
            .sum();
        2.0 * (of_block * self.layers) as f64
    }

    /// Name and shape of every tensor.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            (
                "model.embed_tokens.weight".into(),
                vec![self.vocab, self.hidden],
            ),
            ("model.norm.weight".into(), vec![self.hidden]),
        ];
        if !self.is_tied {
            tensors.push(("lm_head.weight".into(), vec![self.vocab, self.hidden]));
        }
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let matrices = self.matrices();
            tensors.extend(matrices.map(|(part, out, inner)| (name(part), vec![out, inner])));
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push((name(norm), vec![self.hidden]));
            }
        }
        tensors
    }

    fn write(&self, folder: &Path) -> Fallible<()> {
        std::fs::create_dir_all(folder)?;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.inner,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "tie_word_embeddings": self.is_tied, "bos_token_id": 0, "eos_token_id": 1,
            "attention_bias": false, "mlp_bias": false, "torch_dtype": "bfloat16"
        });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let vocab: Map<String, Value> = (0..self.vocab).map(|id| (word(id), json!(id))).collect();
        let added_tokens = [0, 1].map(|id| {
            json!({
                "id": id, "content": word(id), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true
            })
        });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "added_tokens": added_tokens,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": word(2)}
        });
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false,
            "bos_token": word(0), "eos_token": word(1)
        });
        std::fs::write(
            folder.join("tokenizer_config.json"),
            tokenizer_config.to_string(),
        )?;
        self.write_weights(&folder.join("model.safetensors"))
    }

    fn write_weights(&self, file: &Path) -> Fallible<()> {
        let tensors = self.tensors();
        let mut header = Map::new();
        let mut offset = 0;
        for (name, shape) in &tensors {
            let bytes = 2 * shape.iter().product::<usize>();
            let entry =
                json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + bytes]});
            header.insert(name.clone(), entry);
            offset += bytes;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = BufWriter::new(File::create(file)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (number, (_, shape)) in tensors.iter().enumerate() {
            let count: usize = shape.iter().product();
            let is_norm = shape.len() == 1;
            let mut values = vec![0_u8; 2 * count];
            values
                .par_chunks_mut(2)
                .enumerate()
                .for_each(|(at, bytes)| {
                    let value = if is_norm {
                        1.0
                    } else {
                        0.06 * noise(number, at)
                    };
                    bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
                });
            out.write_all(&values)?;
        }
        Ok(out.flush()?)
    }
}

fn word(id: usize) -> String {
    format!("w{id}")
}

/// A number from −1 to 1 (splitmix64 of its place).
fn noise(tensor: usize, at: usize) -> f32 {
    let mut z = ((tensor as u64) << 40 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// Pairs with prompts of 32 to 480 tokens and responses of 16 to 240, and their tokens.
fn pairs(count: usize, vocab: usize) -> (Vec<[String; 3]>, usize) {
    let mut tokens = 0;
    let mut text = |row: usize, which: usize, least: usize, most: usize| {
        let fraction = f64::from(noise(1_000_000 + which, row)) / 2.0 + 0.5;
        let length = least + (fraction * (most - least) as f64) as usize;
        tokens += length;
        let id = |at: usize| {
            let fraction = f64::from(noise(2_000_000 + 3 * row + which, at)) / 2.0 + 0.5;
            3 + (fraction * (vocab - 4) as f64) as usize
        };
        let words: Vec<String> = (0..length).map(|at| word(id(at))).collect();
        // Responses follow the prompt's last word.
        let space = if which == 0 { "" } else { " " };
        format!("{space}{}", words.join(" "))
    };
    let pairs = (0..count)
        .map(|row| {
            [
                text(row, 0, 32, 480),
                text(row, 1, 16, 240),
                text(row, 2, 16, 240),
            ]
        })
        .collect();
    (pairs, tokens)
}

/// Operations a second of a large matrix product in the type that the model computes in.
fn matmul_peak(device: &Device, dtype: DType) -> Fallible<f64> {
    let n = if device.is_cuda() { 8192 } else { 1024 };
    let a = Tensor::randn(0_f32, 1.0, (n, n), device)?.to_dtype(dtype)?;
    let b = a.t()?;
    let mut best: f64 = 0.0;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..4 {
            a.matmul(&b)?;
        }
        device.synchronize()?;
        best = best.max(8.0 * (n as f64).powi(3) / began.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let done = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run()));
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

async fn run() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let folder = PathBuf::from(argument(0).ok_or("gpu_bench <folder> [shape] [pairs] [device]")?);
    let name = argument(1).unwrap_or("llama-3-8b");
    let shape = SHAPES.iter().find(|shape| shape.name == name);
    let shape = shape.ok_or_else(|| format!("no shape '{name}'"))?;
    let count: usize = argument(2).unwrap_or("2000").parse()?;
    let device = argument(3).unwrap_or("cuda");

    let folder = folder.join(shape.name);
    let ches = Ches::new()
        .with_model(folder.to_str().ok_or("the folder's name is no text")?)
        .with_prompt_format(PromptFormat::Raw)
        .with_memo_bytes(0)
        .with_device(device)?;
    let config = SessionConfig::new().with_target_partitions(1);
    let ctx = SessionContext::new_with_config(config);
    ches.register(&ctx)?;
    if !folder.exists() {
        // Whoever has no such device need not wait for gigabytes.
        let probe = folder.with_extension("probe");
        SHAPES[2].write(&probe)?;
        let on_device = Ches::new()
            .with_model(probe.to_str().ok_or("the folder's name is no text")?)
            .with_device(device)?;
        let probing = SessionContext::new();
        on_device.register(&probing)?;
        let pair = "SELECT ches('w3 w4', ' w5', ' w6')";
        probing.sql(pair).await?.collect().await?;
        let unfinished = folder.with_extension("unfinished");
        shape.write(&unfinished)?;
        std::fs::rename(unfinished, &folder)?;
    }
    let (pairs, tokens) = pairs(count, shape.vocab);
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
    ctx.register_batch("pairs", RecordBatch::try_from_iter(columns)?)?;

    // Loads the weights and starts the device.
    let began = Instant::now();
    let warm = "SELECT ches(prompt, chosen, rejected) FROM pairs LIMIT 64";
    ctx.sql(warm).await?.collect().await?;
    let loaded = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let query = "SELECT ches(prompt, chosen, rejected) AS score FROM pairs";
    let batches = ctx.sql(query).await?.collect().await?;
    let seconds = began.elapsed().as_secs_f64();
    let scores = batches.iter().flat_map(|batch| {
        let scores = batch.column(0).as_primitive::<Float64Type>();
        scores.iter().collect::<Vec<_>>()
    });
    let mut out = BufWriter::new(File::create(folder.join("pairs.jsonl"))?);
    for ([prompt, chosen, rejected], score) in pairs.iter().zip(scores) {
        let row = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "score": score});
        writeln!(out, "{row}")?;
    }
    out.flush()?;
    drop(ctx);
    drop(ches);

    let (on, dtype) = match device.strip_prefix("cuda") {
        Some(_) => (Device::new_cuda(0)?, DType::BF16),
        None => (Device::Cpu, DType::F32),
    };
    let peak = matmul_peak(&on, dtype)?;
    let prompts: usize = pairs.iter().map(|pair| pair[0].split(' ').count()).sum();
    let rate = tokens as f64 / seconds;
    let result = json!({
        "shape": shape.name, "device": device, "pairs": count, "tokens": tokens,
        "share_of_prompts": prompts as f64 / tokens as f64, "loading_seconds": loaded,
        "seconds": seconds, "tokens_per_second": rate, "pairs_per_second": count as f64 / seconds,
        "tflops": rate * shape.operations() / 1e12, "matmul_peak_tflops": peak / 1e12,
        "share_of_peak": rate * shape.operations() / peak,
    });
    println!("{result}");
    Ok(())
}
