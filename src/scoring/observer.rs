//! Watching a scorer at work.

use std::fmt::Debug;

/// Told what a [`ModelScorer`](crate::ModelScorer) does, as it does it, on the threads that do
/// it: for showing progress, or for counting. Calls overlap.
pub trait Observer: Debug + Send + Sync + 'static {
    /// A call of the scorer began.
    fn began(&self) {}

    /// Rows have their scores; `tokens` is the length of their prompts and responses.
    fn scored(&self, _rows: usize, _tokens: usize) {}

    /// Of the rows that have their scores, so many were remembered from before, or computed for
    /// somebody else at the same time.
    fn remembered(&self, _rows: usize) {}

    /// Rows have their scores, from the cache (`ches.cache`).
    fn cached(&self, _rows: usize, _tokens: usize) {}

    /// A call of the scorer ended, or was dropped.
    fn ended(&self) {}
}

/// Watches nothing.
#[derive(Debug)]
pub(crate) struct NoopObserver;

impl Observer for NoopObserver {}
