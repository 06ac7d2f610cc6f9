//! The weights of a model directory.

use std::ops::Range;

use candle_core::Tensor;

use super::{Family, HeadNorms, Layout, NormPlaces, Norms};
use crate::decoder::{Block, DecoderConfig, Linear, Norm, Weights};
use crate::error::ModelError;
use crate::model_directory::{ModelDirectory, TensorRows};
use crate::weights::Target;

/// What the parts of a model are called.
struct Names {
    embedding: &'static str,
    unembedding: &'static str,
    final_norm: &'static str,
    layers: &'static str,
    attention_output: &'static str,
    down: &'static str,
}

const NAMES: Names = Names {
    embedding: "model.embed_tokens",
    unembedding: "lm_head",
    final_norm: "model.norm",
    layers: "model.layers",
    attention_output: "self_attn.o_proj",
    down: "mlp.down_proj",
};

const NEOX_NAMES: Names = Names {
    embedding: "gpt_neox.embed_in",
    unembedding: "embed_out",
    final_norm: "gpt_neox.final_layer_norm",
    layers: "gpt_neox.layers",
    attention_output: "attention.dense",
    down: "mlp.dense_4h_to_h",
};

/// Reads the weights of a directory.
///
/// # Errors
/// When a tensor is missing or does not fit the configuration.
pub fn weights_from_hub(
    directory: &ModelDirectory,
    config: &DecoderConfig,
    target: &Target,
) -> Result<Weights, ModelError> {
    let family = directory.config.family();
    let family = family.map_err(|reason| directory.refuse(reason))?;
    let names = match family.layout {
        Layout::NeoX => NEOX_NAMES,
        Layout::Separate | Layout::Fused => NAMES,
    };
    let reader = Reader {
        directory,
        config,
        family,
        target,
    };
    let shape = [config.vocab_size, config.hidden_size];
    let embedding_name = format!("{}.weight", names.embedding);
    let embedding = directory.tensor(&embedding_name, &shape, target)?;
    let blocks = (0..config.layers.len()).map(|layer| reader.block(&names, layer));
    let unembedding = format!("{}.weight", names.unembedding);
    let is_said_to_be_tied = directory.config.tie_word_embeddings.unwrap_or(true);
    // Like transformers, a stored unembedding of its own counts more than what is said.
    let is_tied = if directory.has_tensor(&unembedding) {
        is_said_to_be_tied && directory.are_equal(&embedding_name, &unembedding)
    } else {
        is_said_to_be_tied
    };
    Ok(Weights {
        blocks: blocks.collect::<Result<_, _>>()?,
        final_norm: reader.norm(names.final_norm, config.hidden_size)?,
        unembedding: Linear::plain(if is_tied {
            embedding.clone()
        } else {
            directory.tensor(&unembedding, &shape, target)?
        }),
        embedding,
    })
}

struct Reader<'a> {
    directory: &'a ModelDirectory,
    config: &'a DecoderConfig,
    family: &'a Family,
    target: &'a Target,
}

impl Reader<'_> {
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
            self.directory.stack(&parts, self.target)
        };
        let bias = has_bias.then(|| of("bias", 1)).transpose()?;
        Ok(Linear::new(of("weight", 2)?, bias))
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let target = self.target.in_f32();
        let failed = |error: candle_core::Error| self.directory.refuse(error.to_string());
        let tensor = |part: &str| {
            self.directory
                .tensor(&format!("{name}.{part}"), &[width], &target)
        };
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
