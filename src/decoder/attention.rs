//! Which tokens attend to which.

use std::ops::Range;

/// A run of packed tokens that attend to one another, causally, and to all of `context`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The segment's own tokens.
    pub own: Range<usize>,
    /// The tokens that come before them in their sequence, in its order.
    pub context: Vec<Range<usize>>,
    /// Tokens of the whole sequence that they belong to; of any, if several share them.
    pub sequence_tokens: usize,
}

/// Segments, and which of their tokens are computed.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub segments: Vec<Segment>,
    /// A range of each segment's own tokens; may be empty.
    pub queries: Vec<Range<usize>>,
}

impl Pattern {
    pub(super) fn new(segments: &[Segment], queries: &[Range<usize>]) -> Self {
        Self {
            segments: segments.to_vec(),
            queries: queries.to_vec(),
        }
    }

    /// The segments of which anything is computed, and what.
    pub(super) fn computed(&self) -> impl Iterator<Item = (&Segment, Range<usize>)> {
        let all = self.segments.iter().zip(self.queries.iter().cloned());
        all.filter(|(_, queries)| !queries.is_empty())
    }
}

/// How one block attends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    /// Products of queries and keys are multiplied by this.
    pub scale: f64,
    /// Then `x` becomes `cap · tanh(x / cap)`.
    pub cap: Option<f64>,
    /// A query sees so many of the keys up to its own.
    pub window: Option<usize>,
}
