//! How many tokens one forward pass may have.

use ches_udfs::ChesSettings;

use crate::decoder::Predicted;
use crate::memory;
use crate::model::Model;

/// On CPU more tokens at once gain nothing, and activations grow.
const ON_CPU: usize = 1024;

/// A GPU needs many to be busy.
const ON_GPU: usize = 16_384;

/// Tokens of forward passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Of one with several rows.
    pub batch_tokens: usize,
    /// Of one with a single row, which has no smaller part. 0 where memory allows none.
    pub row_tokens: usize,
}

impl Budget {
    /// The budget of a session with this model.
    pub fn of(model: &Model, settings: &ChesSettings, predicted: Predicted) -> Self {
        let within = |bytes| model.config().tokens_within(bytes, predicted);
        let row_tokens = match settings.memory_limit {
            0 if model.is_on_cpu() => within(memory::available() / 2),
            0 => usize::MAX,
            bytes => within(bytes as u64),
        };
        let batch_tokens = match settings.batch_tokens {
            0 if model.is_on_cpu() => ON_CPU,
            0 => ON_GPU,
            tokens => tokens,
        };
        Self {
            batch_tokens: batch_tokens.min(row_tokens).max(1),
            row_tokens,
        }
    }
}
