//! Model directories as Hugging Face transformers writes them: a table of families, and the
//! names and switches of each.

use candle_core::{DType, Device, Tensor};
use candle_nn::Activation;
use serde::Deserialize;

use super::{bounded_layers, key_heads_and_width};
use crate::decoder::{Block, DecoderConfig, Norm, RopeConfig, Weights};
use crate::error::ModelError;
use crate::model_directory::ModelDirectory;

/// Wider than any head: bounds what a configuration can ask for.
const MAX_HEAD_DIM: usize = 1 << 16;

/// What tells a family from a llama.
struct Family {
    /// `model_type` of `config.json`.
    model_type: &'static str,
    norms: Norms,
    /// Whether embeddings are multiplied by the square root of their width.
    scales_embedding: bool,
    /// Whether query, key and value projections have a bias whatever the configuration says.
    has_qkv_bias: bool,
    /// Whether each query and key head is normed.
    norms_heads: bool,
    /// Whether `sliding_window` of the configuration applies to every block.
    slides: bool,
    /// The activation, where the configuration's is not the one that is used.
    activation: Option<&'static str>,
}

/// How hidden states are normed.
#[derive(PartialEq)]
enum Norms {
    /// By their root mean square, times a gain.
    Rms,
    /// The same, times one plus a stored number.
    RmsPlusOne,
    /// To mean 0 and variance 1, without parameters.
    Plain,
}

const LLAMA: Family = Family {
    model_type: "llama",
    norms: Norms::Rms,
    scales_embedding: false,
    has_qkv_bias: false,
    norms_heads: false,
    slides: false,
    activation: None,
};

/// The supported families. Each has a golden under `tests/goldens/families`.
const FAMILIES: [Family; 6] = [
    LLAMA,
    Family {
        model_type: "olmo",
        norms: Norms::Plain,
        ..LLAMA
    },
    Family {
        model_type: "gemma",
        norms: Norms::RmsPlusOne,
        scales_embedding: true,
        // Older configurations name another one, which transformers ignores too.
        activation: Some("gelu_pytorch_tanh"),
        ..LLAMA
    },
    Family {
        model_type: "qwen2",
        has_qkv_bias: true,
        ..LLAMA
    },
    Family {
        model_type: "qwen3",
        norms_heads: true,
        ..LLAMA
    },
    Family {
        model_type: "mistral",
        slides: true,
        ..LLAMA
    },
];

/// The `model_type` values of the supported families.
pub fn model_types() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.model_type).collect()
}

/// One id or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

/// The fields of `config.json` that matter here.
///
/// candle-transformers has such a structure for each family; none reads `rope_parameters`, which
/// transformers writes since its version 5, and all would silently take a default for it.
#[derive(Debug, Clone, Deserialize)]
pub struct HubConfig {
    #[serde(default)]
    model_type: String,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    clip_qkv: Option<f64>,
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
    bos_token_id: Option<TokenIds>,
    eos_token_id: Option<TokenIds>,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl TokenIds {
    fn first(&self) -> Option<u32> {
        match self {
            Self::One(id) => Some(*id),
            Self::Several(ids) => ids.first().copied(),
        }
    }
}

impl HubConfig {
    /// The id of the beginning-of-sequence token, if the configuration names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos_token_id.as_ref().and_then(TokenIds::first)
    }

    /// The id of the end-of-sequence token, the first if there are several.
    pub fn eos(&self) -> Option<u32> {
        self.eos_token_id.as_ref().and_then(TokenIds::first)
    }

    fn family(&self) -> Result<&'static Family, String> {
        let found = FAMILIES
            .iter()
            .find(|family| family.model_type == self.model_type);
        found.ok_or_else(|| {
            format!(
                "model_type '{}'; supported: {}",
                self.model_type,
                model_types().join(", ")
            )
        })
    }
}

fn required(name: &str, found: Option<usize>) -> Result<usize, String> {
    match found {
        Some(found) if found > 0 && u32::try_from(found).is_ok() => Ok(found),
        Some(found) => Err(format!("{name} is {found}; accepted: 1 to {}", u32::MAX)),
        None => Err(format!("config.json has no {name}")),
    }
}

fn positive(name: &str, found: f64) -> Result<f64, String> {
    if found.is_finite() && found > 0.0 {
        Ok(found)
    } else {
        Err(format!("{name} is {found}; accepted: positive numbers"))
    }
}

