//! How many tokens one forward pass may have.

use ches_udfs::{ChesSettings, QueryMemory};

use crate::decoder::{DecoderConfig, Predicted};
use crate::files::memory;
use crate::models::model::Model;

/// On CPU more tokens at once gain nothing, and activations grow.
const ON_CPU: usize = 1024;

/// A GPU needs many to be busy.
const ON_GPU: usize = 16_384;

/// Tokens of forward passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget<'a> {
    /// Of one with several rows.
    pub batch_tokens: usize,
    /// Of one with a single row, which has no smaller part. 0 where memory allows none.
    row_tokens: usize,
    config: &'a DecoderConfig,
    predicted: Predicted,
    /// What activations in the machine's own memory are accounted to.
    memory: Option<&'a QueryMemory>,
}

impl<'a> Budget<'a> {
    /// The budget of a call that asks for so many tokens `in_all`.
    pub(crate) fn of(
        model: &'a Model,
        settings: &ChesSettings,
        predicted: Predicted,
        memory: Option<&'a QueryMemory>,
        in_all: usize,
    ) -> Self {
        let config = model.config();
        let within = |bytes| config.tokens_within(bytes, predicted);
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
        let mut budget = Self {
            batch_tokens: batch_tokens.min(row_tokens).max(1),
            row_tokens,
            config,
            predicted,
            memory: memory.filter(|_| model.is_on_cpu()),
        };
        while budget.batch_tokens > 1 && !budget.is_had(budget.batch_tokens.min(in_all)) {
            budget.batch_tokens /= 2;
        }
        budget
    }

    /// Whether the pool has the memory for so many tokens at once.
    fn is_had(&self, tokens: usize) -> bool {
        let bytes = self.config.activation_bytes(tokens, self.predicted);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.memory.is_none_or(|memory| memory.take(bytes).is_ok())
    }

    /// Why a row of so many tokens cannot be computed, if it cannot.
    pub(crate) fn refusal(&self, tokens: usize) -> Option<String> {
        if self.row_tokens == 0 {
            return Some(format!(
                "a simulated step takes {} bytes and some for each token, more than memory allows \
                 (ches.memory_limit)",
                self.config.step_bytes()
            ));
        }
        if tokens > self.row_tokens {
            return Some(format!(
                "its {tokens} tokens are more than memory allows at once, {} (ches.memory_limit, \
                 ches.max_length)",
                self.row_tokens
            ));
        }
        if !self.is_had(tokens) {
            return Some(format!(
                "its {tokens} tokens take {} bytes, more than the session's memory pool has left \
                 (datafusion.runtime.memory_limit, ches.max_length)",
                self.config.activation_bytes(tokens, self.predicted)
            ));
        }
        None
    }
}
