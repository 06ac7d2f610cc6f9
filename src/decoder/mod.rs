//! One decoder-only transformer for every family: a configuration and weights in, hidden states
//! and log-probabilities out.
//!
//! Sequences are packed one after another without padding; a segment may continue another one
//! (a response after its prompt), whose keys and values it then attends to. No state outlives a
//! call.

mod attention;
mod config;
mod cpu;
mod rope;
mod steps;
mod tensors;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result, Tensor};

use attention::Attention;
pub use attention::Segment;
pub use config::{DecoderConfig, LayerConfig, LongRope, RopeConfig};
use cpu::Cpu;
use rope::Rope;
pub use steps::Sums;
use steps::{Heads, Steps};
use tensors::Tensors;

/// Logits are formed for at most so many values at once.
const LOGIT_VALUES: usize = 1 << 23;

/// The parameters of a norm over the last dimension, f32.
#[derive(Debug)]
pub struct Norm {
    /// What normed values are multiplied by.
    pub gain: Tensor,
    /// What is then added. With it the norm is by mean and variance (LayerNorm), without it by the
    /// root mean square (RMSNorm).
    pub bias: Option<Tensor>,
}

/// A linear map.
#[derive(Debug)]
pub struct Linear {
    /// The matrix, `(out, in)`.
    pub weight: Matrix,
    /// What is added, `(out)`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// A map without bias.
    pub fn plain(weight: Tensor) -> Self {
        Self::new(weight, None)
    }

    /// A map by a matrix of plain numbers.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight: Matrix::Dense(weight),
            bias,
        }
    }
}

/// A matrix, `(out, in)`.
#[derive(Debug)]
pub enum Matrix {
    /// Plain numbers.
    Dense(Tensor),
    /// Quantised numbers, some rows in each piece. A piece is dequantised whenever it is used,
    /// which takes time but no memory, and changes no number.
    Quantised(Vec<QTensor>),
}

/// The weights of one block.
#[derive(Debug)]
pub struct Block {
    /// The norm before attention, `(d)`.
    pub attention_norm: Option<Norm>,
    /// Query, key and value projections, one below the other,
    /// `((heads + 2 kv_heads) head_dim, d)`.
    pub qkv: Linear,
    /// The norm of queries before rotation: of each head, `(head_dim)`, or of all heads together,
    /// `(heads head_dim)`.
    pub query_norm: Option<Norm>,
    /// The same of keys.
    pub key_norm: Option<Norm>,
    /// Output projection of attention, `(d, heads head_dim)`.
    pub output: Linear,
    /// The norm of what attention adds, `(d)`.
    pub attention_post_norm: Option<Norm>,
    /// The norm before the MLP, `(d)`.
    pub mlp_norm: Option<Norm>,
    /// Gate and up projections, one below the other, `(2 intermediate_size, d)`; without a gate
    /// the up projection alone.
    pub up: Linear,
    /// Down projection, `(d, intermediate_size)`.
    pub down: Linear,
    /// The norm of what the MLP adds, `(d)`.
    pub mlp_post_norm: Option<Norm>,
}

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    /// Token embeddings, `(V, d)`.
    pub embedding: Tensor,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// The final norm, `(d)`.
    pub final_norm: Norm,
    /// Unembedding, `(V, d)`; the embedding itself where the two are tied.
    pub unembedding: Linear,
}

/// Token sequences packed for one forward pass.
#[derive(Debug, Clone, Default)]
pub struct PackedBatch {
    /// Token ids of all segments, one after another.
    pub tokens: Vec<u32>,
    /// The position of each token in its own sequence.
    pub positions: Vec<u32>,
    /// The segments, in order; they cover `tokens`.
    pub segments: Vec<Segment>,
    /// Indices into `tokens` of the positions whose hidden states are wanted.
    pub outputs: Vec<u32>,
}

/// A decoder-only transformer.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    weights: Weights,
    ropes: Vec<Rope>,
    device: Device,
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Outputs {
    /// The wanted hidden states, reduced.
    pub sums: Vec<Sums>,
    /// `ln p(target)` at each wanted position, nats, if asked for.
    pub log_probs: Option<Vec<f32>>,
}

