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

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result, Tensor};

use attention::Attention;
pub use attention::Segment;
pub use config::{DecoderConfig, LayerConfig, LongRope, RopeConfig};
use cpu::{Cpu, Packed};
use rope::Rope;
use steps::{Heads, Steps, Sums};
use tensors::Tensors;

/// So many logits are formed at once.
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
    /// Plain numbers, laid out for this machine's processor.
    Packed(Packed),
}

impl Linear {
    /// The same map, laid out for this machine's processor if that helps.
    fn packed(&self) -> Result<Option<Self>> {
        let Matrix::Dense(weight) = &self.weight else {
            return Ok(None);
        };
        let Some(packed) = Packed::new(weight) else {
            return Ok(None);
        };
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(DType::F32));
        Ok(Some(Self {
            weight: Matrix::Packed(packed),
            bias: bias.transpose()?,
        }))
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
    /// What is read of the result, one for each sequence.
    pub reads: Vec<Read>,
}

/// What is read of one sequence.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Indices into the packed tokens whose hidden states are summed up.
    pub tokens: Vec<u32>,
    /// The token that follows each of the first of them, for its log-probability. None if
    /// log-probabilities are not wanted.
    pub targets: Vec<u32>,
}

impl Read {
    fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }
}

/// A decoder-only transformer.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    weights: Weights,
    ropes: Vec<Rope>,
    device: Device,
    /// The unembedding, laid out for this machine's processor beside the embedding that it is; when
    /// it was first needed.
    packed_unembedding: OnceLock<Option<Linear>>,
}

/// What a forward pass gives of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The sum of the hidden states, length `d`.
    pub sum: Vec<f64>,
    /// The last of them, length `d`.
    pub last: Vec<f32>,
    /// The sum of the targets' log-probabilities, nats, if there are targets.
    pub log_prob: Option<f64>,
}

/// Which tokens are computed on in a block: of each segment those of a range of packed tokens.
#[derive(Debug)]
struct Queries(Vec<Range<usize>>);

impl Queries {
    /// All of them.
    fn all(batch: &PackedBatch) -> Self {
        Self(batch.segments.iter().map(|s| s.own.clone()).collect())
    }

    /// Those that are read, and what lies between them.
    fn read(batch: &PackedBatch) -> Self {
        let mut is_read = vec![false; batch.tokens.len()];
        for token in batch.reads.iter().flat_map(|read| &read.tokens) {
            is_read[*token as usize] = true;
        }
        let of_segment = |segment: &Segment| {
            let own = &is_read[segment.own.clone()];
            let first = own.iter().position(|is_read| *is_read);
            let last = own.iter().rposition(|is_read| *is_read);
            match (first, last) {
                (Some(first), Some(last)) => {
                    segment.own.start + first..segment.own.start + last + 1
                }
                _ => segment.own.start..segment.own.start,
            }
        };
        Self(batch.segments.iter().map(of_segment).collect())
    }

    /// Their tokens, one after another.
    fn tokens(&self) -> Vec<u32> {
        self.0
            .iter()
            .cloned()
            .flatten()
            .map(|token| token as u32)
            .collect()
    }

    fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }
}

impl Decoder {
    /// Puts configuration and weights together; shapes are the caller's to check.
    pub fn new(config: DecoderConfig, weights: Weights, device: Device) -> Self {
        Self {
            ropes: config.ropes.iter().map(Rope::new).collect(),
            config,
            weights,
            device,
            packed_unembedding: OnceLock::new(),
        }
    }

    /// Lays out the weights for this machine's processor, on CPU.
    pub fn packed(mut self) -> Result<Self> {
        if !self.is_on_cpu() {
            return Ok(self);
        }
        let weights = &mut self.weights;
        let of_blocks = weights.blocks.iter_mut().flat_map(|block| {
            let Block {
                qkv,
                output,
                up,
                down,
                ..
            } = block;
            [qkv, output, up, down]
        });
        let is_tied = match &weights.unembedding.weight {
            Matrix::Dense(weight) => weight.id() == weights.embedding.id(),
            _ => false,
        };
        let own = (!is_tied).then_some(&mut weights.unembedding);
        for linear in of_blocks.chain(own) {
            if let Some(packed) = linear.packed()? {
                *linear = packed;
            }
        }
        Ok(self)
    }

    /// The unembedding, laid out if that helps.
    fn packed_unembedding(&self) -> Result<&Linear> {
        let linear = &self.weights.unembedding;
        let packed = match self.packed_unembedding.get() {
            Some(packed) => packed,
            None => {
                let packed = linear.packed()?;
                self.packed_unembedding.get_or_init(|| packed)
            }
        };
        Ok(packed.as_ref().unwrap_or(linear))
    }

    /// One forward pass: an output for each of `batch.reads`, in order.
    pub fn run(&self, batch: &PackedBatch) -> Result<Vec<Output>> {
        let config = &self.config;
        let unembedding = &self.weights.unembedding;
        match self.device {
            Device::Cpu if self.is_packed() && batch.reads.iter().any(Read::has_targets) => {
                self.run_by(&Cpu { config }, batch, self.packed_unembedding()?)
            }
            Device::Cpu => self.run_by(&Cpu { config }, batch, unembedding),
            _ => self.run_by(&self.tensors(), batch, unembedding),
        }
    }

    /// Whether blocks are laid out for this machine's processor.
    fn is_packed(&self) -> bool {
        let mut weights = self.weights.blocks.iter().map(|block| &block.qkv.weight);
        weights.any(|weight| matches!(weight, Matrix::Packed(_)))
    }

