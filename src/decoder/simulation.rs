//! One step of training on a pair, simulated: the matrices of every block move by a step along
//! `sign(G⁺ − G⁻)` for this pair only, and its responses go through the model once more.
//!
//! Gradients are those in which every branch of attention is constant. Tokens before the last of the
//! prompt keep the keys and values that they had.

use candle_core::Result;

use super::displacement::{BlockGradients, Displacement};
use super::gradient_backend::{GradientBackend, PairRows};
use super::trace::{BlockTrace, Tokens, Trace};
use super::{Alone, Decoder, Linear, Queries, of_normed};

/// The simulated effect of a step on a pair, nats. Of two numbers the first is of the chosen
/// response.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// The changes of `ln π`.
    pub changes: [f64; 2],
    /// The changes of `ln p` at the last prompt position, of the tokens that
    /// [`Displacement::changes`] tells of.
    pub token_changes: Vec<(u32, f64)>,
}

/// Which way the matrices of one block move.
pub(super) struct BlockSigns<S> {
    pub output: S,
    pub up: S,
    pub down: S,
}

impl<S> BlockSigns<S> {
    fn new<G: GradientBackend<Signs = S>>(
        backend: &G,
        kept: &BlockTrace<G::Rows>,
        gradients: &BlockGradients<G::Rows>,
        pair: &PairRows,
    ) -> Result<Self> {
        Ok(Self {
            output: backend.signs(&gradients.output, &kept.attended, pair)?,
            up: backend.signs(&gradients.up, &gradients.normed, pair)?,
            down: backend.signs(&gradients.down, &gradients.inner, pair)?,
        })
    }
}

impl Simulation {
    /// Of a pair whose responses are the same: nothing moves.
    pub(super) fn none(displacement: &Displacement) -> Self {
        let tokens = displacement.changes.iter();
        Self {
            changes: [0.0; 2],
            token_changes: tokens.map(|(token, _)| (*token, 0.0)).collect(),
        }
    }
}

/// What the responses' rows come to.
struct Responses {
    log_probs: [f64; 2],
    /// Logits of the last prompt position, bent by a soft cap if there is one.
    logits: Vec<f64>,
}

impl Decoder {
    /// Which way the matrices of each block move by a step on one pair, the last block first. `rows` of the
    /// trace are those of the tile that the pair is in, whose last block is known.
    pub(super) fn signs<S: GradientBackend>(
        &self,
        backend: &S,
        trace: &Trace<S::Rows>,
        rows: &[u32],
        pair: &PairRows,
        kept: &BlockTrace<S::Rows>,
        gradients: &BlockGradients<S::Rows>,
    ) -> Result<Vec<BlockSigns<S::Signs>>> {
        let mut signs = vec![BlockSigns::new(backend, kept, gradients, pair)?];
        let own = pair.chosen.clone().chain(pair.rejected.clone());
        let own: Vec<u32> = own.map(|row| row as u32).collect();
        let rows: Vec<u32> = own.iter().map(|row| rows[*row as usize]).collect();
        let chosen = pair.chosen.len();
        let pair = PairRows {
            chosen: 0..chosen,
            rejected: chosen..rows.len(),
        };
        let mut above = backend.select(&gradients.below, &own)?;
        let blocks = self.weights.blocks.iter().zip(&trace.blocks);
        for (block, kept) in blocks.rev().skip(1) {
            let kept = kept.of_rows(backend, &rows)?;
            let gradients = self.block_gradients(backend, block, &kept, above, rows.len())?;
            signs.push(BlockSigns::new(backend, &kept, &gradients, &pair)?);
            above = gradients.below;
        }
        Ok(signs)
    }

