//! One decoder-only transformer for every family: a configuration and weights in, hidden states
//! and log-probabilities out.
//!
//! Sequences are packed one after another without padding; a segment may continue another one
//! (a response after its prompt), whose keys and values it then attends to. No state outlives a
//! call.

mod attention;
mod config;
mod rope;

use candle_core::quantized::QTensor;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

pub use attention::Segment;
use attention::{Attention, soft_cap};
pub use config::{DecoderConfig, LayerConfig, LongRope, RopeConfig};
use rope::{Angles, Rope};

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

    /// Of rows `(n, in)`: `(n, out)`.
    fn of(&self, rows: &Tensor) -> Result<Tensor> {
        let product = self.weight.times(rows)?;
        match &self.bias {
            None => Ok(product),
            Some(bias) => product.broadcast_add(bias),
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

impl Matrix {
    fn times(&self, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => rows.matmul(&weight.t()?),
            Self::Quantised(pieces) => {
                let times = |piece: &QTensor| {
                    let piece = piece.dequantize(rows.device())?.to_dtype(rows.dtype())?;
                    rows.matmul(&piece.t()?)
                };
                let columns = pieces.iter().map(times).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&columns, 1)
            }
        }
    }
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

    /// The hidden states after the final norm at `batch.outputs`, shape `(outputs, d)`, f32.
    ///
    /// Matrices multiply in the type of the weights; what blocks add to one another is f32, and
    /// so are norms.
    pub fn hidden_states(&self, batch: &PackedBatch) -> Result<Tensor> {
        let tokens = Tensor::new(&batch.tokens[..], &self.device)?;
        let embedded = self.weights.embedding.index_select(&tokens, 0)?;
        let mut hidden = embedded.to_dtype(DType::F32)?;
        if let Some(scale) = self.config.embedding_scale {
            hidden = (hidden * scale)?;
        }
        let angles = |rope: &Rope| rope.at(batch, &self.device);
        let angles = self.ropes.iter().map(angles).collect::<Result<Vec<_>>>()?;
        for (block, layer) in self.weights.blocks.iter().zip(&self.config.layers) {
            let rope = layer.rope.map(|rope| (&self.ropes[rope], &angles[rope]));
            let attended = self.attention(block, &hidden, batch, layer.sliding_window, rope)?;
            let after = (&hidden + attended)?;
            let read_by_mlp = if self.config.parallel_residual {
                &hidden
            } else {
                &after
            };
            hidden = (&after + self.mlp(block, read_by_mlp)?)?;
        }
        let outputs = Tensor::new(&batch.outputs[..], &self.device)?;
        let hidden = hidden.index_select(&outputs, 0)?;
        self.norm(&hidden, &self.weights.final_norm)
    }

    /// `ln p(target)` at each row of `hidden`, shape `(rows, d)`, as [`Self::hidden_states`]
    /// returns it; nats.
    pub fn log_probs(&self, hidden: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        let rows_at_once = (LOGIT_VALUES / self.config.vocab_size).max(1);
        let hidden = hidden.to_dtype(self.dtype())?;
        let mut log_probs = Vec::with_capacity(targets.len());
        for (chunk, targets) in targets.chunks(rows_at_once).enumerate() {
            let hidden = hidden.narrow(0, chunk * rows_at_once, targets.len())?;
            let logits = self.weights.unembedding.of(&hidden)?.to_dtype(DType::F32)?;
            let logits = soft_cap(logits, self.config.logit_cap)?;
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

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.weights.embedding.dtype()
    }

    fn norm(&self, hidden: &Tensor, norm: &Norm) -> Result<Tensor> {
        let eps = self.config.norm_eps as f32;
        match &norm.bias {
            None => rms_norm(hidden, &norm.gain, eps),
            Some(bias) => layer_norm(hidden, &norm.gain, bias, eps),
        }
    }

    /// The input of a linear map: hidden states normed, if they are, in the weights' type.
    fn normed(&self, hidden: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let normed = norm.map(|norm| self.norm(hidden, norm)).transpose()?;
        normed.as_ref().unwrap_or(hidden).to_dtype(self.dtype())
    }

    /// What a branch adds to the hidden states.
    fn post_normed(&self, output: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let output = output.to_dtype(DType::F32)?;
        match norm {
            None => Ok(output),
            Some(norm) => self.norm(&output, norm),
        }
    }

    /// Queries or keys, `(tokens, width)`, normed in groups as wide as the norm; f32.
    fn normed_heads(&self, heads: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let heads = heads.to_dtype(DType::F32)?;
        let Some(norm) = norm else {
            return Ok(heads);
        };
        let (tokens, width) = heads.dims2()?;
        let of_norm = norm.gain.dim(0)?;
        self.norm(&heads.reshape((tokens, width / of_norm, of_norm))?, norm)
    }

    fn attention(
        &self,
        block: &Block,
        hidden: &Tensor,
        batch: &PackedBatch,
        window: Option<usize>,
        rope: Option<(&Rope, &Angles)>,
    ) -> Result<Tensor> {
        let DecoderConfig {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.config;
        let tokens = hidden.dim(0)?;
        let normed = self.normed(hidden, block.attention_norm.as_ref())?;
        let mut qkv = block.qkv.of(&normed)?;
        if let Some(clip) = self.config.clip_qkv {
            qkv = qkv.clamp(-clip, clip)?;
        }
        let part = |first: usize, heads: usize| {
            qkv.narrow(1, first * head_dim, heads * head_dim)?
                .contiguous()
        };
        let rotated = |first: usize, heads: usize, norm: Option<&Norm>| {
            let heads = self
                .normed_heads(&part(first, heads)?, norm)?
                .reshape((1, tokens, heads, head_dim))?;
            let rotated = match rope {
                None => heads,
                Some((rope, angles)) => rope.rotate(&heads, angles)?,
            };
            rotated.squeeze(0)?.to_dtype(self.dtype())
        };
        let queries = rotated(0, heads, block.query_norm.as_ref())?;
        let keys = rotated(heads, kv_heads, block.key_norm.as_ref())?;
        let values = part(heads + kv_heads, kv_heads)?.reshape((tokens, kv_heads, head_dim))?;
        let attention = Attention {
            scale: self.config.attention_scale,
            cap: self.config.attention_cap,
            window,
        };
        let attended = attention::attend(&queries, &keys, &values, &batch.segments, attention)?;
        let output = block.output.of(&attended)?;
        self.post_normed(&output, block.attention_post_norm.as_ref())
    }

    fn mlp(&self, block: &Block, hidden: &Tensor) -> Result<Tensor> {
        let normed = self.normed(hidden, block.mlp_norm.as_ref())?;
        let up = block.up.of(&normed)?;
        let activation = &self.config.activation;
        let inner = if self.config.gated_mlp {
            let width = self.config.intermediate_size;
            let gate = up.narrow(1, 0, width)?.apply(activation)?;
            (gate * up.narrow(1, width, width)?)?
        } else {
            up.apply(activation)?
        };
        let output = block.down.of(&inner)?;
        self.post_normed(&output, block.mlp_post_norm.as_ref())
    }
}
