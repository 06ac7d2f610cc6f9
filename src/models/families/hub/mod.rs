//! Model directories as Hugging Face transformers writes them: a table of families, and what a
//! `config.json` says of one.

mod keys;
mod rope;
mod weights;

use candle_nn::Activation;
use serde::{Deserialize, Deserializer};

use super::{bounded_layers, key_heads_and_width};
use crate::decoder::{DecoderConfig, LayerConfig};
use crate::files::error::ModelError;
use crate::files::model_directory::ModelDirectory;
use rope::RopeParameters;
pub use weights::weights_from_hub;

/// What tells a family from a llama.
struct Family {
    /// `model_type` of `config.json`.
    model_type: &'static str,
    /// What tensors are called and how they are laid out.
    layout: Layout,
    norms: Norms,
    places: NormPlaces,
    head_norms: HeadNorms,
    windows: Windows,
    /// Whether embeddings are multiplied by the square root of their width.
    scales_embedding: bool,
    /// Whether query, key and value projections have a bias whatever the configuration says.
    has_qkv_bias: bool,
    /// Whether products of queries and keys are scaled by `query_pre_attn_scalar`.
    scales_queries: bool,
    /// Whether `attn_logit_softcapping` applies.
    caps_attention: bool,
    /// Whether `final_logit_softcapping` applies.
    caps_logits: bool,
    /// Whether `clip_qkv` applies.
    clips: bool,
    /// Whether only a part of each head is rotated, as the configuration says.
    rotates_partly: bool,
    /// Whether a configuration must name its number of key heads. Elsewhere none means as many as
    /// query heads; here transformers has a number of its own for it.
    names_key_heads: bool,
    /// The same of the width of a head, which elsewhere is the hidden width shared among heads.
    names_head_width: bool,
    /// The same of the window, which elsewhere is none.
    names_window: bool,
    /// Whether some blocks leave positions out (`no_rope_layers`).
    skips_rope: bool,
    /// Whether `gelu` is the approximation by tanh.
    gelu_is_tanh: bool,
    /// Whether the activation is called `hidden_activation`, and not `hidden_act`.
    names_activation: bool,
    /// The base of the rotary embedding that a configuration need not name.
    rope_theta: f64,
    /// The same of blocks with a window, where they have an embedding of their own.
    local_rope_theta: Option<f64>,
}

/// What tensors are called and how they are laid out.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// `q_proj`, `k_proj`, `v_proj`, `gate_proj`, `up_proj`.
    Separate,
    /// `qkv_proj`, `gate_up_proj`.
    Fused,
    /// GPT-NeoX's: query, key and value of one head after another, an MLP without gate, biases
    /// everywhere.
    NeoX,
}

/// How hidden states are normed.
#[derive(Clone, Copy, PartialEq)]
enum Norms {
    /// By their root mean square, times a gain.
    Rms,
    /// The same, times one plus a stored number.
    RmsPlusOne,
    /// To mean 0 and variance 1, without parameters.
    Plain,
    /// To mean 0 and variance 1, times a gain, plus a bias.
    Layer,
}

/// Which hidden states of a block are normed.
#[derive(Clone, Copy, PartialEq)]
enum NormPlaces {
    /// What attention and MLP read.
    Before,
    /// What they add.
    After,
    /// Both.
    Around,
}

/// Whether queries and keys are normed.
#[derive(Clone, Copy, PartialEq)]
enum HeadNorms {
    None,
    /// Each head by itself.
    Each,
    /// All heads together.
    All,
}

/// Which blocks `sliding_window` applies to.
#[derive(Clone, Copy, PartialEq)]
enum Windows {
    None,
    All,
    /// Those that `layer_types` names; without it, all but each n-th, n being this, or where
    /// these blocks have a rotary embedding of their own `sliding_window_pattern`.
    AllBut(usize),
}

const LLAMA: Family = Family {
    model_type: "llama",
    layout: Layout::Separate,
    norms: Norms::Rms,
    places: NormPlaces::Before,
    head_norms: HeadNorms::None,
    windows: Windows::None,
    scales_embedding: false,
    has_qkv_bias: false,
    scales_queries: false,
    caps_attention: false,
    caps_logits: false,
    clips: false,
    rotates_partly: false,
    names_key_heads: false,
    names_head_width: false,
    names_window: false,
    skips_rope: false,
    gelu_is_tanh: false,
    names_activation: false,
    rope_theta: 10_000.0,
    local_rope_theta: None,
};

