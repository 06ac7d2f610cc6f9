//! Causal attention over packed segments, straight from the projections.

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{View, ViewMut, product, product_transposed};
use super::softmax::{exponentials, soft_cap};
use super::vectorised::vectorised;
use crate::decoder::attention::{Attention, Pattern, Segment};

/// Queries are taken so many at a time: what they score is all that is held, and keys after the
/// last of them are never looked at.
const QUERY_TILE: usize = 128;

/// Query, key and value heads of packed tokens, as one projection gives them.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// `(tokens, (heads + 2 kv_heads) · head_dim)`.
    pub qkv: &'a [f32],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Some queries of one head in one segment.
struct Tile<'a> {
    segment: &'a Segment,
    head: usize,
    /// Which of the segment's own tokens, counted from its first.
    queries: Range<usize>,
    /// The row of the result that belongs to the first of them.
    first_row: usize,
}

impl<'a> Heads<'a> {
    fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// One head of consecutive tokens; heads are numbered over queries, keys and values.
    fn view(&self, head: usize, tokens: Range<usize>) -> View<'a> {
        let (stride, width) = (self.row_width(), self.head_dim);
        let first = &self.qkv[tokens.start * stride + head * width..];
        View::new(first, tokens.len(), width, stride)
    }

    /// Attention of the pattern's queries, `(their number, heads · head_dim)`.
    pub fn attend(self, pattern: &Pattern, attention: Attention) -> Vec<f32> {
        let mut tiles = Vec::new();
        let mut rows = 0;
        for (segment, queries) in pattern.computed() {
            for first in queries.clone().step_by(QUERY_TILE) {
                let end = queries.end.min(first + QUERY_TILE);
                tiles.extend((0..self.heads).map(|head| Tile {
                    segment,
                    head,
                    queries: first - segment.own.start..end - segment.own.start,
                    first_row: rows,
                }));
                rows += end - first;
            }
        }
        let outputs: Vec<Vec<f32>> = tiles
            .par_iter()
            .map(|tile| self.attend_tile(tile, attention))
            .collect();
        let width = self.heads * self.head_dim;
        let mut attended = vec![0.0; rows * width];
        for (tile, output) in tiles.iter().zip(outputs) {
            for (at, row) in output.chunks_exact(self.head_dim).enumerate() {
                let start = (tile.first_row + at) * width + tile.head * self.head_dim;
                attended[start..start + self.head_dim].copy_from_slice(row);
            }
        }
        attended
    }

    fn attend_tile(&self, tile: &Tile, attention: Attention) -> Vec<f32> {
        let Segment { own, context, .. } = tile.segment;
        let count = tile.queries.len();
        // Keys are numbered as in the sequence. The first query's window begins before the others'.
        let before: usize = context.iter().map(Range::len).sum();
        let visible = before + tile.queries.end;
        let first_own = before + tile.queries.start;
        let skipped = attention
            .window
            .map_or(0, |w| (first_own + 1).saturating_sub(w));
        let seen = own.start..own.start + tile.queries.end;
        let mut parts = Vec::with_capacity(context.len() + 1);
        let mut unseen = skipped;
        for part in context.iter().chain([&seen]) {
            let start = part.start + unseen.min(part.len());
            unseen -= start - part.start;
            if start < part.end {
                parts.push(start..part.end);
            }
        }
        let group = self.heads / self.kv_heads;
        let key_head = self.heads + tile.head / group;
        let queries = own.start + tile.queries.start..own.start + tile.queries.end;
        let queries = self.view(tile.head, queries);

        let width = visible - skipped;
        let mut scores = vec![0.0; count * width];
        let mut column = 0;
        for part in parts.iter().cloned() {
            let length = part.len();
            let out = ViewMut::new(&mut scores[column..], count, length, width);
            let keys = self.view(key_head, part);
            product_transposed(out, queries, keys, attention.scale as f32, 1);
            column += length;
        }
        let mut sums = vec![0.0; count];
        vectorised(
            #[inline(always)]
            || {
                for (at, row) in scores.chunks_exact_mut(width).enumerate() {
                    let seen = first_own + at + 1;
                    let from = attention.window.map_or(0, |w| seen.saturating_sub(w));
                    let range = from - skipped..seen - skipped;
                    sums[at] = soften(row, range, attention.cap);
                }
            },
        );
        let mut output = vec![0.0; count * self.head_dim];
        let mut column = 0;
        for part in parts {
            let length = part.len();
            let weights = View::new(&scores[column..], count, length, width);
            let out = ViewMut::new(&mut output, count, self.head_dim, self.head_dim);
            let values = self.view(key_head + self.kv_heads, part);
            product(out, weights, values, column > 0, 1);
            column += length;
        }
        for (row, sum) in output.chunks_exact_mut(self.head_dim).zip(sums) {
            row.iter_mut().for_each(|value| *value /= sum);
        }
        output
    }
}

/// Makes scores weights that add up to the number returned: within `range` by softmax, elsewhere
/// zero.
#[inline(always)]
fn soften(row: &mut [f32], range: Range<usize>, cap: Option<f64>) -> f32 {
    row[..range.start].fill(0.0);
    row[range.end..].fill(0.0);
    let scores = &mut row[range];
    soft_cap(scores, cap);
    exponentials(scores).1
}
