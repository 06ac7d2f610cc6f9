//! Running sequences through a decoder: packing, batching, and what is kept of each sequence.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Result;

use crate::decoder::{Decoder, PackedBatch, Segment, Sums};
use crate::sequence::{Sequence, shared_prefix};

/// Tokens of one forward pass. On CPU more of them gain nothing, and activations grow.
const BATCH_TOKENS: usize = 1024;

/// Sequences that may share a beginning: the two responses of a pair, or one response alone.
#[derive(Debug)]
pub struct Group {
    /// The sequences, each with at least one prompt and one response token.
    pub sequences: Vec<Sequence>,
    shared: usize,
}

impl Group {
    /// Groups sequences of one prompt. Sequences of more tokens than `long_from` share nothing
    /// with others: their positions are embedded otherwise.
    pub fn new(sequences: Vec<Sequence>, long_from: Option<usize>) -> Self {
        let is_long = |sequence: &Sequence| long_from.is_some_and(|n| sequence.ids.len() > n);
        let are_alike = sequences
            .iter()
            .all(|s| is_long(s) == is_long(&sequences[0]));
        let shared = if are_alike {
            shared_prefix(&sequences)
        } else {
            0
        };
        Self { sequences, shared }
    }

    /// Tokens that a forward pass computes for this group.
    fn tokens(&self) -> usize {
        let own = self.sequences.iter().map(|s| s.ids.len() - self.shared);
        self.shared + own.sum::<usize>()
    }
}

/// What is kept of a sequence: hidden states of the response's positions, reduced.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Sum of the hidden states, `S`, length `d`.
    pub sum: Vec<f64>,
    /// The last hidden state, length `d`.
    pub last: Vec<f32>,
    /// Number of hidden states in the sum, `m`.
    pub contexts: usize,
    /// Sum of the targets' log-probabilities, nats; none if not asked for.
    pub log_prob: Option<f64>,
}

/// Nobody waits for the results any more.
#[derive(Debug, thiserror::Error)]
#[error("the query was dropped")]
pub struct Cancelled;

/// A decoder and what may be asked of it.
pub struct Engine<'a> {
    /// The decoder.
    pub decoder: &'a Decoder,
    /// The token that ends a response, if log-probabilities are asked for.
    pub end_token: Option<u32>,
    /// Set when nobody waits for the results any more.
    pub cancelled: &'a AtomicBool,
    /// Called for each group that was run.
    pub finished: &'a dyn Fn(&Group),
}

impl Engine<'_> {
    /// Runs every group; the results are in order, one embedding for each sequence. A batch
    /// that fails is run again group by group, so that a failure belongs to one group.
    ///
    /// # Errors
    /// Between two batches, once it is cancelled.
    pub fn run(
        &self,
        groups: &[Group],
    ) -> std::result::Result<Vec<Result<Vec<Embedding>>>, Cancelled> {
        let mut results = Vec::with_capacity(groups.len());
        for batch in batches(groups) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Cancelled);
            }
            let groups = &groups[batch];
            match self.forward(groups) {
                Ok(embeddings) => results.extend(embeddings.into_iter().map(Ok)),
                Err(error) if groups.len() == 1 => results.push(Err(error)),
                Err(_) => results.extend(groups.iter().map(|group| {
                    let alone = self.forward(std::slice::from_ref(group))?;
                    Ok(alone.into_iter().flatten().collect())
                })),
            }
            groups.iter().for_each(self.finished);
        }
        Ok(results)
    }

    fn forward(&self, groups: &[Group]) -> Result<Vec<Vec<Embedding>>> {
        let batch = pack(groups);
        let sequences = || groups.iter().flat_map(|group| &group.sequences);
        let lengths: Vec<usize> = sequences().map(|s| s.contexts().len()).collect();
        let targets = self.end_token.map(|end| {
            let mut targets = Vec::with_capacity(batch.outputs.len());
            for sequence in sequences() {
                targets.extend(sequence.targets(end));
                // The last position of a cut response has no target; any stands in.
                targets.extend(sequence.truncated.then_some(end));
            }
            targets
        });
        let outputs = self.decoder.run(&batch, &lengths, targets.as_deref())?;
        let mut log_probs = outputs.log_probs.as_deref();
        let embedding = |(sequence, sums): (&Sequence, Sums)| {
            let contexts = sequence.contexts().len();
            let log_prob = log_probs.map(|left| {
                let (own, others) = left.split_at(contexts);
                log_probs = Some(others);
                let of_targets = &own[..contexts - usize::from(sequence.truncated)];
                of_targets.iter().copied().map(f64::from).sum()
            });
            Embedding {
                sum: sums.sum,
                last: sums.last,
                contexts,
                log_prob,
            }
        };
        let mut embeddings = sequences()
            .zip(outputs.sums)
            .map(embedding)
            .collect::<Vec<_>>()
            .into_iter();
        Ok(groups
            .iter()
            .map(|group| embeddings.by_ref().take(group.sequences.len()).collect())
            .collect())
    }
}