const GEMMA: Family = Family {
    model_type: "gemma",
    norms: Norms::RmsPlusOne,
    scales_embedding: true,
    // Its first configurations name another one than they mean.
    gelu_is_tanh: true,
    names_key_heads: true,
    names_head_width: true,
    ..LLAMA
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    places: NormPlaces::Around,
    windows: Windows::AllBut(2),
    names_window: true,
    scales_queries: true,
    caps_attention: true,
    caps_logits: true,
    gelu_is_tanh: false,
    names_activation: true,
    ..GEMMA
};

/// The supported families. Each has a golden under `tests/goldens/families`.
const FAMILIES: [Family; 12] = [
    LLAMA,
    Family {
        model_type: "olmo",
        norms: Norms::Plain,
        clips: true,
        ..LLAMA
    },
    GEMMA,
    Family {
        model_type: "qwen2",
        has_qkv_bias: true,
        names_key_heads: true,
        ..LLAMA
    },
    Family {
        model_type: "qwen3",
        head_norms: HeadNorms::Each,
        names_key_heads: true,
        names_head_width: true,
        ..LLAMA
    },
    Family {
        model_type: "mistral",
        windows: Windows::All,
        names_key_heads: true,
        names_window: true,
        ..LLAMA
    },
    GEMMA2,
    Family {
        model_type: "olmo2",
        places: NormPlaces::After,
        head_norms: HeadNorms::All,
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        layout: Layout::Fused,
        windows: Windows::All,
        rotates_partly: true,
        ..LLAMA
    },
    Family {
        model_type: "gemma3_text",
        head_norms: HeadNorms::Each,
        windows: Windows::AllBut(6),
        caps_attention: false,
        rope_theta: 1_000_000.0,
        local_rope_theta: Some(10_000.0),
        ..GEMMA2
    },
    Family {
        model_type: "smollm3",
        skips_rope: true,
        names_key_heads: true,
        rope_theta: 2_000_000.0,
        ..LLAMA
    },
    Family {
        model_type: "gpt_neox",
        layout: Layout::NeoX,
        norms: Norms::Layer,
        rotates_partly: true,
        ..LLAMA
    },
];

/// The `model_type` values of the supported families.
pub fn model_types() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.model_type).collect()
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
    original_max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    clip_qkv: Option<f64>,
    #[serde(default, deserialize_with = "written")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    use_bidirectional_attention: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    #[serde(default, deserialize_with = "written")]
    attn_logit_softcapping: Option<Option<f64>>,
    #[serde(default, deserialize_with = "written")]
    final_logit_softcapping: Option<Option<f64>>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    use_parallel_residual: Option<bool>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rotary_emb_base: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rotary_pct: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

/// A field that is there, be it `null`.
fn written<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    field: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}