/// The decoder that a directory's `config.json` describes.
///
/// # Errors
/// When the family is not supported, or a field is missing, contradicts another, or asks for
/// something that is not supported.
pub fn config_from_hub(directory: &ModelDirectory) -> Result<DecoderConfig, ModelError> {
    decoder_config(&directory.config).map_err(|reason| directory.refuse(reason))
}

fn decoder_config(config: &HubConfig) -> Result<DecoderConfig, String> {
    let family = config.family()?;
    let hidden_size = required("hidden_size", config.hidden_size)?;
    let heads = required("num_attention_heads", config.num_attention_heads)?;
    let (kv_heads, head_dim) = key_heads_and_width(
        hidden_size,
        heads,
        config.num_key_value_heads,
        config.head_dim,
    )?;
    if head_dim > MAX_HEAD_DIM {
        return Err(format!(
            "a head width of {head_dim}; accepted: even sizes up to {MAX_HEAD_DIM}"
        ));
    }
    let layers = bounded_layers(required("num_hidden_layers", config.num_hidden_layers)?)?;
    for (name, asked) in [
        ("mlp_bias", config.mlp_bias),
        (
            "attention_bias",
            config.attention_bias && !family.has_qkv_bias,
        ),
        ("use_sliding_window", config.use_sliding_window),
    ] {
        if asked {
            let family = family.model_type;
            return Err(format!(
                "{name} is true; not supported for model_type '{family}'"
            ));
        }
    }
    let activation = family.activation.or(config.hidden_act.as_deref());
    let activation = match activation {
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_pytorch_tanh") => Activation::GeluPytorchTanh,
        other => {
            let other = other.unwrap_or("");
            return Err(format!(
                "hidden_act '{other}'; supported: silu, gelu_pytorch_tanh"
            ));
        }
    };
    // OLMo's norm has no configuration: transformers fixes it.
    let norm_eps = match (&family.norms, config.rms_norm_eps) {
        (Norms::Plain, _) => 1e-5,
        (_, Some(eps)) => positive("rms_norm_eps", eps)?,
        (_, None) => return Err("config.json has no rms_norm_eps".into()),
    };
    let clip_qkv = config.clip_qkv.map(|clip| positive("clip_qkv", clip));
    let window = config.sliding_window.filter(|_| family.slides);
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: required("intermediate_size", config.intermediate_size)?,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab_size: required("vocab_size", config.vocab_size)?,
        max_positions: required("max_position_embeddings", config.max_position_embeddings)?,
        norm_eps,
        activation,
        rope: rope(config, head_dim)?,
        embedding_scale: family.scales_embedding.then(|| (hidden_size as f64).sqrt()),
        clip_qkv: clip_qkv.transpose()?,
        sliding_window: window
            .map(|w| required("sliding_window", Some(w)))
            .transpose()?,
    })
}

fn rope(config: &HubConfig, head_dim: usize) -> Result<RopeConfig, String> {
    let parameters = config.rope_parameters.as_ref();
    let scaling = parameters.or(config.rope_scaling.as_ref());
    let theta = parameters.and_then(|p| p.rope_theta).or(config.rope_theta);
    let theta = positive("rope_theta", theta.unwrap_or(10_000.0))?;
    let mut rope = RopeConfig {
        theta: theta as f32,
        linear_scale: 1.0,
        factors: None,
    };
    let Some(scaling) = scaling else {
        return Ok(rope);
    };
    let number = |name: &str, found: Option<f64>| match found {
        Some(found) => positive(&format!("rope scaling's {name}"), found),
        None => Err(format!("the rope scaling has no {name}")),
    };
    match scaling.rope_type.as_deref() {
        None | Some("default") => {}
        Some("linear") => rope.linear_scale = number("factor", scaling.factor)? as f32,
        Some("llama3") => {
            let factor = number("factor", scaling.factor)?;
            let low = number("low_freq_factor", scaling.low_freq_factor)?;
            let high = number("high_freq_factor", scaling.high_freq_factor)?;
            let original = number(
                "original_max_position_embeddings",
                scaling.original_max_position_embeddings,
            )?;
            if high <= low {
                return Err(format!(
                    "high_freq_factor {high} is not above low_freq_factor {low}"
                ));
            }
            rope.factors = Some(llama3_factors(theta, head_dim, factor, low, high, original));
        }
        Some(other) => {
            return Err(format!(
                "rope scaling '{other}'; supported: default, linear, llama3"
            ));
        }
    }
    Ok(rope)
}

