//! One decoder-only transformer for every family: a configuration and weights in, hidden states
//! and log-probabilities out.
//!
//! Sequences are packed one after another without padding; a segment may continue another one
//! (a response after its prompt), whose keys and values it then attends to. No state outlives a
//! call.

mod attention;
mod backend;
mod config;
mod cpu;
mod device_check;
mod displacement;
mod gradient_backend;
mod predictions;
mod rope;
mod simulation;
mod tensors;
mod trace;

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result, Tensor};

use attention::Attention;
pub use attention::Segment;
use backend::{Backend, Heads, Sums};
pub use config::{DecoderConfig, LayerConfig, LongRope, RopeConfig};
use cpu::{CpuBackend, Packed};
pub use device_check::{AttentionShape, DeviceCheck, StepTimes, attend_on};
pub use displacement::Displacement;
use gradient_backend::GradientBackend;
use rope::Rope;
pub use simulation::Simulation;
pub use tensors::AttentionKernel;
use tensors::TensorBackend;
use trace::{BlockTrace, Keep, Tokens, Trace, TraceRows};

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

impl Block {
    /// How its queries and keys are prepared.
    fn heads<'a, A>(&'a self, layer: &LayerConfig, angles: &'a [A]) -> Heads<'a, A> {
        Heads {
            query_norm: self.query_norm.as_ref(),
            key_norm: self.key_norm.as_ref(),
            angles: layer.rope.map(|rope| &angles[rope]),
        }
    }
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
    pub readouts: Vec<Readout>,
    /// The pairs of which predictions are wanted.
    pub predictions: Vec<Prediction>,
}

/// What is predicted of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Predicted {
    /// Nothing.
    Nothing,
    /// First-order effects of training on it.
    Displacement,
    /// These, and the effect of one step of this learning rate.
    Step(f64),
}

impl PackedBatch {
    /// The tokens that are read, of one read after another.
    fn read_tokens(&self) -> impl Iterator<Item = u32> {
        self.readouts
            .iter()
            .flat_map(|read| read.tokens.iter().copied())
    }
}

/// A pair of which the effect of training is predicted.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The chosen response's number among the reads; it has targets.
    pub chosen: usize,
    /// The same of the rejected response.
    pub rejected: usize,
    /// Whether the two are the same tokens.
    pub is_same: bool,
    /// The first tokens of the two responses, in this order.
    pub first_tokens: [u32; 2],
    /// The pair by itself, if a step is simulated.
    pub alone: Option<Alone>,
}

/// A pair of a batch, packed by itself.
#[derive(Debug, Clone)]
pub struct Alone {
    /// By how much every entry of a matrix moves.
    pub step: f64,
    /// The pair; its reads are the chosen and the rejected response.
    pub batch: PackedBatch,
    /// For each of its tokens the token of the whole batch.
    pub tokens: Vec<u32>,
}

impl Alone {
    /// Its tokens before those that are read.
    fn unread(&self) -> Vec<u32> {
        let read = Queries::read(&self.batch).tokens();
        let all = 0..self.batch.tokens.len() as u32;
        all.filter(|token| read.binary_search(token).is_err())
            .collect()
    }
}

/// What is read of one sequence.
#[derive(Debug, Clone, Default)]
pub struct Readout {
    /// Indices into the packed tokens whose hidden states are summed up.
    pub tokens: Vec<u32>,
    /// The token that follows each of the first of them, for its log-probability. None if
    /// log-probabilities are not wanted.
    pub targets: Vec<u32>,
}

/// The former name of [`Readout`].
#[deprecated(since = "0.1.0", note = "renamed to `Readout`")]
pub type Read = Readout;

impl Readout {
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
    /// Whether it takes its steps as devices do, on a CPU too.
    by_tensors: bool,
    /// The unembedding, laid out for this machine's processor beside the embedding that it is; when
    /// it was first needed.
    packed_unembedding: OnceLock<Option<Linear>>,
}

/// What a forward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// For each of the batch's reads.
    pub readouts: Vec<Output>,
    /// For each of its predictions, with that of a step where one is simulated.
    pub predictions: Vec<(Displacement, Option<Simulation>)>,
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

