//! GGUF files: which architectures are supported, and how their metadata describes one.

use candle_core::Device;
use candle_nn::Activation;

use super::{bounded_layers, key_heads_and_width};
use crate::decoder::{
    Block, DecoderConfig, LayerConfig, Linear, Matrix, Norm, RopeConfig, Weights,
};
use crate::error::ModelError;
use crate::gguf::{Gguf, Part};
use crate::weights::Target;

/// What tells an architecture from a llama.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Whether the rows of queries and keys are ordered for a rotation of adjacent pairs.
    pairs_rows: bool,
    has_qkv_bias: bool,
    /// Whether each query and key head is normed.
    norms_heads: bool,
    /// Whether embeddings are multiplied by the square root of their width.
    scales_embedding: bool,
    activation: Activation,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    pairs_rows: true,
    has_qkv_bias: false,
    norms_heads: false,
    scales_embedding: false,
    activation: Activation::Silu,
};

/// The supported architectures; each has a golden under `tests/goldens/gguf`. What a Gemma norm
/// adds to one is stored as the sum.
const ARCHITECTURES: [Architecture; 4] = [
    LLAMA,
    Architecture {
        name: "qwen2",
        pairs_rows: false,
        has_qkv_bias: true,
        ..LLAMA
    },
    Architecture {
        name: "qwen3",
        pairs_rows: false,
        norms_heads: true,
        ..LLAMA
    },
    Architecture {
        name: "gemma",
        pairs_rows: false,
        scales_embedding: true,
        activation: Activation::GeluPytorchTanh,
        ..LLAMA
    },
];

/// The `general.architecture` values of the supported GGUF files.
pub fn architectures() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|found| found.name).collect()
}

fn architecture(gguf: &Gguf) -> Result<&'static Architecture, ModelError> {
    let name = gguf.string("general.architecture")?.unwrap_or("");
    let found = ARCHITECTURES.iter().find(|found| found.name == name);
    found.ok_or_else(|| {
        let supported = architectures().join(", ");
        gguf.refuse(format!("architecture '{name}'; supported: {supported}"))
    })
}

/// Reads the decoder configuration from a GGUF file's metadata.
///
/// # Errors
/// When the architecture is not supported, or a field is missing or contradicts another.
pub fn config_from_gguf(gguf: &Gguf) -> Result<DecoderConfig, ModelError> {
    let family = architecture(gguf)?;
    let architecture = family.name;
    let size = |key: &str| gguf.size(&format!("{architecture}.{key}"));
    let count = |key: &str| gguf.count(&format!("{architecture}.{key}"));
    let number = |key: &str| gguf.number(&format!("{architecture}.{key}"));

    let hidden_size = size("embedding_length")?;
    let heads = size("attention.head_count")?;
    let (kv_heads, head_dim) = key_heads_and_width(
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
    let layers = bounded_layers(size("block_count")?).map_err(|reason| gguf.refuse(reason))?;
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
    let layer = LayerConfig {
        sliding_window: None,
        rope: Some(0),
    };
    let rope = RopeConfig {
        theta: positive("rope.freq_base", theta)? as f32,
        dims: head_dim,
        factors: match linear_scale(gguf, architecture)? {
            Some(factor) => Some(vec![factor as f32; head_dim / 2]),
            None => rope_factors(gguf, head_dim)?,
        },
        long: None,
        magnitude: 1.0,
    };
    let scales_embedding = family.scales_embedding;
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        layers: vec![layer; layers],
        heads,
        kv_heads,
        head_dim,
        vocab_size: gguf.strings("tokenizer.ggml.tokens")?.len(),
        max_positions: size("context_length")?,
        norm_eps: positive(norm_eps_key, norm_eps)?,
        activation: family.activation,
        gated_mlp: true,
        parallel_residual: false,
        ropes: vec![rope],
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_cap: None,
        logit_cap: None,
        embedding_scale: scales_embedding.then(|| (hidden_size as f64).sqrt()),
        clip_qkv: None,
    })
}