impl HubConfig {
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

/// A positive number, if there is one.
fn positive_if(name: &str, found: Option<f64>) -> Result<Option<f64>, String> {
    found.map(|found| positive(name, found)).transpose()
}

/// The decoder that a directory's `config.json` describes.
///
/// # Errors
/// When the family is not supported, a field is missing, contradicts another, or asks for
/// something that is not supported, or the tensors are not those that the fields ask for.
pub fn config_from_hub(directory: &ModelDirectory) -> Result<DecoderConfig, ModelError> {
    let refuse = |reason: String| directory.refuse(reason);
    let hub: HubConfig = directory.config()?;
    let config = decoder_config(&hub).map_err(refuse)?;
    let unknown = keys::check(&directory.config_keys, &hub.model_type).map_err(refuse)?;
    weights::check_tensors(directory, &hub, &config)?;
    if !unknown.is_empty() {
        tracing::warn!(
            "config.json of {}: keys that transformers does not know for model_type \
             '{}' are ignored: {}",
            directory.path().display(),
            hub.model_type,
            keys::few(unknown.iter().map(String::as_str))
        );
    }
    Ok(config)
}

fn decoder_config(config: &HubConfig) -> Result<DecoderConfig, String> {
    let family = config.family()?;
    refuse_unsupported(config, family)?;
    let hidden_size = required("hidden_size", config.hidden_size)?;
    let heads = required("num_attention_heads", config.num_attention_heads)?;
    let is_neox = family.layout == Layout::NeoX;
    // Ignored but by its rotary embedding, which then does not fit.
    if let Some(head_dim) = config.head_dim.filter(|_| is_neox)
        && head_dim.checked_mul(heads) != Some(hidden_size)
    {
        return Err(format!(
            "head_dim is {head_dim}; accepted for model_type '{}': hidden_size / \
             num_attention_heads",
            family.model_type
        ));
    }
    let (kv_heads, head_dim) = key_heads_and_width(
        hidden_size,
        heads,
        config.num_key_value_heads.filter(|_| !is_neox),
        config.head_dim.filter(|_| !is_neox),
    )?;
    let scalar = match (family.scales_queries, config.query_pre_attn_scalar) {
        (false, _) => head_dim as f64,
        (true, Some(scalar)) => positive("query_pre_attn_scalar", scalar)?,
        (true, None) => return Err("config.json has no query_pre_attn_scalar".into()),
    };
    let cap = |applies: bool, name: &str, found: Option<Option<f64>>| match found {
        _ if !applies => Ok(None),
        Some(cap) => positive_if(name, cap),
        // What transformers takes for a missing cap is a number.
        None => Err(format!(
            "config.json has no {name}; accepted: a number, or null"
        )),
    };
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: required("intermediate_size", config.intermediate_size)?,
        layers: layers(config, family)?,
        heads,
        kv_heads,
        head_dim,
        vocab_size: required("vocab_size", config.vocab_size)?,
        max_positions: required("max_position_embeddings", config.max_position_embeddings)?,
        norm_eps: norm_eps(config, family)?,
        activation: activation(config, family)?,
        gated_mlp: !is_neox,
        parallel_residual: is_neox && config.use_parallel_residual.unwrap_or(true),
        ropes: rope::ropes(config, family, head_dim)?,
        attention_scale: 1.0 / scalar.sqrt(),
        attention_cap: cap(
            family.caps_attention,
            "attn_logit_softcapping",
            config.attn_logit_softcapping,
        )?,
        logit_cap: cap(
            family.caps_logits,
            "final_logit_softcapping",
            config.final_logit_softcapping,
        )?,
        embedding_scale: family.scales_embedding.then(|| (hidden_size as f64).sqrt()),
        clip_qkv: positive_if("clip_qkv", config.clip_qkv)?,
    })
}

fn refuse_unsupported(config: &HubConfig, family: &Family) -> Result<(), String> {
    // What a NeoX configuration leaves out is true.
    let has_bias = family.layout == Layout::NeoX;
    let biased = config.attention_bias.unwrap_or(has_bias);
    let biased = biased && !family.has_qkv_bias;
    let switches = [
        ("mlp_bias", config.mlp_bias, false),
        ("use_sliding_window", config.use_sliding_window, false),
        (
            "use_bidirectional_attention",
            config.use_bidirectional_attention,
            false,
        ),
        ("attention_bias", Some(biased), has_bias),
    ];
    let switches = switches.map(|(name, found, only)| (name, found.unwrap_or(false), only));
    let family_name = family.model_type;
    if let Some((name, found, _)) = switches.iter().find(|(_, found, only)| found != only) {
        return Err(format!(
            "{name} is {found}; not supported for model_type '{family_name}'"
        ));
    }
    if config.clip_qkv.is_some() && !family.clips {
        return Err(format!(
            "clip_qkv; not supported for model_type '{family_name}'"
        ));
    }
    let heads = [
        (
            "num_key_value_heads",
            family.names_key_heads,
            config.num_key_value_heads,
        ),
        ("head_dim", family.names_head_width, config.head_dim),
    ];
    match heads
        .iter()
        .find(|(_, is_required, found)| *is_required && found.is_none())
    {
        Some((name, _, _)) => Err(format!("config.json has no {name}")),
        None => Ok(()),
    }
}