/// What the blocks give.
struct Hidden<R> {
    /// The hidden states after the final norm of all tokens that are read, in the reads' order.
    hidden: R,
    /// What predictions need.
    trace: Option<Trace<R>>,
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
        for token in batch.readouts.iter().flat_map(|read| &read.tokens) {
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
            by_tensors: false,
            packed_unembedding: OnceLock::new(),
        }
    }

    /// Has it take its steps by candle's own operations, as on other devices, on a CPU too: slower there,
    /// and what tests of those steps run where there is no other device.
    pub fn by_tensors(mut self) -> Self {
        self.by_tensors = true;
        self
    }

    /// Lays out the weights for this machine's processor, on CPU.
    pub fn packed(mut self) -> Result<Self> {
        if !self.is_on_cpu() || self.by_tensors {
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

    /// One forward pass: what is read of it and predicted by it, in the order of the batch.
    pub fn run(&self, batch: &PackedBatch) -> Result<Outputs> {
        let config = &self.config;
        let unembedding = &self.weights.unembedding;
        match self.device {
            Device::Cpu if self.by_tensors => self.run_by(&self.tensors(), batch, unembedding),
            Device::Cpu if self.is_packed() && batch.readouts.iter().any(Readout::has_targets) => {
                self.run_by(&CpuBackend::new(config), batch, self.packed_unembedding()?)
            }
            Device::Cpu => self.run_by(&CpuBackend::new(config), batch, unembedding),
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
    fn tensors(&self) -> TensorBackend<'_> {
        TensorBackend {
            config: &self.config,
            device: &self.device,
            dtype: self.dtype(),
        }
    }

    fn run_by<S: GradientBackend>(
        &self,
        backend: &S,
        batch: &PackedBatch,
        unembedding: &Linear,
    ) -> Result<Outputs> {
        let Hidden { hidden, trace } = self.hidden_states(backend, batch)?;
        let lengths: Vec<usize> = batch
            .readouts
            .iter()
            .map(|read| read.tokens.len())
            .collect();
        let sums = backend.sums(&hidden, &lengths)?;
        // Those of predicted pairs fall out of their gradients, which are of f32.
        let fall_out = self.dtype() == DType::F32;
        let mut is_known = vec![false; batch.readouts.len()];
        for prediction in batch.predictions.iter().filter(|_| fall_out) {
            is_known[prediction.chosen] = true;
            is_known[prediction.rejected] = true;
        }
        let others = |at: usize| !is_known[at];
        let mut log_probs = self.log_probs(backend, batch, others, &hidden, unembedding)?;
        drop(hidden);
        let mut predictions = Vec::with_capacity(batch.predictions.len());
        if let Some(trace) = &trace {
            for (displacement, simulation) in self.predict(backend, batch, trace, unembedding)? {
                let prediction = &batch.predictions[predictions.len()];
                let reads = [prediction.chosen, prediction.rejected];
                for (read, log_prob) in reads.into_iter().zip(displacement.log_probs) {
                    if is_known[read] {
                        log_probs[read] = log_prob;
                    }
                }
                predictions.push((displacement, simulation));
            }
        }
        let reads = sums.into_iter().zip(&batch.readouts).zip(log_probs);
        let output = |((sums, read), log_prob): ((Sums, &Readout), f64)| Output {
            sum: sums.sum,
            last: sums.last,
            log_prob: read.has_targets().then_some(log_prob),
        };
        Ok(Outputs {
            readouts: reads.map(output).collect(),
            predictions,
        })
    }

    /// The sum of the targets' `ln p` of each read that `is_wanted`; 0 of others. Rows of `hidden`
    /// are those that are read.
    fn log_probs<S: Backend>(
        &self,
        backend: &S,
        batch: &PackedBatch,
        is_wanted: impl Fn(usize) -> bool,
        hidden: &S::Rows,
        unembedding: &Linear,
    ) -> Result<Vec<f64>> {
        let (mut rows, mut targets, mut read_of, mut first) = (vec![], vec![], vec![], 0);
        for (at, read) in batch.readouts.iter().enumerate() {
            if is_wanted(at) {
                rows.extend((first..).take(read.targets.len()));
                targets.extend_from_slice(&read.targets);
                read_of.extend(read.targets.iter().map(|_| at));
            }
            first += read.tokens.len() as u32;
        }
        let mut sums = vec![0.0; batch.readouts.len()];
        let mut read_of = read_of.into_iter();
        let at_once = self.logits_at_once();
        for (rows, targets) in rows.chunks(at_once).zip(targets.chunks(at_once)) {
            let hidden = backend.select(hidden, rows)?;
            let logits = backend.linear(&hidden, unembedding)?;
            let of_targets = backend.log_probs(logits, targets)?;
            for (log_prob, read) in of_targets.into_iter().zip(&mut read_of) {
                sums[read] += f64::from(log_prob);
            }
        }
        Ok(sums)
    }

    /// Rows whose logits are formed at once.
    fn logits_at_once(&self) -> usize {
        (LOGIT_VALUES / self.config.vocab_size).max(1)
    }

    /// Cosines and sines of a batch's positions, of each rotary embedding.
    fn angles<S: Backend>(&self, backend: &S, batch: &PackedBatch) -> Result<Vec<S::Angles>> {
        let angles = self.ropes.iter().map(|rope| backend.angles(rope.at(batch)));
        angles.collect()
    }

    /// How one block attends.
    fn attention(&self, layer: &LayerConfig) -> Attention {
        Attention {
            scale: self.config.attention_scale,
            cap: self.config.attention_cap,
            window: layer.sliding_window,
        }
    }

    /// All that comes before the unembedding.
    fn hidden_states<S: Backend>(
        &self,
        backend: &S,
        batch: &PackedBatch,
    ) -> Result<Hidden<S::Rows>> {
        let keep = Keep::of(batch);
        let kept_rows = (keep > Keep::Nothing).then(|| TraceRows::of(batch));
        let mut kept = Vec::new();
        let mut hidden = backend.embed(&self.weights.embedding, &batch.tokens)?;
        let angles = self.angles(backend, batch)?;
        let mut queries = Queries::all(batch);
        let mut pattern = backend.pattern(&batch.segments, &queries.0)?;
        let layers = self.weights.blocks.iter().zip(&self.config.layers);
        for (number, (block, layer)) in layers.enumerate() {
            let heads = block.heads(layer, &angles);
            let is_last = number + 1 == self.config.layers.len();
            let qkv = of_normed(backend, &hidden, block.attention_norm.as_ref(), &block.qkv)?;
            let held_qkv = match &kept_rows {
                Some(rows) if keep == Keep::AllBlocks => {
                    Some(backend.select(&qkv, &rows.held.tokens)?)
                }
                _ => None,
            };
            if is_last {
                // Of the last block only what is read matters.
                queries = Queries::read(batch);
                pattern = backend.pattern(&batch.segments, &queries.0)?;
                hidden = backend.select(&hidden, &queries.tokens())?;
            }
            let attended = backend.attend(qkv, &pattern, heads, self.attention(layer))?;
            let branch = backend.linear(&attended, &block.output)?;
            let after = backend.sum(&hidden, branch, block.attention_post_norm.as_ref())?;
            let read_by_mlp = if self.config.parallel_residual {
                &hidden
            } else {
                &after
            };
            if let Some(rows) = &kept_rows
                && (is_last || keep == Keep::AllBlocks)
            {
                let read = &rows.read.tokens;
                // Rows of the last block are those of the read tokens.
                let read = match is_last {
                    true => &(0..read.len() as u32).collect(),
                    false => read,
                };
                kept.push(BlockTrace {
                    attended: backend.select(&attended, read)?,
                    mlp_input: backend.select(read_by_mlp, read)?,
                    qkv: held_qkv,
                });
            }
            let down = self.mlp(backend, block, read_by_mlp, queries.len())?;
            hidden = backend.sum(&after, down, block.mlp_post_norm.as_ref())?;
        }
        let rows = Tokens::new(batch, queries.tokens());
        let read = backend.select(&hidden, &rows.rows(batch.read_tokens()))?;
        let normed = backend.normed(&read, &self.weights.final_norm)?;
        let trace = kept_rows.map(|rows| Trace {
            blocks: kept,
            output: hidden,
            rows,
        });
        Ok(Hidden {
            hidden: normed,
            trace,
        })
    }

    /// What the MLP adds to rows, of which so many at a time are widened that memory stays bounded.
    fn mlp<S: Backend>(
        &self,
        backend: &S,
        block: &Block,
        rows: &S::Rows,
        count: usize,
    ) -> Result<S::Rows> {
        let of_rows = |rows: &S::Rows| {
            let up = of_normed(backend, rows, block.mlp_norm.as_ref(), &block.up)?;
            backend.linear(&backend.activated(up)?, &block.down)
        };
        let at_once = self.config.mlp_rows();
        if count <= at_once {
            return of_rows(rows);
        }
        let firsts = (0..count).step_by(at_once);
        let parts = firsts.map(|first| {
            let part = backend.part(rows, first..count.min(first + at_once))?;
            of_rows(&part)
        });
        backend.stack(parts.collect::<Result<Vec<_>>>()?)
    }
}

fn of_normed<S: Backend>(
    backend: &S,
    rows: &S::Rows,
    norm: Option<&Norm>,
    linear: &Linear,
) -> Result<S::Rows> {
    match norm {
        None => backend.linear(rows, linear),
        Some(norm) => backend.linear(&backend.normed(rows, norm)?, linear),
    }
}
