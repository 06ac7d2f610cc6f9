//! What a forward pass leaves behind for predictions.

use candle_core::Result;

use super::backend::Backend;
use super::{PackedBatch, Queries};

/// How much is kept of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Keep {
    Nothing,
    /// What gradients of the last block's matrices are formed of.
    LastBlock,
    /// The same of every block, and what is attended to.
    AllBlocks,
}

impl Keep {
    /// What the predictions of a batch need.
    pub(super) fn of(batch: &PackedBatch) -> Self {
        let of_one = batch.predictions.iter().map(|one| match one.alone {
            Some(_) => Self::AllBlocks,
            None => Self::LastBlock,
        });
        of_one.max().unwrap_or(Self::Nothing)
    }
}

/// Activations of one block.
#[derive(Debug)]
pub(super) struct BlockTrace<R> {
    /// The input of the output projection of attention, of the tokens that are read.
    pub attended: R,
    /// The input of the MLP, before its norm, of the same tokens.
    pub mlp_input: R,
    /// Query, key and value projections of [`TraceRows::held`].
    pub qkv: Option<R>,
}

impl<R> BlockTrace<R> {
    /// The same of some rows, without projections.
    pub(super) fn of_rows<S: Backend<Rows = R>>(&self, backend: &S, rows: &[u32]) -> Result<Self> {
        Ok(Self {
            attended: backend.select(&self.attended, rows)?,
            mlp_input: backend.select(&self.mlp_input, rows)?,
            qkv: None,
        })
    }
}

/// Activations of a forward pass.
#[derive(Debug)]
pub(super) struct Trace<R> {
    /// The last block, or all of them.
    pub blocks: Vec<BlockTrace<R>>,
    /// What the last block gives to the final norm, of the tokens that are read.
    pub output: R,
    /// Which rows are which tokens.
    pub rows: TraceRows,
}

/// Some of a batch's tokens, each a row, in this order.
#[derive(Debug)]
pub(super) struct Tokens {
    pub tokens: Vec<u32>,
    row_of: Vec<u32>,
}

impl Tokens {
    pub(super) fn new(batch: &PackedBatch, tokens: Vec<u32>) -> Self {
        let mut row_of = vec![0; batch.tokens.len()];
        for (row, token) in (0..).zip(&tokens) {
            row_of[*token as usize] = row;
        }
        Self { tokens, row_of }
    }

    /// The rows of some of the tokens.
    pub(super) fn rows(&self, tokens: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let row = |token: u32| self.row_of[token as usize];
        tokens.into_iter().map(row).collect()
    }
}

/// Which tokens of a batch rows are kept of.
#[derive(Debug)]
pub(super) struct TraceRows {
    /// Those that are read.
    pub read: Tokens,
    /// Those before the read ones in a sequence of which a step is simulated.
    pub held: Tokens,
}

impl TraceRows {
    pub(super) fn of(batch: &PackedBatch) -> Self {
        let mut is_held = vec![false; batch.tokens.len()];
        for alone in batch
            .predictions
            .iter()
            .filter_map(|one| one.alone.as_ref())
        {
            for token in alone.unread() {
                is_held[alone.tokens[token as usize] as usize] = true;
            }
        }
        let all = 0..batch.tokens.len() as u32;
        let held = all.filter(|token| is_held[*token as usize]).collect();
        Self {
            read: Tokens::new(batch, Queries::read(batch).tokens()),
            held: Tokens::new(batch, held),
        }
    }
}
