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
pub(super) struct Heads<'a> {
    /// `(tokens, (heads + 2 kv_heads) · head_dim)`.
    pub qkv: &'a [f32],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Some queries in one segment, of all heads that share a key head.
struct Tile<'a> {
    segment: &'a Segment,
    key_head: usize,
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
    pub(super) fn attend(self, pattern: &Pattern, attention: Attention) -> Vec<f32> {
        let mut tiles = Vec::new();
        let mut rows = 0;
        for (segment, queries) in pattern.computed() {
            for first in queries.clone().step_by(QUERY_TILE) {
                let end = queries.end.min(first + QUERY_TILE);
                tiles.extend((0..self.kv_heads).map(|key_head| Tile {
                    segment,
                    key_head,
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
        let of_group = self.group() * self.head_dim;
        let mut attended = vec![0.0; rows * width];
        for (tile, output) in tiles.iter().zip(outputs) {
            for (at, row) in output.chunks_exact(of_group).enumerate() {
                let start = (tile.first_row + at) * width + tile.key_head * of_group;
                attended[start..start + of_group].copy_from_slice(row);
            }
        }
        attended
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// One head of tokens that lie in several places, one after another. The order in which products are
    /// summed up is then the same, however a sequence was packed.
    fn gathered(&self, head: usize, parts: &[Range<usize>]) -> Vec<f32> {
        let stride = self.row_width();
        let tokens = parts.iter().map(Range::len).sum::<usize>();
        let mut values = Vec::with_capacity(tokens * self.head_dim);
        for token in parts.iter().cloned().flatten() {
            let first = token * stride + head * self.head_dim;
            values.extend_from_slice(&self.qkv[first..first + self.head_dim]);
        }
        values
    }

    /// `(queries, group · head_dim)`.
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
        let (group, head_dim) = (self.group(), self.head_dim);
        let width = visible - skipped;
        let keys = self.gathered(self.heads + tile.key_head, &parts);
        let values = self.gathered(self.heads + self.kv_heads + tile.key_head, &parts);
        let keys = View::new(&keys, width, head_dim, head_dim);
        let values = View::new(&values, width, head_dim, head_dim);
        let queries = own.start + tile.queries.start..own.start + tile.queries.end;

        let mut scores = vec![0.0; count * width];
        let mut sums = vec![0.0; count];
        let mut output = vec![0.0; count * group * head_dim];
        for head in 0..group {
            let queries = self.view(tile.key_head * group + head, queries.clone());
            let out = ViewMut::new(&mut scores, count, width, width);
            product_transposed(out, queries, keys, attention.scale as f32, 1);
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
            let weights = View::new(&scores, count, width, width);
            let of_head = &mut output[head * head_dim..];
            let out = ViewMut::new(of_head, count, head_dim, group * head_dim);
            product(out, weights, values, false, 1);
            let rows = output.chunks_exact_mut(group * head_dim);
            for (row, sum) in rows.zip(&sums) {
                let of_head = &mut row[head * head_dim..(head + 1) * head_dim];
                of_head.iter_mut().for_each(|value| *value /= sum);
            }
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