fn linear_scale(gguf: &Gguf, architecture: &str) -> Result<Option<f64>, ModelError> {
    let key = |key: &str| format!("{architecture}.rope.scaling.{key}");
    match gguf.string(&key("type"))? {
        None | Some("none") => Ok(None),
        Some("linear") => match gguf.number(&key("factor"))? {
            Some(factor) if factor > 0.0 => Ok(Some(factor)),
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
    let target = Target {
        device: Device::Cpu,
        dtype: candle_core::DType::F32,
    };
    let factors = gguf
        .tensor(NAME, &[head_dim / 2], &target)?
        .to_vec1::<f32>()
        .map_err(|error| gguf.refuse(format!("tensor {NAME}: {error}")))?;
    match factors.iter().find(|factor| **factor <= 0.0) {
        None => Ok(Some(factors)),
        Some(factor) => Err(gguf.refuse(format!("tensor {NAME} holds {factor}"))),
    }
}

/// Reads the weights of a GGUF file: dequantised, or with the matrices kept as they are quantised.
///
/// # Errors
/// When a tensor is missing or does not fit the configuration.
pub fn weights_from_gguf(
    gguf: &Gguf,
    config: &DecoderConfig,
    target: &Target,
    keeps_quantised: bool,
) -> Result<Weights, ModelError> {
    let family = architecture(gguf)?;
    let DecoderConfig {
        hidden_size,
        intermediate_size,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        ..
    } = *config;
    let in_f32 = target.in_f32();
    let stacked = |parts: &[Part]| {
        Ok::<_, ModelError>(if keeps_quantised {
            Matrix::Quantised(gguf.quantised(parts, &target.device)?)
        } else {
            Matrix::Dense(gguf.stack(parts, target)?)
        })
    };
    let unbiased = |parts: &[Part]| {
        let weight = stacked(parts);
        weight.map(|weight| Linear { weight, bias: None })
    };
    let matrix =
        |name: &str, rows: usize, columns: usize| unbiased(&[Part::new(name, &[rows, columns])]);
    let norm = |name: &str, width: usize| {
        Ok::<_, ModelError>(Norm {
            gain: gguf.tensor(name, &[width], &in_f32)?,
            bias: None,
        })
    };
    let embedding = gguf.tensor("token_embd.weight", &[vocab_size, hidden_size], target)?;
    let mut blocks = Vec::new();
    for layer in 0..config.layers.len() {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let projections = [
            ("attn_q", heads, family.pairs_rows),
            ("attn_k", kv_heads, family.pairs_rows),
            ("attn_v", kv_heads, false),
        ];
        let qkv = projections.map(|(part, heads, pairs_rows)| {
            let part = Part::new(name(part), &[heads * head_dim, hidden_size]);
            if pairs_rows {
                part.with_paired_rows(head_dim)
            } else {
                part
            }
        });
        let biases = projections.map(|(part, heads, _)| {
            Part::new(format!("blk.{layer}.{part}.bias"), &[heads * head_dim])
        });
        let bias = family.has_qkv_bias.then(|| gguf.stack(&biases, target));
        let head_norm = |part: &str| {
            let norm = family.norms_heads.then(|| norm(&name(part), head_dim));
            norm.transpose()
        };
        let up = ["ffn_gate", "ffn_up"]
            .map(|part| Part::new(name(part), &[intermediate_size, hidden_size]));
        blocks.push(Block {
            attention_norm: Some(norm(&name("attn_norm"), hidden_size)?),
            qkv: Linear {
                weight: stacked(&qkv)?,
                bias: bias.transpose()?,
            },
            query_norm: head_norm("attn_q_norm")?,
            key_norm: head_norm("attn_k_norm")?,
            output: matrix(&name("attn_output"), hidden_size, heads * head_dim)?,
            attention_post_norm: None,
            mlp_norm: Some(norm(&name("ffn_norm"), hidden_size)?),
            up: unbiased(&up)?,
            down: matrix(&name("ffn_down"), hidden_size, intermediate_size)?,
            mlp_post_norm: None,
        });
    }
    let unembedding = if gguf.has_tensor("output.weight") {
        matrix("output.weight", vocab_size, hidden_size)?
    } else {
        Linear::plain(embedding.clone())
    };
    Ok(Weights {
        final_norm: norm("output_norm.weight", hidden_size)?,
        embedding,
        blocks,
        unembedding,
    })
}
