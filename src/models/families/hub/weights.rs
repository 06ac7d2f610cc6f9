//! The weights of a model directory.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{Family, HeadNorms, HubConfig, Layout, NormPlaces, Norms, keys};
use crate::decoder::{Block, DecoderConfig, Linear, Norm, Weights};
use crate::files::error::ModelError;
use crate::files::model_directory::{ModelDirectory, TensorRows};
use crate::files::weights::Target;

/// What the parts of a model are called.
struct Names {
    embedding: &'static str,
    /// The first is what is written, the others are read as well.
    unembeddings: &'static [&'static str],
    final_norm: &'static str,
    layers: &'static str,
    attention_output: &'static str,
    down: &'static str,
}

const NAMES: Names = Names {
    embedding: "model.embed_tokens",
    unembeddings: &["lm_head"],
    final_norm: "model.norm",
    layers: "model.layers",
    attention_output: "self_attn.o_proj",
    down: "mlp.down_proj",
};

const NEOX_NAMES: Names = Names {
    embedding: "gpt_neox.embed_in",
    unembeddings: &["embed_out", "lm_head"],
    final_norm: "gpt_neox.final_layer_norm",
    layers: "gpt_neox.layers",
    attention_output: "attention.dense",
    down: "mlp.dense_4h_to_h",
};

/// Where a name has what tells a tensor that no forward pass reads.
enum At {
    Begin,
    End,
}

/// Tensors that are skipped: of which type (all if empty), what their names begin or end with, and
/// why. transformers reads none of them either. Any other tensor that is not read is refused.
const SKIPPED: [(&str, At, &str, &str); 12] = [
    ("", At::End, "rotary_emb.inv_freq", FREQUENCIES),
    ("", At::End, "rotary_emb.cos_cached", FREQUENCIES),
    ("", At::End, "rotary_emb.sin_cached", FREQUENCIES),
    ("gpt_neox", At::End, ".attention.bias", MASK),
    ("gpt_neox", At::End, ".attention.masked_bias", MASK),
    ("", At::Begin, "mtp.", "prediction of several tokens"),
    ("", At::Begin, "vision_tower.", VISION),
    ("", At::Begin, "model.vision_tower.", VISION),
    ("", At::Begin, "multi_modal_projector.", VISION),
    ("", At::Begin, "model.multi_modal_projector.", VISION),
    ("", At::Begin, "visual.", VISION),
    ("", At::Begin, "model.visual.", VISION),
];

const FREQUENCIES: &str = "computed from the configuration";
const MASK: &str = "the mask of what comes after a token, which is no weight";
const VISION: &str = "what reads images";

/// What to do about tensors that are not read, by what one of their names contains.
const ADVICE: [(&str, &str); 14] = [
    (".lora_", MERGE),
    (".base_layer.", MERGE),
    (".modules_to_save.", MERGE),
    (".weight_scale", DEQUANTISE),
    (".input_scale", DEQUANTISE),
    (".qweight", DEQUANTISE),
    (".qzeros", DEQUANTISE),
    (".g_idx", DEQUANTISE),
    (".absmax", DEQUANTISE),
    (".quant_state", DEQUANTISE),
    (".SCB", DEQUANTISE),
    ("score.", OTHER_HEAD),
    ("v_head.", OTHER_HEAD),
    ("classifier.", OTHER_HEAD),
];

const MERGE: &str = "merge the adapter into the model's weights and save it again";
const DEQUANTISE: &str = "save the model unquantised, in F32, BF16 or F16";
const OTHER_HEAD: &str = "save the language model without the other head";

fn skipped(name: &str, model_type: &str) -> Option<&'static str> {
    let rule = SKIPPED.iter().find(|(of, at, text, _)| {
        (of.is_empty() || *of == model_type)
            && match at {
                At::Begin => name.starts_with(text),
                At::End => name.ends_with(text),
            }
    });
    rule.map(|(_, _, _, reason)| *reason)
}