fn activation(config: &HubConfig, family: &Family) -> Result<Activation, String> {
    let (name, named) = if family.names_activation {
        let named = config.hidden_activation.as_deref();
        // What transformers takes for none, whatever `hidden_act` is.
        ("hidden_activation", named.or(Some("gelu_pytorch_tanh")))
    } else {
        ("hidden_act", config.hidden_act.as_deref())
    };
    Ok(match named {
        Some("gelu") if family.gelu_is_tanh => Activation::GeluPytorchTanh,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu") => Activation::Gelu,
        Some("gelu_pytorch_tanh") => Activation::GeluPytorchTanh,
        other => {
            let other = other.unwrap_or("");
            return Err(format!(
                "{name} '{other}'; supported: silu, gelu, gelu_pytorch_tanh"
            ));
        }
    })
}

fn norm_eps(config: &HubConfig, family: &Family) -> Result<f64, String> {
    let (name, found) = match family.norms {
        // It has no configuration: transformers fixes it.
        Norms::Plain => return Ok(1e-5),
        Norms::Layer => ("layer_norm_eps", config.layer_norm_eps),
        Norms::Rms | Norms::RmsPlusOne => ("rms_norm_eps", config.rms_norm_eps),
    };
    match found {
        Some(eps) => positive(name, eps),
        None => Err(format!("config.json has no {name}")),
    }
}

fn layers(config: &HubConfig, family: &Family) -> Result<Vec<LayerConfig>, String> {
    let count = bounded_layers(required("num_hidden_layers", config.num_hidden_layers)?)?;
    let window = match config.sliding_window {
        _ if family.windows == Windows::None => None,
        Some(window) => window,
        None if !family.names_window => None,
        None => {
            return Err("config.json has no sliding_window; accepted: a number, or null".into());
        }
    };
    let window = window.map(|tokens| required("sliding_window", Some(tokens)));
    let window = window.transpose()?;
    let of_layers = |name: &str, length: Option<usize>| match length {
        Some(length) if length != count => {
            Err(format!("{name} has {length} entries for {count} blocks"))
        }
        _ => Ok(()),
    };
    let layer_types = config.layer_types.as_deref();
    of_layers("layer_types", layer_types.map(<[_]>::len))?;
    let named = |layer: usize| match layer_types.map(|types| types[layer].as_str()) {
        None => Ok(None),
        Some("sliding_attention") => Ok(Some(true)),
        Some("full_attention") => Ok(Some(false)),
        Some(other) => Err(format!(
            "layer_types holds '{other}'; supported: sliding_attention, full_attention"
        )),
    };
    let has_slid = |layer: usize| {
        let slides = match family.windows {
            Windows::None => false,
            Windows::All => window.is_some(),
            Windows::AllBut(pattern) => {
                let of_config = config.sliding_window_pattern;
                let of_config = of_config.filter(|_| family.local_rope_theta.is_some());
                let pattern = of_config.unwrap_or(pattern);
                let pattern = required("sliding_window_pattern", Some(pattern))?;
                let by_pattern = !(layer + 1).is_multiple_of(pattern);
                return Ok(named(layer)?.unwrap_or(by_pattern));
            }
        };
        match named(layer)? {
            Some(named) if named != slides => Err(format!(
                "layer_types makes block {layer} another than model_type '{}' has",
                family.model_type
            )),
            _ => Ok::<_, String>(slides),
        }
    };
    let no_rope = config.no_rope_layers.as_deref();
    if family.skips_rope {
        of_layers("no_rope_layers", no_rope.map(<[_]>::len))?;
    }
    let interval = config.no_rope_layer_interval.unwrap_or(4);
    let interval = required("no_rope_layer_interval", Some(interval))?;
    let layer = |layer: usize| {
        let slides = has_slid(layer)?;
        if slides && window.is_none() {
            return Err(format!(
                "sliding_window is null, and block {layer} has a window; accepted: a number"
            ));
        }
        let has_rope = match (family.skips_rope, no_rope) {
            (false, _) => true,
            (true, Some(has_rope)) => has_rope[layer] != 0,
            (true, None) => !(layer + 1).is_multiple_of(interval),
        };
        let is_local = slides && family.local_rope_theta.is_some();
        Ok(LayerConfig {
            sliding_window: window.filter(|_| slides),
            rope: has_rope.then_some(usize::from(is_local)),
        })
    };
    (0..count).map(layer).collect()
}
