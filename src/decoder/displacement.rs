//! What training on a pair does to the likelihood of its responses, to first order: the derivative
//! of `ln π` when the last block's matrices move along `sign(G⁺ − G⁻)`, as Adam's first step on the
//! DPO loss moves them. `G⁺` and `G⁻` are the gradients of `ln π(chosen)` and `ln π(rejected)`.
//!
//! Each row's output of the last block affects that row alone, so that its matrices' gradients need
//! no pass back through attention.

use std::ops::Range;

use candle_core::{Result, bail};

use super::gradient_backend::{GradientBackend, PairRows, Products};
use super::trace::{BlockTrace, Trace};
use super::{Block, Decoder, Linear, PackedBatch, Prediction};

/// Changes are told of so many of the most probable tokens.
const LIKELY_TOKENS: usize = 50;

/// The predicted effect of training on a pair. Of two numbers the first is of the chosen response.
#[derive(Debug, Clone, PartialEq)]
pub struct Displacement {
    /// `⟨G±, sign(G⁺ − G⁻)⟩`: nats for each unit that every entry moves by.
    pub rates: [f64; 2],
    /// `⟨G±, G⁺ − G⁻⟩`.
    pub rates_sgd: [f64; 2],
    /// `⟨G⁺, G⁻⟩ / ⟨G⁺, G⁺⟩`; none where `G⁺` is zero.
    pub overlap: Option<f64>,
    /// `ln π`, nats.
    pub log_probs: [f64; 2],
    /// How fast `ln p` of a token changes at the last prompt position, nats for each unit: of the
    /// most probable tokens there and the first of each response, by id.
    pub changes: Vec<(u32, f64)>,
}

impl Displacement {
    fn new(products: Products, log_probs: [f64; 2], changes: Vec<(u32, f64)>) -> Self {
        let Products {
            plus_signs,
            minus_signs,
            plus_plus,
            minus_minus,
            plus_minus,
        } = products;
        Self {
            rates: [plus_signs, minus_signs],
            rates_sgd: [plus_plus - plus_minus, plus_minus - minus_minus],
            overlap: (plus_plus > 0.0).then(|| plus_minus / plus_plus),
            log_probs,
            changes,
        }
    }
}

/// Gradients of the rows' log-probabilities with respect to what a block's matrices give, and what
/// these are multiplied with.
pub(super) struct BlockGradients<R> {
    /// Of the output projection of attention.
    pub output: R,
    /// Of the projection into the MLP.
    pub up: R,
    /// Of the projection out of it.
    pub down: R,
    /// The input of the projection into the MLP.
    pub normed: R,
    /// What that projection gives.
    pub projected: R,
    /// The input of the projection out of the MLP.
    pub inner: R,
    /// With respect to the block's input, attention held constant.
    pub below: R,
}

/// How the matrices' outputs move, of one row a pair.
struct Moves<R> {
    output: R,
    up: R,
    down: R,
}

/// Some of a batch's predictions, made together. Rows are the responses' positions that have targets.
pub(super) struct Tile<'a> {
    predictions: &'a [Prediction],
    pub pairs: Vec<PairRows>,
    /// The rows in the trace.
    pub rows: Vec<u32>,
    targets: Vec<u32>,
}

impl<'a> Tile<'a> {
    pub(super) fn new<R>(
        batch: &PackedBatch,
        trace: &Trace<R>,
        predictions: &'a [Prediction],
    ) -> Self {
        let (mut pairs, mut tokens, mut targets) = (vec![], vec![], vec![]);
        for prediction in predictions {
            let [chosen, rejected] = [prediction.chosen, prediction.rejected].map(|read| {
                let (read, first) = (&batch.readouts[read], targets.len());
                tokens.extend_from_slice(&read.tokens[..read.targets.len()]);
                targets.extend_from_slice(&read.targets);
                first..targets.len()
            });
            pairs.push(PairRows {
                rejected: match prediction.is_same {
                    true => chosen.clone(),
                    false => rejected,
                },
                chosen,
            });
        }
        Self {
            rows: trace.rows.read.rows(tokens),
            predictions,
            pairs,
            targets,
        }
    }

    /// Each pair's row of the last prompt position.
    fn firsts(&self) -> Vec<u32> {
        self.pairs
            .iter()
            .map(|pair| pair.chosen.start as u32)
            .collect()
    }
}

/// What the last block says of a tile.
pub(super) struct LastBlock<R> {
    pub displacements: Vec<Displacement>,
    pub kept: BlockTrace<R>,
    pub gradients: BlockGradients<R>,
}