    /// Whether it computes on CPU.
    pub fn is_on_cpu(&self) -> bool {
        self.device.is_cpu()
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
        unembedding: &Linear,
    ) -> Result<Vec<Output>> {
        let hidden = self.hidden_states(steps, batch)?;
        let lengths: Vec<usize> = batch.reads.iter().map(|read| read.tokens.len()).collect();
        let mut log_probs = self
            .log_probs(steps, batch, &hidden, unembedding)?
            .into_iter();
        let sums = steps.sums(&hidden, &lengths)?.into_iter();
        let output = |(sums, read): (Sums, &Read)| {
            let of_targets = log_probs.by_ref().take(read.targets.len());
            let log_prob = of_targets.map(f64::from).sum();
            Output {
                sum: sums.sum,
                last: sums.last,
                log_prob: read.has_targets().then_some(log_prob),
            }
        };
        Ok(sums.zip(&batch.reads).map(output).collect())
    }

    /// `ln p(target)` of every target. Rows of `hidden` are those that are read.
    fn log_probs<S: Steps>(
        &self,
        steps: &S,
        batch: &PackedBatch,
        hidden: &S::Rows,
        unembedding: &Linear,
    ) -> Result<Vec<f32>> {
        let (mut rows, mut targets, mut first) = (Vec::new(), Vec::new(), 0);
        for read in &batch.reads {
            rows.extend((first..).take(read.targets.len()));
            targets.extend_from_slice(&read.targets);
            first += read.tokens.len() as u32;
        }
        let at_once = (LOGIT_VALUES / self.config.vocab_size).max(1);
        let mut log_probs = Vec::with_capacity(targets.len());
        for (rows, targets) in rows.chunks(at_once).zip(targets.chunks(at_once)) {
            let hidden = steps.select(hidden, rows)?;
            let logits = steps.linear(&hidden, unembedding)?;
            log_probs.extend(steps.log_probs(logits, targets)?);
        }
        Ok(log_probs)
    }

    /// The hidden states after the final norm of all tokens that are read, in the reads' order.
    fn hidden_states<S: Steps>(&self, steps: &S, batch: &PackedBatch) -> Result<S::Rows> {
        let mut hidden = steps.embed(&self.weights.embedding, &batch.tokens)?;
        let angles = self.ropes.iter().map(|rope| steps.angles(rope.at(batch)));
        let angles = angles.collect::<Result<Vec<_>>>()?;
        let mut queries = Queries::all(batch);
        let mut pattern = steps.pattern(&batch.segments, &queries.0)?;
        let layers = self.weights.blocks.iter().zip(&self.config.layers);
        for (number, (block, layer)) in layers.enumerate() {
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
            let qkv = of_normed(steps, &hidden, block.attention_norm.as_ref(), &block.qkv)?;
            if number + 1 == self.config.layers.len() {
                // Of the last block only what is read matters.
                queries = Queries::read(batch);
                pattern = steps.pattern(&batch.segments, &queries.0)?;
                hidden = steps.select(&hidden, &queries.tokens())?;
            }
            let attended = steps.attend(qkv, &pattern, heads, attention)?;
            let attended = steps.linear(&attended, &block.output)?;
            let after = steps.sum(&hidden, attended, block.attention_post_norm.as_ref())?;
            let read_by_mlp = if self.config.parallel_residual {
                &hidden
            } else {
                &after
            };
            let down = self.mlp(steps, block, read_by_mlp, queries.len())?;
            hidden = steps.sum(&after, down, block.mlp_post_norm.as_ref())?;
        }
        let mut row_of = vec![0; batch.tokens.len()];
        for (row, token) in (0..).zip(queries.tokens()) {
            row_of[token as usize] = row;
        }
        let read = batch.reads.iter().flat_map(|read| &read.tokens);
        let read: Vec<u32> = read.map(|token| row_of[*token as usize]).collect();
        let hidden = steps.select(&hidden, &read)?;
        steps.normed(&hidden, &self.weights.final_norm)
    }

    /// What the MLP adds to rows, of which so many at a time are widened that memory stays bounded.
    fn mlp<S: Steps>(
        &self,
        steps: &S,
        block: &Block,
        rows: &S::Rows,
        count: usize,
    ) -> Result<S::Rows> {
        let of_rows = |rows: &S::Rows| {
            let up = of_normed(steps, rows, block.mlp_norm.as_ref(), &block.up)?;
            steps.linear(&steps.activated(up)?, &block.down)
        };
        let at_once = self.config.mlp_rows();
        if count <= at_once {
            return of_rows(rows);
        }
        let firsts = (0..count).step_by(at_once);
        let parts = firsts.map(|first| {
            let part = steps.part(rows, first..count.min(first + at_once))?;
            of_rows(&part)
        });
        steps.stack(parts.collect::<Result<Vec<_>>>()?)
    }
}

fn of_normed<S: Steps>(
    steps: &S,
    rows: &S::Rows,
    norm: Option<&Norm>,
    linear: &Linear,
) -> Result<S::Rows> {
    match norm {
        None => steps.linear(rows, linear),
        Some(norm) => steps.linear(&steps.normed(rows, norm)?, linear),
    }
}

#[cfg(test)]
impl Decoder {
    /// As [`Self::run`], by the steps that other devices take.
    pub fn run_by_tensors(&self, batch: &PackedBatch) -> Result<Vec<Output>> {
        self.run_by(&self.tensors(), batch, &self.weights.unembedding)
    }
}