    /// Simulates the step of one pair. `signs` are of the last block first.
    pub(super) fn simulate<S: GradientBackend>(
        &self,
        backend: &S,
        trace: &Trace<S::Rows>,
        alone: &Alone,
        displacement: &Displacement,
        signs: &[BlockSigns<S::Signs>],
        unembedding: &Linear,
    ) -> Result<Simulation> {
        let tokens = displacement.changes.iter().map(|(token, _)| *token);
        // Both by the same arithmetic, so that nothing but the step differs.
        let before = self.responses(backend, trace, alone, signs, 0.0, unembedding)?;
        let after = self.responses(backend, trace, alone, signs, alone.step, unembedding)?;
        let [[chosen, rejected], [chosen_before, rejected_before]] =
            [&after, &before].map(|of| of.log_probs);
        let log_sum = |logits: &[f64]| {
            let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - highest).exp()).sum();
            highest + sum.ln()
        };
        let shift = log_sum(&after.logits) - log_sum(&before.logits);
        let change = |token: u32| {
            let [after, before] = [&after, &before].map(|of| of.logits[token as usize]);
            (token, after - before - shift)
        };
        Ok(Simulation {
            changes: [chosen - chosen_before, rejected - rejected_before],
            token_changes: tokens.map(change).collect(),
        })
    }

    /// The responses' rows of a pair through the model, whose matrices are moved by a step.
    fn responses<S: GradientBackend>(
        &self,
        backend: &S,
        trace: &Trace<S::Rows>,
        alone: &Alone,
        signs: &[BlockSigns<S::Signs>],
        step: f64,
        unembedding: &Linear,
    ) -> Result<Responses> {
        let batch = &alone.batch;
        let queries = Queries::read(batch);
        let read = queries.tokens();
        let unread = alone.unread();
        let held = unread.iter().map(|token| alone.tokens[*token as usize]);
        let held = trace.rows.held.rows(held);
        // Where the packed tokens are when the held ones come first.
        let order = Tokens::new(batch, unread.iter().chain(&read).copied().collect());
        let order = order.rows(0..batch.tokens.len() as u32);
        let ids: Vec<u32> = read
            .iter()
            .map(|token| batch.tokens[*token as usize])
            .collect();
        let mut hidden = backend.embed(&self.weights.embedding, &ids)?;
        let angles = self.angles(backend, batch)?;
        let pattern = backend.pattern(&batch.segments, &queries.0)?;
        let blocks = self.weights.blocks.iter().zip(&self.config.layers);
        let kept = trace.blocks.iter().zip(signs.iter().rev());
        for ((block, layer), (kept, signs)) in blocks.zip(kept) {
            let heads = block.heads(layer, &angles);
            let mut qkv = of_normed(backend, &hidden, block.attention_norm.as_ref(), &block.qkv)?;
            if let Some(before) = kept.qkv.as_ref().filter(|_| !held.is_empty()) {
                let all = backend.stack(vec![backend.select(before, &held)?, qkv])?;
                qkv = backend.select(&all, &order)?;
            }
            let attended = backend.attend(qkv, &pattern, heads, self.attention(layer))?;
            let branch = backend.linear_moved(&attended, &block.output, &signs.output, step)?;
            let after = backend.sum(&hidden, branch, block.attention_post_norm.as_ref())?;
            let mlp_input = match self.config.parallel_residual {
                true => &hidden,
                false => &after,
            };
            let up = match &block.mlp_norm {
                None => backend.linear_moved(mlp_input, &block.up, &signs.up, step)?,
                Some(norm) => {
                    let normed = backend.normed(mlp_input, norm)?;
                    backend.linear_moved(&normed, &block.up, &signs.up, step)?
                }
            };
            let inner = backend.activated(up)?;
            let branch = backend.linear_moved(&inner, &block.down, &signs.down, step)?;
            hidden = backend.sum(&after, branch, block.mlp_post_norm.as_ref())?;
        }
        let rows = Tokens::new(batch, read);
        let hidden = backend.select(&hidden, &rows.rows(batch.read_tokens()))?;
        let hidden = backend.normed(&hidden, &self.weights.final_norm)?;
        let log_probs = self.log_probs(backend, batch, |_| true, &hidden, unembedding)?;
        let first = backend.part(&hidden, 0..1)?;
        let logits = backend.to_host(&backend.linear(&first, unembedding)?)?;
        Ok(Responses {
            log_probs: [log_probs[0], log_probs[1]],
            logits: logits.into_iter().map(|x| self.capped(x).0).collect(),
        })
    }
}