impl Decoder {
    /// What the last block says of a tile.
    pub(super) fn last_block<S: GradientBackend>(
        &self,
        backend: &S,
        tile: &Tile,
        trace: &Trace<S::Rows>,
        unembedding: &Linear,
    ) -> Result<LastBlock<S::Rows>> {
        let (Some(block), Some(kept)) = (self.weights.blocks.last(), trace.blocks.last()) else {
            bail!("a decoder without blocks");
        };
        let final_norm = &self.weights.final_norm;
        let output = backend.select(&trace.output, &tile.rows)?;
        let hidden = backend.normed(&output, final_norm)?;
        let (of_targets, gradients) =
            backend.unembedded(&hidden, &self.weights.unembedding, &tile.targets)?;
        let gradients = backend.normed_back(&output, gradients, final_norm)?;
        let kept = kept.of_rows(backend, &tile.rows)?;
        let gradients = self.block_gradients(backend, block, &kept, gradients, tile.rows.len())?;
        let (products, moves) = self.products(backend, tile, &kept, &gradients)?;
        let firsts = tile.firsts();
        let output = backend.select(&output, &firsts)?;
        let hidden = backend.normed(&output, final_norm)?;
        let moved =
            self.hidden_along(backend, block, &firsts, &kept, &gradients, &output, moves)?;
        let changes = self.changes(backend, tile, &hidden, &moved, unembedding)?;
        let sum = |range: &Range<usize>| -> f64 {
            let of_range = of_targets[range.clone()].iter();
            of_range.copied().map(f64::from).sum()
        };
        let log_probs = |pair: &PairRows| [sum(&pair.chosen), sum(&pair.rejected)];
        let of_pairs = products.into_iter().zip(&tile.pairs).zip(changes);
        let displacements = of_pairs
            .map(|((products, pair), changes)| {
                Displacement::new(products, log_probs(pair), changes)
            })
            .collect();
        Ok(LastBlock {
            displacements,
            kept,
            gradients,
        })
    }

    /// Back through one block, from gradients with respect to what it gives.
    pub(super) fn block_gradients<S: GradientBackend>(
        &self,
        backend: &S,
        block: &Block,
        kept: &BlockTrace<S::Rows>,
        gradients: S::Rows,
        count: usize,
    ) -> Result<BlockGradients<S::Rows>> {
        let copy = |rows: &S::Rows| backend.part(rows, 0..count);
        let normed = match &block.mlp_norm {
            None => copy(&kept.mlp_input)?,
            Some(norm) => backend.normed(&kept.mlp_input, norm)?,
        };
        let projected = backend.linear(&normed, &block.up)?;
        let inner = backend.activated(copy(&projected)?)?;
        let down = match &block.mlp_post_norm {
            None => copy(&gradients)?,
            Some(norm) => {
                let branch = backend.linear(&inner, &block.down)?;
                backend.normed_back(&branch, copy(&gradients)?, norm)?
            }
        };
        let of_inner = backend.linear_back(&down, &block.down)?;
        let up = backend.activated_back(&projected, &of_inner)?;
        let of_normed = backend.linear_back(&up, &block.up)?;
        let of_input = match &block.mlp_norm {
            None => of_normed,
            Some(norm) => backend.normed_back(&kept.mlp_input, of_normed, norm)?,
        };
        let below = backend.sum(&gradients, of_input, None)?;
        let after_attention = match self.config.parallel_residual {
            true => gradients,
            false => copy(&below)?,
        };
        let output = match &block.attention_post_norm {
            None => after_attention,
            Some(norm) => {
                let branch = backend.linear(&kept.attended, &block.output)?;
                backend.normed_back(&branch, after_attention, norm)?
            }
        };
        Ok(BlockGradients {
            output,
            up,
            down,
            normed,
            projected,
            inner,
            below,
        })
    }

    /// The inner products of each pair's gradients, and how the matrices' outputs move at its last
    /// prompt position.
    fn products<S: GradientBackend>(
        &self,
        backend: &S,
        tile: &Tile,
        kept: &BlockTrace<S::Rows>,
        gradients: &BlockGradients<S::Rows>,
    ) -> Result<(Vec<Products>, Moves<S::Rows>)> {
        let mut products = vec![Products::default(); tile.pairs.len()];
        let mut of_matrix = |gradients, inputs| {
            let mut moves = Vec::with_capacity(tile.pairs.len());
            for (pair, sum) in tile.pairs.iter().zip(&mut products) {
                let (more, of_row) =
                    backend.products(gradients, inputs, pair, pair.chosen.start)?;
                *sum += more;
                moves.push(of_row);
            }
            backend.stack(moves)
        };
        let moves = Moves {
            output: of_matrix(&gradients.output, &kept.attended)?,
            up: of_matrix(&gradients.up, &gradients.normed)?,
            down: of_matrix(&gradients.down, &gradients.inner)?,
        };
        Ok((products, moves))
    }