/// Checks, from the headers of its files, that a directory has the tensors that its configuration
/// asks for, and none besides but those that are skipped by a rule.
///
/// # Errors
/// When a tensor is missing, does not fit, or would not be read.
pub(super) fn check_tensors(
    directory: &ModelDirectory,
    hub: &HubConfig,
    config: &DecoderConfig,
) -> Result<(), ModelError> {
    let family = hub.family();
    let family = family.map_err(|reason| directory.refuse(reason))?;
    let reader = Reader {
        directory,
        hub,
        config,
        family,
        target: &Target::new(Device::Cpu, DType::F32),
        names: Some(RefCell::default()),
    };
    reader.weights()?;
    let read = reader.names.map(RefCell::into_inner).unwrap_or_default();
    let mut unread = Vec::new();
    for name in directory
        .tensor_names()
        .filter(|name| !read.contains(*name))
    {
        match skipped(name, family.model_type) {
            Some(reason) => {
                tracing::debug!(
                    "{}: {name} is skipped: {reason}",
                    directory.path().display()
                );
            }
            None => unread.push(name),
        }
    }
    if unread.is_empty() {
        return Ok(());
    }
    let advice = ADVICE
        .iter()
        .find(|(text, _)| unread.iter().any(|name| name.contains(text)));
    let advice = advice.map_or_else(
        || {
            format!(
                "model_type '{}' with {} blocks has no such tensors: mend config.json, or save \
                 the model without them",
                family.model_type,
                config.layers.len()
            )
        },
        |(_, advice)| (*advice).to_owned(),
    );
    let count = unread.len();
    Err(directory.refuse(format!(
        "{count} of its tensors would not be read: {}; {advice}",
        keys::few(unread)
    )))
}

/// Reads the weights of a directory.
///
/// # Errors
/// When a tensor is missing or does not fit the configuration.
pub fn weights_from_hub(
    directory: &ModelDirectory,
    config: &DecoderConfig,
    target: &Target,
) -> Result<Weights, ModelError> {
    let hub: HubConfig = directory.config()?;
    let family = hub.family();
    let family = family.map_err(|reason| directory.refuse(reason))?;
    let reader = Reader {
        directory,
        hub: &hub,
        config,
        family,
        target,
        names: None,
    };
    reader.weights()
}

struct Reader<'a> {
    directory: &'a ModelDirectory,
    hub: &'a HubConfig,
    config: &'a DecoderConfig,
    family: &'a Family,
    target: &'a Target,
    /// Where it is only to be known which tensors are read: their names. Then nothing is read, and
    /// the weights are placeholders.
    names: Option<RefCell<BTreeSet<String>>>,
}