/// What each frequency is divided by, as `_compute_llama3_parameters` of transformers'
/// `modeling_rope_utils.py` has it.
fn llama3_factors(
    theta: f64,
    head_dim: usize,
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
) -> Vec<f32> {
    let of_pair = |pair: usize| {
        let frequency = theta.powf(-((2 * pair) as f64) / head_dim as f64);
        let wavelengths = original * frequency / (2.0 * std::f64::consts::PI);
        let divided = if wavelengths < low {
            factor
        } else if wavelengths > high {
            1.0
        } else {
            let smooth = (wavelengths - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        divided as f32
    };
    (0..head_dim / 2).map(of_pair).collect()
}

/// Reads the weights of a directory to the device, as f32.
///
/// # Errors
/// When a tensor is missing or does not fit the configuration.
pub fn weights_from_hub(
    directory: &ModelDirectory,
    config: &DecoderConfig,
    device: &Device,
) -> Result<Weights, ModelError> {
    let family = directory
        .config
        .family()
        .map_err(|reason| directory.refuse(reason))?;
    let DecoderConfig {
        hidden_size,
        intermediate_size,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        ..
    } = *config;
    let failed = |error: candle_core::Error| directory.refuse(error.to_string());
    let tensor = |name: &str, shape: &[usize]| directory.tensor(name, shape, device);
    let stack = |parts: &[Tensor]| Tensor::cat(parts, 0).map_err(failed);
    let norm = |name: &str, width: usize| {
        Ok(match family.norms {
            Norms::Rms => Norm {
                gain: tensor(name, &[width])?,
                bias: None,
            },
            Norms::RmsPlusOne => Norm {
                gain: (tensor(name, &[width])? + 1.0).map_err(failed)?,
                bias: None,
            },
            Norms::Plain => Norm {
                gain: Tensor::ones(width, DType::F32, device).map_err(failed)?,
                bias: Some(Tensor::zeros(width, DType::F32, device).map_err(failed)?),
            },
        })
    };
    let embedding = tensor("model.embed_tokens.weight", &[vocab_size, hidden_size])?;
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let projections = [("q", heads), ("k", kv_heads), ("v", kv_heads)];
        let qkv = projections.map(|(part, heads)| {
            let name = name(&format!("self_attn.{part}_proj.weight"));
            tensor(&name, &[heads * head_dim, hidden_size])
        });
        let qkv = qkv.into_iter().collect::<Result<Vec<_>, _>>()?;
        let qkv_bias = if family.has_qkv_bias {
            let bias = projections.map(|(part, heads)| {
                let name = name(&format!("self_attn.{part}_proj.bias"));
                tensor(&name, &[heads * head_dim])
            });
            Some(stack(&bias.into_iter().collect::<Result<Vec<_>, _>>()?)?)
        } else {
            None
        };
        let head_norm = |part: &str| {
            let name = name(&format!("self_attn.{part}_norm.weight"));
            family
                .norms_heads
                .then(|| norm(&name, head_dim))
                .transpose()
        };
        let mlp = |part: &str, rows: usize, columns: usize| {
            tensor(&name(&format!("mlp.{part}_proj.weight")), &[rows, columns])
        };
        blocks.push(Block {
            attention_norm: norm(&name("input_layernorm.weight"), hidden_size)?,
            qkv: stack(&qkv)?,
            qkv_bias,
            query_norm: head_norm("q")?,
            key_norm: head_norm("k")?,
            output: tensor(
                &name("self_attn.o_proj.weight"),
                &[hidden_size, heads * head_dim],
            )?,
            mlp_norm: norm(&name("post_attention_layernorm.weight"), hidden_size)?,
            gate_up: stack(&[
                mlp("gate", intermediate_size, hidden_size)?,
                mlp("up", intermediate_size, hidden_size)?,
            ])?,
            down: mlp("down", hidden_size, intermediate_size)?,
        });
    }
    let is_tied = directory.config.tie_word_embeddings;
    let is_tied = is_tied.unwrap_or_else(|| !directory.has_tensor("lm_head.weight"));
    let unembedding = if is_tied {
        embedding.clone()
    } else {
        tensor("lm_head.weight", &[vocab_size, hidden_size])?
    };
    Ok(Weights {
        final_norm: norm("model.norm.weight", hidden_size)?,
        embedding,
        blocks,
        unembedding,
    })
}