    /// How tokens' log-probabilities change at the pairs' last prompt positions when hidden states
    /// move.
    fn changes<S: GradientBackend>(
        &self,
        backend: &S,
        tile: &Tile,
        hidden: &S::Rows,
        moved: &S::Rows,
        unembedding: &Linear,
    ) -> Result<Vec<Vec<(u32, f64)>>> {
        let (count, vocab_size) = (tile.pairs.len(), self.config.vocab_size);
        let at_once = self.logits_at_once();
        let mut changes = Vec::with_capacity(count);
        for first in (0..count).step_by(at_once) {
            let range = first..count.min(first + at_once);
            let hidden = backend.part(hidden, range.clone())?;
            let moved = backend.part(moved, range.clone())?;
            let logits = backend.to_host(&backend.linear(&hidden, unembedding)?)?;
            let moves = backend.to_host(&backend.product(&moved, unembedding)?)?;
            let rows = logits
                .chunks_exact(vocab_size)
                .zip(moves.chunks_exact(vocab_size));
            for ((logits, moves), prediction) in rows.zip(&tile.predictions[range]) {
                changes.push(self.token_changes(logits, moves, prediction.first_tokens));
            }
        }
        Ok(changes)
    }

    /// How hidden states of some rows move when the last block's matrices do. `output` is what the block
    /// gives of them.
    #[allow(clippy::too_many_arguments)]
    fn hidden_along<S: GradientBackend>(
        &self,
        backend: &S,
        block: &Block,
        rows: &[u32],
        kept: &BlockTrace<S::Rows>,
        gradients: &BlockGradients<S::Rows>,
        output: &S::Rows,
        moves: Moves<S::Rows>,
    ) -> Result<S::Rows> {
        let attention = match &block.attention_post_norm {
            None => moves.output,
            Some(norm) => {
                let attended = backend.select(&kept.attended, rows)?;
                let branch = backend.linear(&attended, &block.output)?;
                backend.normed_along(&branch, moves.output, norm)?
            }
        };
        let up = if self.config.parallel_residual {
            moves.up
        } else {
            let moved = backend.part(&attention, 0..rows.len())?;
            let moved = match &block.mlp_norm {
                None => moved,
                Some(norm) => {
                    let mlp_input = backend.select(&kept.mlp_input, rows)?;
                    backend.normed_along(&mlp_input, moved, norm)?
                }
            };
            backend.sum(&moves.up, backend.product(&moved, &block.up)?, None)?
        };
        let projected = backend.select(&gradients.projected, rows)?;
        let inner = backend.activated_along(&projected, &up)?;
        let down = backend.sum(&moves.down, backend.product(&inner, &block.down)?, None)?;
        let down = match &block.mlp_post_norm {
            None => down,
            Some(norm) => {
                let inner = backend.select(&gradients.inner, rows)?;
                let branch = backend.linear(&inner, &block.down)?;
                backend.normed_along(&branch, down, norm)?
            }
        };
        let moved = backend.sum(&attention, down, None)?;
        backend.normed_along(output, moved, &self.weights.final_norm)
    }

    /// A logit, bent by the soft cap if there is one, and the slope there.
    pub(super) fn capped(&self, logit: f32) -> (f64, f64) {
        match self.config.logit_cap {
            None => (f64::from(logit), 1.0),
            Some(cap) => {
                let bent = (f64::from(logit) / cap).tanh();
                (cap * bent, 1.0 - bent * bent)
            }
        }
    }

    /// How `ln p` of the likeliest tokens and of some others moves when logits do.
    fn token_changes(&self, logits: &[f32], moves: &[f32], others: [u32; 2]) -> Vec<(u32, f64)> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let highest = self.capped(highest).0;
        let (mut sum, mut mean) = (0.0, 0.0);
        for (logit, moved) in logits.iter().zip(moves) {
            let (logit, slope) = self.capped(*logit);
            let weight = (logit - highest).exp();
            sum += weight;
            mean += weight * slope * f64::from(*moved);
        }
        let change = |token: u32| {
            let (_, slope) = self.capped(logits[token as usize]);
            let moved = slope * f64::from(moves[token as usize]);
            (token, moved - mean / sum)
        };
        likely_tokens(logits, others)
            .into_iter()
            .map(change)
            .collect()
    }
}

/// The tokens of the highest logits and some others, by id.
fn likely_tokens(logits: &[f32], others: [u32; 2]) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    if tokens.len() > LIKELY_TOKENS {
        let higher_first = |a: &u32, b: &u32| {
            let [of_a, of_b] = [a, b].map(|token| logits[*token as usize]);
            of_b.total_cmp(&of_a).then(a.cmp(b))
        };
        tokens.select_nth_unstable_by(LIKELY_TOKENS - 1, higher_first);
        tokens.truncate(LIKELY_TOKENS);
    }
    tokens.extend(others);
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}