impl Reader<'_> {
    fn weights(&self) -> Result<Weights, ModelError> {
        let names = match self.family.layout {
            Layout::NeoX => NEOX_NAMES,
            Layout::Separate | Layout::Fused => NAMES,
        };
        let config = self.config;
        let shape = [config.vocab_size, config.hidden_size];
        let embedding_name = format!("{}.weight", names.embedding);
        let embedding = self.tensor(&embedding_name, &shape, self.target)?;
        let unembedding = self.unembedding(&names, &shape)?;
        let is_tied = self.is_said_to_be_tied();
        let blocks = (0..config.layers.len()).map(|layer| self.block(&names, layer));
        Ok(Weights {
            blocks: blocks.collect::<Result<_, _>>()?,
            final_norm: self.norm(names.final_norm, config.hidden_size)?,
            unembedding: Linear::plain(match unembedding {
                // Like transformers, a stored unembedding of its own counts more than what is said.
                Some(name) if !(is_tied && self.are_equal(&embedding_name, &name)) => {
                    self.tensor(&name, &shape, self.target)?
                }
                _ => embedding.clone(),
            }),
            embedding,
        })
    }

    /// The name of the stored unembedding. Only where the embedding is said to be it, too, there
    /// may be none.
    fn unembedding(&self, names: &Names, shape: &[usize; 2]) -> Result<Option<String>, ModelError> {
        let written = names.unembeddings.iter();
        let mut stored: Vec<String> = written.map(|name| format!("{name}.weight")).collect();
        let first = stored[0].clone();
        stored.retain(|name| self.directory.has_tensor(name));
        if let [one, other] = &stored[..]
            && self.names.is_some()
        {
            self.tensor(other, shape, self.target)?;
            if !self.directory.are_equal(one, other) {
                return Err(self.directory.refuse(format!(
                    "tensors {one} and {other} are both the unembedding and differ; accepted: one \
                     of them"
                )));
            }
        }
        if stored.is_empty() && !self.is_said_to_be_tied() {
            return Err(self.directory.refuse(format!(
                "no tensor {first}, and tie_word_embeddings is false{}",
                match self.hub.tie_word_embeddings {
                    Some(_) => "",
                    None => " where config.json does not say it is true",
                }
            )));
        }
        Ok(stored.into_iter().next())
    }

    /// Whether the embedding is the unembedding, as the configuration says, or else as transformers
    /// has it for the type.
    fn is_said_to_be_tied(&self) -> bool {
        let by_default = keys::default_of(self.family.model_type, "tie_word_embeddings");
        let by_default = by_default.and_then(Value::as_bool).unwrap_or_default();
        let said = self.hub.tie_word_embeddings;
        said.unwrap_or(by_default)
    }

    /// Whether two tensors hold the same; where nothing is read, this is not known.
    fn are_equal(&self, a: &str, b: &str) -> bool {
        self.names.is_none() && self.directory.are_equal(a, b)
    }

    fn tensor(&self, name: &str, shape: &[usize], target: &Target) -> Result<Tensor, ModelError> {
        self.stack(&[TensorRows::all(name, shape)], target)
    }

    /// Rows of tensors, one below the other.
    fn stack(&self, parts: &[TensorRows], target: &Target) -> Result<Tensor, ModelError> {
        let Some(names) = &self.names else {
            return self.directory.stack(parts, target);
        };
        for part in parts {
            self.directory.check(part)?;
        }
        let asked = parts.iter().map(|part| part.name.clone());
        names.borrow_mut().extend(asked);
        let placeholder = Tensor::zeros(1, DType::F32, &Device::Cpu);
        placeholder.map_err(|error| self.directory.refuse(error.to_string()))
    }

    fn block(&self, names: &Names, layer: usize) -> Result<Block, ModelError> {
        let DecoderConfig {
            hidden_size,
            intermediate_size,
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.config;
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let norm = |is_there: bool, part: &str, width: usize| {
            let norm = is_there.then(|| self.norm(&name(part), width));
            norm.transpose()
        };
        let before = self.family.places != NormPlaces::After;
        let after = self.family.places != NormPlaces::Before;
        // With norms after, the name that others give to the norm before the MLP is taken.
        let mlp_norm = if after {
            "pre_feedforward_layernorm"
        } else {
            "post_attention_layernorm"
        };
        let (has_head_norms, query_width, key_width) = match self.family.head_norms {
            HeadNorms::None => (false, 0, 0),
            HeadNorms::Each => (true, head_dim, head_dim),
            HeadNorms::All => (true, heads * head_dim, kv_heads * head_dim),
        };
        let output = name(names.attention_output);
        let has_bias = self.family.layout == Layout::NeoX;
        Ok(Block {
            attention_norm: norm(before, "input_layernorm", hidden_size)?,
            qkv: self.qkv(name)?,
            query_norm: norm(has_head_norms, "self_attn.q_norm", query_width)?,
            key_norm: norm(has_head_norms, "self_attn.k_norm", key_width)?,
            output: self.linear(
                &[(output, 0..hidden_size)],
                [hidden_size, heads * head_dim],
                has_bias,
            )?,
            attention_post_norm: norm(after, "post_attention_layernorm", hidden_size)?,
            mlp_norm: norm(before, mlp_norm, hidden_size)?,
            up: self.up(name)?,
            down: self.linear(
                &[(name(names.down), 0..hidden_size)],
                [hidden_size, intermediate_size],
                has_bias,
            )?,
            mlp_post_norm: norm(after, "post_feedforward_layernorm", hidden_size)?,
        })
    }

    fn qkv(&self, name: impl Fn(&str) -> String) -> Result<Linear, ModelError> {
        let DecoderConfig {
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.config;
        let rows = (heads + 2 * kv_heads) * head_dim;
        match self.family.layout {
            Layout::Separate => {
                let parts = [("q", heads), ("k", kv_heads), ("v", kv_heads)];
                let parts = parts.map(|(part, heads)| {
                    let name = name(&format!("self_attn.{part}_proj"));
                    TensorRows::all(name, &[heads * head_dim, hidden_size])
                });
                self.stacked(&parts, self.family.has_qkv_bias)
            }
            Layout::Fused => self.linear(
                &[(name("self_attn.qkv_proj"), 0..rows)],
                [rows, hidden_size],
                false,
            ),
            Layout::NeoX => {
                let of_heads = |part: usize| {
                    (0..heads).map(move |head| {
                        let first = (3 * head + part) * head_dim;
                        first..first + head_dim
                    })
                };
                let name = name("attention.query_key_value");
                let parts = (0..3).flat_map(of_heads).map(|rows| (name.clone(), rows));
                let parts: Vec<_> = parts.collect();
                self.linear(&parts, [rows, hidden_size], true)
            }
        }
    }

    fn up(&self, name: impl Fn(&str) -> String) -> Result<Linear, ModelError> {
        let (hidden_size, width) = (self.config.hidden_size, self.config.intermediate_size);
        match self.family.layout {
            Layout::Separate => {
                let parts = ["mlp.gate_proj", "mlp.up_proj"]
                    .map(|part| TensorRows::all(name(part), &[width, hidden_size]));
                self.stacked(&parts, false)
            }
            Layout::Fused => self.linear(
                &[(name("mlp.gate_up_proj"), 0..2 * width)],
                [2 * width, hidden_size],
                false,
            ),
            Layout::NeoX => self.linear(
                &[(name("mlp.dense_h_to_4h"), 0..width)],
                [width, hidden_size],
                true,
            ),
        }
    }

    /// Rows of matrices of one shape, one below the other.
    fn linear(
        &self,
        parts: &[(String, Range<usize>)],
        shape: [usize; 2],
        has_bias: bool,
    ) -> Result<Linear, ModelError> {
        let part = |(name, rows): &(String, Range<usize>)| TensorRows {
            name: name.clone(),
            shape: shape.to_vec(),
            rows: rows.clone(),
        };
        self.stacked(&parts.iter().map(part).collect::<Vec<_>>(), has_bias)
    }

    /// A map whose parts are called as given, without `.weight` and `.bias`.
    fn stacked(&self, parts: &[TensorRows], has_bias: bool) -> Result<Linear, ModelError> {
        let of = |kind: &str, dimensions: usize| {
            let part = |part: &TensorRows| TensorRows {
                name: format!("{}.{kind}", part.name),
                shape: part.shape[..dimensions].to_vec(),
                rows: part.rows.clone(),
            };
            let parts: Vec<_> = parts.iter().map(part).collect();
            self.stack(&parts, self.target)
        };
        let bias = has_bias.then(|| of("bias", 1)).transpose()?;
        Ok(Linear::new(of("weight", 2)?, bias))
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let target = self.target.in_f32();
        let failed = |error: candle_core::Error| self.directory.refuse(error.to_string());
        let tensor = |part: &str| self.tensor(&format!("{name}.{part}"), &[width], &target);
        let filled = |value: f32| Tensor::full(value, width, &target.device).map_err(failed);
        Ok(match self.family.norms {
            Norms::Rms => Norm {
                gain: tensor("weight")?,
                bias: None,
            },
            Norms::RmsPlusOne => Norm {
                gain: (tensor("weight")? + 1.0).map_err(failed)?,
                bias: None,
            },
            Norms::Plain => Norm {
                gain: filled(1.0)?,
                bias: Some(filled(0.0)?),
            },
            Norms::Layer => Norm {
                gain: tensor("weight")?,
                bias: Some(tensor("bias")?),
            },
        })
    }
}
