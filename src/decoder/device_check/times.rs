//! Where the time of a forward pass goes, by kind of step.

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor};

use crate::decoder::attention::{Attention, Segment};
use crate::decoder::backend::{Backend, Heads, Sums};
use crate::decoder::rope::Table;
use crate::decoder::tensors::{Angles, AttentionPattern, TensorBackend};
use crate::decoder::{Decoder, Linear, Norm, PackedBatch, Readout};

/// The time of a forward pass, the device waited for after each step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Attention, with the norms and rotation of its queries and keys.
    pub attention: Duration,
    /// Products with matrices of weights.
    pub products: Duration,
    /// Norms, activations, and sums of the residual stream.
    pub norms: Duration,
    /// The rest, most of it on the host: embeddings, rotations and patterns laid out, results read.
    pub host: Duration,
}

impl Decoder {
    /// Runs a batch without its predictions, and tells what took how long.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step_times(&self, batch: &PackedBatch) -> Result<StepTimes> {
        let batch = PackedBatch {
            predictions: Vec::new(),
            ..batch.clone()
        };
        let steps = Timed {
            steps: self.tensors(),
            device: &self.device,
            attention: Cell::default(),
            products: Cell::default(),
            norms: Cell::default(),
        };
        self.device.synchronize()?;
        let began = Instant::now();
        let hidden = self.hidden_states(&steps, &batch)?.hidden;
        let lengths: Vec<usize> = batch
            .readouts
            .iter()
            .map(|read| read.tokens.len())
            .collect();
        steps.sums(&hidden, &lengths)?;
        if batch.readouts.iter().any(Readout::has_targets) {
            self.log_probs(&steps, &batch, |_| true, &hidden, &self.weights.unembedding)?;
        }
        self.device.synchronize()?;
        let [attention, products, norms] =
            [&steps.attention, &steps.products, &steps.norms].map(Cell::get);
        Ok(StepTimes {
            attention,
            products,
            norms,
            host: began.elapsed().saturating_sub(attention + products + norms),
        })
    }
}

/// Steps whose times are added up.
struct Timed<'a> {
    steps: TensorBackend<'a>,
    device: &'a Device,
    attention: Cell<Duration>,
    products: Cell<Duration>,
    norms: Cell<Duration>,
}

impl Timed<'_> {
    fn within<T>(&self, spent: &Cell<Duration>, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = step()?;
        self.device.synchronize()?;
        spent.set(spent.get() + began.elapsed());
        Ok(result)
    }
}

impl Backend for Timed<'_> {
    type Rows = Tensor;
    type Angles = Angles;
    type Pattern = AttentionPattern;

    fn angles(&self, table: Table) -> Result<Angles> {
        self.steps.angles(table)
    }

    fn pattern(&self, segments: &[Segment], queries: &[Range<usize>]) -> Result<AttentionPattern> {
        self.steps.pattern(segments, queries)
    }

    fn embed(&self, embedding: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        self.steps.embed(embedding, tokens)
    }

    fn normed(&self, rows: &Tensor, norm: &Norm) -> Result<Tensor> {
        self.within(&self.norms, || self.steps.normed(rows, norm))
    }

    fn linear(&self, rows: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.within(&self.products, || self.steps.linear(rows, linear))
    }

    fn attend(
        &self,
        qkv: Tensor,
        pattern: &AttentionPattern,
        heads: Heads<Angles>,
        attention: Attention,
    ) -> Result<Tensor> {
        self.within(&self.attention, || {
            self.steps.attend(qkv, pattern, heads, attention)
        })
    }

    fn activated(&self, up: Tensor) -> Result<Tensor> {
        self.within(&self.norms, || self.steps.activated(up))
    }

    fn sum(&self, rows: &Tensor, branch: Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        self.within(&self.norms, || self.steps.sum(rows, branch, norm))
    }

    fn select(&self, rows: &Tensor, which: &[u32]) -> Result<Tensor> {
        self.steps.select(rows, which)
    }

    fn part(&self, rows: &Tensor, range: Range<usize>) -> Result<Tensor> {
        self.steps.part(rows, range)
    }

    fn stack(&self, parts: Vec<Tensor>) -> Result<Tensor> {
        self.steps.stack(parts)
    }

    fn sums(&self, rows: &Tensor, lengths: &[usize]) -> Result<Vec<Sums>> {
        self.steps.sums(rows, lengths)
    }

    fn log_probs(&self, logits: Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        self.steps.log_probs(logits, targets)
    }
}
