//! GGUF files: which architectures are supported, and how their metadata describes one.

use candle_core::Device;
use candle_nn::Activation;

use super::{bounded_layers, key_heads_and_width};
use crate::decoder::{
    Block, DecoderConfig, LayerConfig, Linear, Matrix, Norm, RopeConfig, Weights,
};
use crate::files::error::ModelError;
use crate::files::gguf::{Gguf, Part, Value};
use crate::files::weights::Target;

/// What tells an architecture from a llama.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Whether the rows of queries and keys are ordered for a rotation of adjacent pairs.
    pairs_rows: bool,
    /// What may have a bias.
    biases: &'static [&'static str],
    /// Whether frequencies may be divided by what a tensor holds.
    has_rope_freqs: bool,
    /// Whether each query and key head is normed.
    norms_heads: bool,
    /// Whether embeddings are multiplied by the square root of their width.
    scales_embedding: bool,
    activation: Activation,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    pairs_rows: true,
    biases: &[
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ],
    has_rope_freqs: true,
    norms_heads: false,
    scales_embedding: false,
    activation: Activation::Silu,
};

const PLAIN: Architecture = Architecture {
    pairs_rows: false,
    biases: &["attn_q", "attn_k", "attn_v"],
    has_rope_freqs: false,
    ..LLAMA
};

/// The supported architectures, with the tensors that llama.cpp reads of each; each has a golden
/// under `tests/goldens/gguf`. What a Gemma norm adds to one is stored as the sum.
const ARCHITECTURES: [Architecture; 4] = [
    LLAMA,
    Architecture {
        name: "qwen2",
        ..PLAIN
    },
    Architecture {
        name: "qwen3",
        norms_heads: true,
        ..PLAIN
    },
    Architecture {
        name: "gemma",
        scales_embedding: true,
        activation: Activation::GeluPytorchTanh,
        ..PLAIN
    },
];

const ROPE_FREQS: &str = "rope_freqs.weight";

/// Matrices that are read as one.
const QKV: [&str; 3] = ["attn_q", "attn_k", "attn_v"];
const UP: [&str; 2] = ["ffn_gate", "ffn_up"];

/// Keys of an architecture that are read here.
const READ: [&str; 14] = [
    "embedding_length",
    "block_count",
    "context_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
];