/// Consecutive groups of up to [`BATCH_TOKENS`] tokens; a larger group is a batch of its own.
fn batches(groups: &[Group]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (at, group) in groups.iter().enumerate() {
        if at > first && tokens + group.tokens() > BATCH_TOKENS {
            batches.push(first..at);
            (first, tokens) = (at, 0);
        }
        tokens += group.tokens();
    }
    if first < groups.len() {
        batches.push(first..groups.len());
    }
    batches
}

/// Packs groups: the shared beginning of each once, then what each sequence has of its own.
pub(crate) fn pack(groups: &[Group]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for group in groups {
        let prefix = batch.tokens.len()..batch.tokens.len() + group.shared;
        if let Some(first) = group.sequences.first().filter(|_| group.shared > 0) {
            append(&mut batch, first, 0..group.shared, 0..0);
        }
        for sequence in &group.sequences {
            let own = batch.tokens.len();
            let range = group.shared..sequence.ids.len();
            append(&mut batch, sequence, range, prefix.clone());
            batch.outputs.extend(sequence.contexts().map(|position| {
                let packed = match position.checked_sub(group.shared) {
                    Some(after_prefix) => own + after_prefix,
                    None => prefix.start + position,
                };
                packed as u32
            }));
        }
    }
    batch
}

fn append(batch: &mut PackedBatch, sequence: &Sequence, range: Range<usize>, prefix: Range<usize>) {
    let start = batch.tokens.len();
    batch.tokens.extend_from_slice(&sequence.ids[range.clone()]);
    batch
        .positions
        .extend(range.map(|position| position as u32));
    batch.segments.push(Segment {
        own: start..batch.tokens.len(),
        prefix,
        sequence_tokens: sequence.ids.len(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], prompt_tokens: usize) -> Sequence {
        Sequence {
            ids: ids.to_vec(),
            prompt_tokens,
            truncated: false,
        }
    }

    #[test]
    fn a_pair_packs_its_prompt_once() {
        let pair = Group::new(
            vec![sequence(&[1, 2, 3, 4], 2), sequence(&[1, 2, 5], 2)],
            None,
        );
        let alone = Group::new(vec![sequence(&[7, 8], 1)], None);
        let batch = pack(&[pair, alone]);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 7, 8]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2, 0, 1]);
        assert_eq!(batch.outputs, [1, 2, 3, 1, 4, 5, 6]);
        let segments: Vec<_> = batch
            .segments
            .iter()
            .map(|segment| (segment.own.clone(), segment.prefix.clone()))
            .collect();
        assert_eq!(
            segments,
            [(0..2, 0..0), (2..4, 0..2), (4..5, 0..2), (5..7, 5..5)]
        );
    }

    #[test]
    fn responses_that_merge_into_the_prompt_share_less_than_it() {
        let pair = Group::new(vec![sequence(&[1, 9, 4], 2), sequence(&[1, 2, 5], 2)], None);
        let batch = pack(&[pair]);
        assert_eq!(batch.tokens, [1, 9, 4, 2, 5]);
        assert_eq!(batch.outputs, [1, 2, 3, 4]);
    }

    #[test]
    fn a_long_sequence_shares_nothing_with_a_short_one() {
        let pair = || vec![sequence(&[1, 2, 3, 4], 2), sequence(&[1, 2, 5], 2)];
        assert_eq!(pack(&[Group::new(pair(), Some(3))]).tokens.len(), 7);
        assert_eq!(pack(&[Group::new(pair(), Some(2))]).tokens.len(), 5);
        assert_eq!(pack(&[Group::new(pair(), Some(4))]).tokens.len(), 5);
    }

    #[test]
    fn batches_are_formed_by_tokens() {
        let group = |tokens| Group::new(vec![sequence(&vec![0; tokens], 1)], None);
        let groups: Vec<_> = [500, 500, 500, 2000, 10, 10].map(group).into();
        assert_eq!(batches(&groups), [0..2, 2..3, 3..4, 4..6]);
        assert!(batches(&[]).is_empty());
    }
}
