//! What computes the steps of a forward pass: the CPU, or a device by candle.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::attention::{Attention, Segment};
use super::rope::Table;
use super::{Linear, Norm};

/// What a forward pass consists of. Rows are tokens.
pub(super) trait Backend {
    /// Activations, `(tokens, width)`.
    type Rows;
    /// Cosines and sines of a batch's positions.
    type Angles;
    /// Which tokens attend to which, made ready for [`Self::attend`].
    type Pattern;

    /// Makes a table ready for [`Self::attend`].
    fn angles(&self, table: Table) -> Result<Self::Angles>;

    /// Segments of which a range of tokens each is computed, `queries`: they attend to the segment's
    /// context and to its own tokens up to themselves.
    fn pattern(&self, segments: &[Segment], queries: &[Range<usize>]) -> Result<Self::Pattern>;

    /// The embeddings of tokens, scaled if the model scales them.
    fn embed(&self, embedding: &Tensor, tokens: &[u32]) -> Result<Self::Rows>;

    /// Rows, normed.
    fn normed(&self, rows: &Self::Rows, norm: &Norm) -> Result<Self::Rows>;

    /// A linear map of each row.
    fn linear(&self, rows: &Self::Rows, linear: &Linear) -> Result<Self::Rows>;

    /// Attention within the segments, from query, key and value projections that were not clipped,
    /// normed or rotated yet. The rows that it gives are those of the pattern's queries, one after
    /// another.
    fn attend(
        &self,
        qkv: Self::Rows,
        pattern: &Self::Pattern,
        heads: Heads<Self::Angles>,
        attention: Attention,
    ) -> Result<Self::Rows>;

    /// The inner layer of the MLP from its projection.
    fn activated(&self, up: Self::Rows) -> Result<Self::Rows>;

    /// Rows plus what a branch adds to them, which is normed first if there is a norm.
    fn sum(&self, rows: &Self::Rows, branch: Self::Rows, norm: Option<&Norm>)
    -> Result<Self::Rows>;

    /// Some of the rows.
    fn select(&self, rows: &Self::Rows, which: &[u32]) -> Result<Self::Rows>;

    /// Consecutive rows.
    fn part(&self, rows: &Self::Rows, range: Range<usize>) -> Result<Self::Rows>;

    /// Rows one below the other.
    fn stack(&self, parts: Vec<Self::Rows>) -> Result<Self::Rows>;

    /// Rows reduced: so many for each of the results, one after another.
    fn sums(&self, rows: &Self::Rows, lengths: &[usize]) -> Result<Vec<Sums>>;

    /// `ln p(target)` at each row of logits, nats.
    fn log_probs(&self, logits: Self::Rows, targets: &[u32]) -> Result<Vec<f32>>;
}

/// How a block's queries and keys are prepared for attention.
#[derive(Debug)]
pub(super) struct Heads<'a, A> {
    pub query_norm: Option<&'a Norm>,
    pub key_norm: Option<&'a Norm>,
    /// None leaves positions out.
    pub angles: Option<&'a A>,
}

/// Hidden states, reduced.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sums {
    /// Their sum, length `d`.
    pub sum: Vec<f64>,
    /// The last of them, length `d`.
    pub last: Vec<f32>,
}
