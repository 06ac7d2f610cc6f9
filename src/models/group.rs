//! What is asked of a model in one piece, and what it answers.

use crate::decoder::{Displacement, Predicted, Simulation};
use crate::texts::sequence::{Sequence, common_prefix, shared_prefix};

/// Sequences whose results belong together: the two responses of a pair, or one response alone.
#[derive(Debug)]
pub(crate) struct Group {
    /// The sequences, each with at least one prompt and one response token.
    pub sequences: Vec<Sequence>,
    /// The token that ends a response, if log-probabilities are asked for.
    pub end_token: Option<u32>,
    /// What is predicted of the pair that they are; takes log-probabilities.
    pub predicted: Predicted,
    shared: usize,
    /// Whether the first sequence is one of those whose positions are embedded otherwise.
    is_long: bool,
}

impl Group {
    /// Groups sequences. `long_from` is that of the decoder.
    pub(crate) fn new(
        sequences: Vec<Sequence>,
        end_token: Option<u32>,
        long_from: Option<usize>,
    ) -> Self {
        let is_long = sequences.first().is_some_and(|s| s.is_long(long_from));
        let are_alike = sequences.iter().all(|s| s.is_long(long_from) == is_long);
        let shared = if are_alike {
            shared_prefix(&sequences)
        } else {
            0
        };
        Self {
            sequences,
            end_token,
            predicted: Predicted::Nothing,
            shared,
            is_long,
        }
    }

    /// The same group, of which something is predicted.
    pub(crate) fn predicting(mut self, predicted: Predicted) -> Self {
        self.predicted = predicted;
        self
    }

    /// Tokens that a forward pass computes for this group by itself.
    pub(crate) fn tokens(&self) -> usize {
        let own = self.sequences.iter().map(|s| s.ids.len() - self.shared);
        self.shared + own.sum::<usize>()
    }

    /// How many fewer they are about when the group is computed together with another.
    pub(crate) fn tokens_shared_with(&self, other: &Self) -> usize {
        let (Some(own), Some(others)) = (self.sequences.first(), other.sequences.first()) else {
            return 0;
        };
        if self.is_long != other.is_long {
            return 0;
        }
        let most = own.prompt_tokens.min(others.prompt_tokens);
        common_prefix(&own.ids, &others.ids).min(most)
    }
}

/// What a forward pass gives of a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupOutput {
    /// For each of its sequences.
    pub embeddings: Vec<Embedding>,
    /// What was predicted.
    pub displacement: Option<Displacement>,
    /// The effect of a step.
    pub simulation: Option<Simulation>,
}

/// What is kept of a sequence: hidden states of the response's positions, reduced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embedding {
    /// Sum of the hidden states, `S`, length `d`.
    pub sum: Vec<f64>,
    /// The last hidden state, length `d`.
    pub last: Vec<f32>,
    /// Number of hidden states in the sum, `m`.
    pub contexts: usize,
    /// Sum of the targets' log-probabilities, nats; none if not asked for.
    pub log_prob: Option<f64>,
}