impl Decoder {
    /// Puts configuration and weights together; shapes are the caller's to check.
    pub fn new(config: DecoderConfig, weights: Weights, device: Device) -> Self {
        Self {
            ropes: config.ropes.iter().map(Rope::new).collect(),
            config,
            weights,
            device,
        }
    }

    /// The hidden states after the final norm at `batch.outputs`, reduced: `lengths` of them one
    /// after another; and the log-probabilities of `targets`, one for each of them.
    pub fn run(
        &self,
        batch: &PackedBatch,
        lengths: &[usize],
        targets: Option<&[u32]>,
    ) -> Result<Outputs> {
        let config = &self.config;
        match self.device {
            Device::Cpu => self.run_by(&Cpu { config }, batch, lengths, targets),
            _ => self.run_by(&self.tensors(), batch, lengths, targets),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.weights.embedding.dtype()
    }

    /// The steps that devices other than the CPU take.
    fn tensors(&self) -> Tensors<'_> {
        Tensors {
            config: &self.config,
            device: &self.device,
            dtype: self.dtype(),
        }
    }

    fn run_by<S: Steps>(
        &self,
        steps: &S,
        batch: &PackedBatch,
        lengths: &[usize],
        targets: Option<&[u32]>,
    ) -> Result<Outputs> {
        let hidden = self.hidden_states(steps, batch)?;
        let log_probs = |targets| steps.log_probs(&hidden, &self.weights.unembedding, targets);
        Ok(Outputs {
            sums: steps.sums(&hidden, lengths)?,
            log_probs: targets.map(log_probs).transpose()?,
        })
    }

    fn hidden_states<S: Steps>(&self, steps: &S, batch: &PackedBatch) -> Result<S::Rows> {
        let mut hidden = steps.embed(&self.weights.embedding, &batch.tokens)?;
        let angles = self.ropes.iter().map(|rope| steps.angles(rope.at(batch)));
        let angles = angles.collect::<Result<Vec<_>>>()?;
        for (block, layer) in self.weights.blocks.iter().zip(&self.config.layers) {
            let heads = Heads {
                query_norm: block.query_norm.as_ref(),
                key_norm: block.key_norm.as_ref(),
                angles: layer.rope.map(|rope| &angles[rope]),
            };
            let attention = Attention {
                scale: self.config.attention_scale,
                cap: self.config.attention_cap,
                window: layer.sliding_window,
            };
            let of_normed = |rows: &S::Rows, norm: Option<&Norm>, linear: &Linear| match norm {
                None => steps.linear(rows, linear),
                Some(norm) => steps.linear(&steps.normed(rows, norm)?, linear),
            };
            let qkv = of_normed(&hidden, block.attention_norm.as_ref(), &block.qkv)?;
            let attended = steps.attend(qkv, &batch.segments, heads, attention)?;
            let attended = steps.linear(&attended, &block.output)?;
            let after = steps.sum(&hidden, attended, block.attention_post_norm.as_ref())?;
            let read_by_mlp = if self.config.parallel_residual {
                &hidden
            } else {
                &after
            };
            let up = of_normed(read_by_mlp, block.mlp_norm.as_ref(), &block.up)?;
            let down = steps.linear(&steps.activated(up)?, &block.down)?;
            hidden = steps.sum(&after, down, block.mlp_post_norm.as_ref())?;
        }
        let hidden = steps.select(&hidden, &batch.outputs)?;
        steps.normed(&hidden, &self.weights.final_norm)
    }
}

#[cfg(test)]
impl Decoder {
    /// As [`Self::run`], by the steps that other devices take.
    pub fn run_by_tensors(
        &self,
        batch: &PackedBatch,
        lengths: &[usize],
        targets: Option<&[u32]>,
    ) -> Result<Outputs> {
        self.run_by(&self.tensors(), batch, lengths, targets)
    }
}
