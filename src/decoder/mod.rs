//! One decoder-only transformer for every family: a configuration and weights in, hidden states
//! and log-probabilities out.
//!
//! Sequences are packed one after another without padding; a segment may continue another one
//! (a response after its prompt), whose keys and values it then attends to. No state outlives a
//! call.

mod attention;
mod config;
mod rope;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

pub use attention::Segment;
pub use config::{DecoderConfig, RopeConfig};
use rope::Rope;

/// Logits are formed for at most so many values at once.
const LOGIT_VALUES: usize = 1 << 23;

/// The parameters of a norm over the last dimension.
#[derive(Debug)]
pub struct Norm {
    /// What normed values are multiplied by.
    pub gain: Tensor,
    /// What is then added. With it the norm is by mean and variance (LayerNorm), without it by the
    /// root mean square (RMSNorm).
    pub bias: Option<Tensor>,
}

/// The weights of one block. Matrices are `(out, in)`.
#[derive(Debug)]
pub struct Block {
    /// The norm before attention, `(d)`.
    pub attention_norm: Norm,
    /// Query, key and value projections, one below the other,
    /// `((heads + 2 kv_heads) head_dim, d)`.
    pub qkv: Tensor,
    /// Bias of these projections, `((heads + 2 kv_heads) head_dim)`.
    pub qkv_bias: Option<Tensor>,
    /// The norm of each query head before rotation, `(head_dim)`.
    pub query_norm: Option<Norm>,
    /// The norm of each key head before rotation, `(head_dim)`.
    pub key_norm: Option<Norm>,
    /// Output projection of attention, `(d, heads head_dim)`.
    pub output: Tensor,
    /// The norm before the MLP, `(d)`.
    pub mlp_norm: Norm,
    /// Gate and up projections, one below the other, `(2 intermediate_size, d)`.
    pub gate_up: Tensor,
    /// Down projection, `(d, intermediate_size)`.
    pub down: Tensor,
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
    pub unembedding: Tensor,
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
    rope: Rope,
    device: Device,
}

impl Decoder {
    /// Puts configuration and weights together; shapes are the caller's to check.
    pub fn new(config: DecoderConfig, weights: Weights, device: Device) -> Self {
        let rope = Rope::new(&config.rope, config.head_dim);
        Self {
            config,
            weights,
            rope,
            device,
        }
    }

    /// The hidden states after the final norm at `batch.outputs`, shape `(outputs, d)`, f32.
    pub fn hidden_states(&self, batch: &PackedBatch) -> Result<Tensor> {
        let tokens = Tensor::new(&batch.tokens[..], &self.device)?;
        let mut hidden = self.weights.embedding.index_select(&tokens, 0)?;
        if let Some(scale) = self.config.embedding_scale {
            hidden = (hidden * scale)?;
        }
        let (cos, sin) = self.rope.at(&batch.positions, &self.device)?;
        for block in &self.weights.blocks {
            hidden = (&hidden + self.attention(block, &hidden, batch, &cos, &sin)?)?;
            hidden = (&hidden + self.mlp(block, &hidden)?)?;
        }
        let outputs = Tensor::new(&batch.outputs[..], &self.device)?;
        let hidden = hidden.index_select(&outputs, 0)?;
        self.norm(&hidden, &self.weights.final_norm)?
            .to_dtype(DType::F32)
    }

    /// `ln p(target)` at each row of `hidden`, shape `(rows, d)`, as [`Self::hidden_states`]
    /// returns it; nats.
    pub fn log_probs(&self, hidden: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        let rows_at_once = (LOGIT_VALUES / self.config.vocab_size).max(1);
        let unembedding = self.weights.unembedding.t()?;
        let mut log_probs = Vec::with_capacity(targets.len());
        for (chunk, targets) in targets.chunks(rows_at_once).enumerate() {
            let hidden = hidden.narrow(0, chunk * rows_at_once, targets.len())?;
            let logits = hidden.matmul(&unembedding)?;
            let targets = Tensor::new(targets, &self.device)?.unsqueeze(1)?;
            let of_targets = logits.gather(&targets, 1)?.squeeze(1)?;
            let log_prob = (of_targets - logits.log_sum_exp(D::Minus1)?)?;
            log_probs.extend(log_prob.to_vec1::<f32>()?);
        }
        Ok(log_probs)
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn norm(&self, hidden: &Tensor, norm: &Norm) -> Result<Tensor> {
        let eps = self.config.norm_eps as f32;
        match &norm.bias {
            None => rms_norm(hidden, &norm.gain, eps),
            Some(bias) => layer_norm(hidden, &norm.gain, bias, eps),
        }
    }

    fn attention(
        &self,
        block: &Block,
        hidden: &Tensor,
        batch: &PackedBatch,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<Tensor> {
        let DecoderConfig {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.config;
        let tokens = hidden.dim(0)?;
        let normed = self.norm(hidden, &block.attention_norm)?;
        let mut qkv = normed.matmul(&block.qkv.t()?)?;
        if let Some(bias) = &block.qkv_bias {
            qkv = qkv.broadcast_add(bias)?;
        }
        if let Some(clip) = self.config.clip_qkv {
            qkv = qkv.clamp(-clip, clip)?;
        }
        let part = |first: usize, heads: usize| {
            qkv.narrow(1, first * head_dim, heads * head_dim)?
                .contiguous()?
                .reshape((1, tokens, heads, head_dim))
        };
        let normed = |heads: Tensor, norm: &Option<Norm>| match norm {
            None => Ok(heads),
            Some(norm) => self.norm(&heads, norm),
        };
        let queries = normed(part(0, heads)?, &block.query_norm)?;
        let keys = normed(part(heads, kv_heads)?, &block.key_norm)?;
        let queries = Rope::rotate(&queries, cos, sin)?.squeeze(0)?;
        let keys = Rope::rotate(&keys, cos, sin)?.squeeze(0)?;
        let values = part(heads + kv_heads, kv_heads)?.squeeze(0)?;
        let window = self.config.sliding_window;
        attention::attend(&queries, &keys, &values, &batch.segments, window)?
            .matmul(&block.output.t()?)
    }

    fn mlp(&self, block: &Block, hidden: &Tensor) -> Result<Tensor> {
        let normed = self.norm(hidden, &block.mlp_norm)?;
        let gate_up = normed.matmul(&block.gate_up.t()?)?;
        let width = self.config.intermediate_size;
        let gate = gate_up
            .narrow(1, 0, width)?
            .apply(&self.config.activation)?;
        let up = gate_up.narrow(1, width, width)?;
        (gate * up)?.matmul(&block.down.t()?)
    }
}
