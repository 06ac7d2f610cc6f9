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