/// Keys that ask for something that is not done here, with the values that do not.
const NEUTRAL: [(&str, &[f64]); 23] = [
    ("attention.causal", &[1.0]),
    ("attention.scale", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.value_scale", &[0.0, 1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attention.shared_kv_layers", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("use_parallel_residual", &[0.0]),
    ("swiglu_clamp_exp", &[0.0]),
    ("swiglu_clamp_shexp", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("expert_shared_count", &[0.0]),
    ("leading_dense_block_count", &[0.0]),
    ("nextn_predict_layers", &[0.0]),
    ("rope.scaling.attn_factor", &[1.0]),
    ("rope.scaling.yarn_attn_factor", &[1.0]),
];

/// Keys that change nothing for these architectures, in llama.cpp either: what is known from
/// tensors, and what belongs to other kinds of rope scaling or to the pooling of embeddings.
const IGNORED: [&str; 14] = [
    "vocab_size",
    "tensor_data_layout",
    "attention.layer_norm_epsilon",
    "pooling_type",
    "embedding_length_out",
    "expert_feed_forward_length",
    "rope.dimension_sections",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.alpha",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
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
/// When the architecture is not supported, a field is missing or contradicts another, or a field
/// or a tensor asks for what is not done here.
pub fn config_from_gguf(gguf: &Gguf) -> Result<DecoderConfig, ModelError> {
    let family = architecture(gguf)?;
    let architecture = family.name;
    check_kind(gguf)?;
    let size = |key: &str| gguf.size(&format!("{architecture}.{key}"));
    let layers = bounded_layers(size("block_count")?).map_err(|reason| gguf.refuse(reason))?;
    let each_size = |key: &str| {
        let of_each = of_each_layer(gguf, &format!("{architecture}.{key}"), layers)?;
        of_each.map_or_else(|| size(key), Ok)
    };
    let count = |key: &str| gguf.count(&format!("{architecture}.{key}"));
    let number = |key: &str| gguf.number(&format!("{architecture}.{key}"));

    let hidden_size = size("embedding_length")?;
    let heads = each_size("attention.head_count")?;
    let kv_key = "attention.head_count_kv";
    let kv_heads = match of_each_layer(gguf, &format!("{architecture}.{kv_key}"), layers)? {
        Some(heads) => Some(heads),
        None => count(kv_key)?,
    };
    let (kv_heads, head_dim) =
        key_heads_and_width(hidden_size, heads, kv_heads, count("attention.key_length")?)
            .map_err(|reason| gguf.refuse(reason))?;
    let value_dim = count("attention.value_length")?.unwrap_or(head_dim);
    let rotated = count("rope.dimension_count")?.unwrap_or(head_dim);
    if value_dim != head_dim || rotated != head_dim {
        return Err(gguf.refuse(format!(
            "heads are {head_dim} wide, their values {value_dim}, and {rotated} of that is \
             rotated; supported: all equal"
        )));
    }
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
        factors: rope_factors(gguf, family, head_dim)?,
        long: None,
        magnitude: 1.0,
    };
    let scales_embedding = family.scales_embedding;
    let max_positions = size("context_length")?;
    check_keys(gguf, architecture, max_positions)?;
    check_tensors(gguf, family, layers)?;
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: each_size("feed_forward_length")?,
        layers: vec![layer; layers],
        heads,
        kv_heads,
        head_dim,
        vocab_size: gguf.strings("tokenizer.ggml.tokens")?.len(),
        max_positions,
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

/// Refuses files of the format that hold no language model.
fn check_kind(gguf: &Gguf) -> Result<(), ModelError> {
    match gguf.string("general.type")? {
        None | Some("model") => Ok(()),
        Some(other) => Err(gguf.refuse(format!("general.type is '{other}'; accepted: model"))),
    }
}

/// What a key gives for each layer, if it does so; layers that differ are refused.
fn of_each_layer(gguf: &Gguf, key: &str, layers: usize) -> Result<Option<usize>, ModelError> {
    let Some(Value::Integers(values)) = gguf.value(key) else {
        return Ok(None);
    };
    let first = values.first().copied().unwrap_or_default();
    match u32::try_from(first) {
        Ok(size) if size > 0 && values.len() == layers && values.iter().all(|v| *v == first) => {
            Ok(Some(size as usize))
        }
        _ => Err(gguf.refuse(format!(
            "{key} has {} values for {layers} layers; accepted: one, or the same above 0 for each",
            values.len()
        ))),
    }
}

/// Refuses keys that ask for what is not done here, and warns of unknown ones.
fn check_keys(gguf: &Gguf, architecture: &str, context: usize) -> Result<(), ModelError> {
    let mut unknown = Vec::new();
    for key in gguf.keys_under(&format!("{architecture}.")) {
        let neutral = NEUTRAL.iter().find(|(name, _)| *name == key);
        let (is_neutral, accepted) = match neutral {
            Some((_, neutral)) => (
                numbers(gguf.value(&format!("{architecture}.{key}")))
                    .is_some_and(|found| found.iter().all(|found| neutral.contains(found))),
                format!("{neutral:?}"),
            ),
            // A window that no text reaches beyond is none.
            None if key == "attention.sliding_window" => (
                numbers(gguf.value(&format!("{architecture}.{key}"))).is_some_and(|found| {
                    let is_none = |found: &f64| *found == 0.0 || *found >= context as f64;
                    found.iter().all(is_none)
                }),
                format!("0, or the context_length {context} and above"),
            ),
            None => {
                if !READ.contains(&key) && !IGNORED.contains(&key) && key != "expert_count" {
                    unknown.push(key);
                }
                continue;
            }
        };
        if !is_neutral {
            return Err(gguf.refuse(format!(
                "{architecture}.{key} asks for what is not supported; accepted: {accepted}"
            )));
        }
    }
    if !unknown.is_empty() {
        tracing::warn!(
            "{}: unknown keys under {architecture} are ignored: {}",
            gguf.path().display(),
            unknown.join(", ")
        );
    }
    Ok(())
}

/// The numbers of a value; booleans are 0 and 1.
fn numbers(value: Option<&Value>) -> Option<Vec<f64>> {
    Some(match value? {
        Value::Integer(value) => vec![*value as f64],
        Value::Float(value) => vec![*value],
        Value::Bool(value) => vec![f64::from(u8::from(*value))],
        Value::Integers(values) => values.iter().map(|value| *value as f64).collect(),
        Value::Floats(values) => values.iter().copied().map(f64::from).collect(),
        Value::Bools(values) => values.iter().map(|v| f64::from(u8::from(*v))).collect(),
        Value::String(_) | Value::Strings(_) => return None,
    })
}

/// Refuses files without a tensor that is needed, tensors that would not be read, and biases that
/// only some of the matrices have that are read as one.
fn check_tensors(gguf: &Gguf, family: &Architecture, layers: usize) -> Result<(), ModelError> {
    const MOST_SHOWN: usize = 8;
    const OF_LAYERS: [&str; 9] = [
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    const OF_HEADS: [&str; 2] = ["attn_q_norm", "attn_k_norm"];
    let needed = OF_LAYERS
        .iter()
        .chain(OF_HEADS.iter().filter(|_| family.norms_heads));
    let needed: Vec<&str> = needed.copied().collect();
    let of_layer = |layer: usize| {
        let parts = needed.iter();
        parts.map(move |part| format!("blk.{layer}.{part}.weight"))
    };
    let of_ends = ["token_embd.weight", "output_norm.weight"].map(String::from);
    let mut all = of_ends.into_iter().chain((0..layers).flat_map(of_layer));
    if let Some(missing) = all.find(|name| !gguf.has_tensor(name)) {
        return Err(gguf.refuse(format!("there is no tensor {missing}")));
    }
    let is_of_layer = |name: &str| {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        // As it is written: not 00.
        let is_layer = layer.parse::<usize>();
        let is_layer = is_layer.is_ok_and(|n| n < layers && n.to_string() == layer);
        let is_read = match kind {
            "weight" => needed.contains(&part),
            "bias" => family.biases.contains(&part),
            _ => false,
        };
        (is_layer && is_read).then_some(())
    };
    let is_read = |name: &str| match name {
        "token_embd.weight" | "output_norm.weight" | "output.weight" => true,
        ROPE_FREQS => family.has_rope_freqs,
        _ => is_of_layer(name).is_some(),
    };
    let names = gguf.tensor_names();
    let unread: Vec<&str> = names.into_iter().filter(|name| !is_read(name)).collect();
    if !unread.is_empty() {
        let shown = unread[..unread.len().min(MOST_SHOWN)].join(", ");
        let more = match unread.len().saturating_sub(MOST_SHOWN) {
            0 => String::new(),
            others => format!(" and {others} others"),
        };
        return Err(gguf.refuse(format!(
            "{} of its tensors would not be read: {shown}{more}; architecture '{}' with {layers} \
             blocks has no such tensors here",
            unread.len(),
            family.name
        )));
    }
    for layer in 0..layers {
        for stacked in [&QKV[..], &UP[..]] {
            let bias = |part: &str| format!("blk.{layer}.{part}.bias");
            let (with, without): (Vec<&str>, Vec<&str>) = stacked
                .iter()
                .copied()
                .partition(|part| gguf.has_tensor(&bias(part)));
            if let ([with, ..], [without, ..]) = (&with[..], &without[..]) {
                return Err(gguf.refuse(format!(
                    "there is a tensor {} and no {}; accepted: both or neither",
                    bias(with),
                    bias(without)
                )));
            }
        }
    }
    Ok(())
}

/// What positions are divided by, by a linear scaling: llama.cpp takes a factor without a type for
/// one, and a factor of 0 for none.
fn linear_scale(gguf: &Gguf, architecture: &str) -> Result<f64, ModelError> {
    let key = |key: &str| format!("{architecture}.rope.{key}");
    match gguf.string(&key("scaling.type"))? {
        Some("none") => return Ok(1.0),
        None | Some("linear") => {}
        Some(other) => {
            return Err(gguf.refuse(format!(
                "rope scaling '{other}'; supported: none, linear, and Llama 3.1's rope_freqs tensor"
            )));
        }
    }
    for key in [key("scaling.factor"), key("scale_linear")] {
        match gguf.number(&key)? {
            Some(factor) if factor > 0.0 => return Ok(factor),
            Some(factor) if factor < 0.0 => {
                return Err(gguf.refuse(format!("{key} is {factor}; accepted: above 0")));
            }
            Some(_) => return Ok(1.0),
            None => {}
        }
    }
    Ok(1.0)
}

/// What each frequency is divided by, if any is.
fn rope_factors(
    gguf: &Gguf,
    family: &Architecture,
    head_dim: usize,
) -> Result<Option<Vec<f32>>, ModelError> {
    let scale = linear_scale(gguf, family.name)? as f32;
    if !family.has_rope_freqs || !gguf.has_tensor(ROPE_FREQS) {
        return Ok((scale != 1.0).then(|| vec![scale; head_dim / 2]));
    }
    let target = Target::new(Device::Cpu, candle_core::DType::F32);
    let factors = gguf
        .tensor(ROPE_FREQS, &[head_dim / 2], &target)?
        .to_vec1::<f32>()
        .map_err(|error| gguf.refuse(format!("tensor {ROPE_FREQS}: {error}")))?;
    match factors.iter().find(|factor| **factor <= 0.0) {
        None => Ok(Some(factors.iter().map(|factor| factor * scale).collect())),
        Some(factor) => Err(gguf.refuse(format!("tensor {ROPE_FREQS} holds {factor}"))),
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
    // Of tensors without their `.weight`, with their biases if they have some.
    let linear = |parts: &[(String, usize, bool)], columns: usize| {
        let named = |kind: &str, columns: &[usize]| -> Vec<Part> {
            let part = |(name, rows, pairs_rows): &(String, usize, bool)| {
                let shape = [&[*rows][..], columns].concat();
                let part = Part::new(format!("{name}.{kind}"), &shape);
                if *pairs_rows {
                    part.with_paired_rows(head_dim)
                } else {
                    part
                }
            };
            parts.iter().map(part).collect()
        };
        let has_bias = gguf.has_tensor(&format!("{}.bias", parts[0].0));
        let bias = has_bias.then(|| gguf.stack(&named("bias", &[]), target));
        Ok::<_, ModelError>(Linear {
            weight: stacked(&named("weight", &[columns]))?,
            bias: bias.transpose()?,
        })
    };
    let norm = |name: &str, width: usize| {
        Ok::<_, ModelError>(Norm {
            gain: gguf.tensor(name, &[width], &in_f32)?,
            bias: None,
        })
    };
    let embedding = gguf.tensor("token_embd.weight", &[vocab_size, hidden_size], target)?;
    let mut blocks = Vec::new();
    for layer in 0..config.layers.len() {
        let place = |part: &str| format!("blk.{layer}.{part}");
        let norm = |part: &str, width: usize| norm(&format!("{}.weight", place(part)), width);
        let head_norm = |part: &str| {
            let norm = family.norms_heads.then(|| norm(part, head_dim));
            norm.transpose()
        };
        let plain = |part: &str, rows: usize, columns: usize| {
            linear(&[(place(part), rows, false)], columns)
        };
        let [query, key, value] = QKV.map(place);
        let qkv = [
            (query, heads * head_dim, family.pairs_rows),
            (key, kv_heads * head_dim, family.pairs_rows),
            (value, kv_heads * head_dim, false),
        ];
        let up = UP.map(|part| (place(part), intermediate_size, false));
        blocks.push(Block {
            attention_norm: Some(norm("attn_norm", hidden_size)?),
            qkv: linear(&qkv, hidden_size)?,
            query_norm: head_norm("attn_q_norm")?,
            key_norm: head_norm("attn_k_norm")?,
            output: plain("attn_output", hidden_size, heads * head_dim)?,
            attention_post_norm: None,
            mlp_norm: Some(norm("ffn_norm", hidden_size)?),
            up: linear(&up, hidden_size)?,
            down: plain("ffn_down", hidden_size, intermediate_size)?,
            mlp_post_norm: None,
        });
    }
    let unembedding = if gguf.has_tensor("output.weight") {
        linear(&[("output".into(), vocab_size, false)], hidden_size)?
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
