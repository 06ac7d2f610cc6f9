//! GGUF files: which architectures are supported, and how their metadata describes one.

use candle_core::{Device, Tensor};
use candle_nn::Activation;

use crate::decoder::{Block, DecoderConfig, Norm, RopeConfig, Weights};
use crate::error::ModelError;
use crate::gguf::Gguf;

/// `general.architecture` values of the supported GGUF files.
const GGUF_ARCHITECTURES: [&str; 1] = ["llama"];

/// Reads the decoder configuration from a GGUF file's metadata.
///
/// # Errors
/// When the architecture is not supported, or a field is missing or contradicts another.
pub fn config_from_gguf(gguf: &Gguf) -> Result<DecoderConfig, ModelError> {
    let architecture = gguf.string("general.architecture")?.unwrap_or("");
    if !GGUF_ARCHITECTURES.contains(&architecture) {
        return Err(gguf.refuse(format!(
            "architecture '{architecture}'; supported: {}",
            GGUF_ARCHITECTURES.join(", ")
        )));
    }
    let size = |key: &str| gguf.size(&format!("{architecture}.{key}"));
    let count = |key: &str| gguf.count(&format!("{architecture}.{key}"));
    let number = |key: &str| gguf.number(&format!("{architecture}.{key}"));

    let hidden_size = size("embedding_length")?;
    let heads = size("attention.head_count")?;
    let (kv_heads, head_dim) = super::key_heads_and_width(
        hidden_size,
        heads,
        count("attention.head_count_kv")?,
        count("attention.key_length")?,
    )
    .map_err(|reason| gguf.refuse(reason))?;
    let value_dim = count("attention.value_length")?.unwrap_or(head_dim);
    let rotated = count("rope.dimension_count")?.unwrap_or(head_dim);
    if value_dim != head_dim || rotated != head_dim {
        return Err(gguf.refuse(format!(
            "heads are {head_dim} wide, their values {value_dim}, and {rotated} of that is \
             rotated; supported: all equal"
        )));
    }
    let layers =
        super::bounded_layers(size("block_count")?).map_err(|reason| gguf.refuse(reason))?;
    if let Some(experts) = count("expert_count")?
        && experts > 0
    {
        return Err(gguf.refuse("a mixture of experts; supported: dense models"));
    }
    let positive = |key: &str, found: f64| {
        (found > 0.0)
            .then_some(found)
            .ok_or_else(|| gguf.refuse(format!("{architecture}.{key} is {found}")))
    };
    let norm_eps_key = "attention.layer_norm_rms_epsilon";
    let Some(norm_eps) = number(norm_eps_key)? else {
        return Err(gguf.refuse(format!("the metadata has no {architecture}.{norm_eps_key}")));
    };
    let theta = number("rope.freq_base")?.unwrap_or(10_000.0);
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab_size: gguf.strings("tokenizer.ggml.tokens")?.len(),
        max_positions: size("context_length")?,
        norm_eps: positive(norm_eps_key, norm_eps)?,
        activation: Activation::Silu,
        rope: RopeConfig {
            theta: positive("rope.freq_base", theta)? as f32,
            linear_scale: linear_scale(gguf, architecture)? as f32,
            factors: rope_factors(gguf, head_dim)?,
        },
        embedding_scale: None,
        clip_qkv: None,
        sliding_window: None,
    })
}

fn linear_scale(gguf: &Gguf, architecture: &str) -> Result<f64, ModelError> {
    let key = |key: &str| format!("{architecture}.rope.scaling.{key}");
    match gguf.string(&key("type"))? {
        None | Some("none") => Ok(1.0),
        Some("linear") => match gguf.number(&key("factor"))? {
            Some(factor) if factor > 0.0 => Ok(factor),
            other => Err(gguf.refuse(format!("{} is {other:?}", key("factor")))),
        },
        Some(other) => Err(gguf.refuse(format!(
            "rope scaling '{other}'; supported: none, linear, and Llama 3.1's rope_freqs tensor"
        ))),
    }
}

fn rope_factors(gguf: &Gguf, head_dim: usize) -> Result<Option<Vec<f32>>, ModelError> {
    const NAME: &str = "rope_freqs.weight";
    if !gguf.has_tensor(NAME) {
        return Ok(None);
    }
    let factors = gguf
        .tensor(NAME, &[head_dim / 2], &Device::Cpu)?
        .to_vec1::<f32>()
        .map_err(|error| gguf.refuse(format!("tensor {NAME}: {error}")))?;
    match factors.iter().find(|factor| **factor <= 0.0) {
        None => Ok(Some(factors)),
        Some(factor) => Err(gguf.refuse(format!("tensor {NAME} holds {factor}"))),
    }
}

/// Reads the weights of a GGUF file to the device, dequantised to f32.
///
/// # Errors
/// When a tensor is missing or does not fit the configuration.
pub fn weights_from_gguf(
    gguf: &Gguf,
    config: &DecoderConfig,
    device: &Device,
) -> Result<Weights, ModelError> {
    let DecoderConfig {
        hidden_size,
        intermediate_size,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        ..
    } = *config;
    let failed = |error: candle_core::Error| gguf.refuse(error.to_string());
    let matrix =
        |name: &str, rows: usize, columns: usize| gguf.tensor(name, &[rows, columns], device);
    let norm = |name: &str| {
        Ok::<_, ModelError>(Norm {
            gain: gguf.tensor(name, &[hidden_size], device)?,
            bias: None,
        })
    };
    let stack = |parts: &[Tensor]| Tensor::cat(parts, 0).map_err(failed);

    let embedding = matrix("token_embd.weight", vocab_size, hidden_size)?;
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let rotated = |part: &str, heads: usize| {
            let rows = matrix(&name(part), heads * head_dim, hidden_size)?;
            halves_from_pairs(&rows, heads, head_dim).map_err(failed)
        };
        blocks.push(Block {
            attention_norm: norm(&name("attn_norm"))?,
            qkv: stack(&[
                rotated("attn_q", heads)?,
                rotated("attn_k", kv_heads)?,
                matrix(&name("attn_v"), kv_heads * head_dim, hidden_size)?,
            ])?,
            qkv_bias: None,
            query_norm: None,
            key_norm: None,
            output: matrix(&name("attn_output"), hidden_size, heads * head_dim)?,
            mlp_norm: norm(&name("ffn_norm"))?,
            gate_up: stack(&[
                matrix(&name("ffn_gate"), intermediate_size, hidden_size)?,
                matrix(&name("ffn_up"), intermediate_size, hidden_size)?,
            ])?,
            down: matrix(&name("ffn_down"), hidden_size, intermediate_size)?,
        });
    }
    let unembedding = if gguf.has_tensor("output.weight") {
        matrix("output.weight", vocab_size, hidden_size)?
    } else {
        embedding.clone()
    };
    Ok(Weights {
        final_norm: norm("output_norm.weight")?,
        embedding,
        blocks,
        unembedding,
    })
}

/// GGUF's llama files order a head's rows for rotation of adjacent pairs; this puts them back
/// for rotation of its two halves.
fn halves_from_pairs(rows: &Tensor, heads: usize, head_dim: usize) -> candle_core::Result<Tensor> {
    let shape = rows.shape();
    rows.reshape((heads, head_dim / 2, 2, ()))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape(shape)
}
