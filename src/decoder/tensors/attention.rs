//! Causal attention over packed segments, tile by tile.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::PreparedHeads;
use crate::decoder::attention::{Attention, Pattern, Segment};

/// Queries are taken so many at a time: the scores of one tile are all that is held, and keys
/// after its last query are never looked at.
const QUERY_TILE: usize = 256;

/// Attention of the pattern's queries, shape `(their number, heads · head_dim)`.
///
/// Consecutive query heads share a key and value head. Scores and weights are formed in f32, since half
/// precision rounds large scores by more than it does weights; what weights and values give is of the heads' type.
pub(super) fn attend(
    PreparedHeads {
        queries,
        keys,
        values,
    }: &PreparedHeads,
    pattern: &Pattern,
    attention: Attention,
) -> Result<Tensor> {
    let (_, heads, head_dim) = queries.dims3()?;
    let kv_heads = keys.dim(1)?;
    let group = heads / kv_heads;
    let mut outputs = Vec::new();
    for (segment, wanted) in pattern.computed() {
        // (kv_heads, context, head_dim)
        let keys = context(keys, segment)?.transpose(0, 1)?.contiguous()?;
        let keys = keys.to_dtype(DType::F32)?;
        let values = context(values, segment)?.transpose(0, 1)?.contiguous()?;
        let before: usize = segment.context.iter().map(Range::len).sum();
        for first in wanted.clone().step_by(QUERY_TILE) {
            let count = QUERY_TILE.min(wanted.end - first);
            let visible = before + first - segment.own.start + count;
            // Rows of a key head: every query head of its group, every query of the tile.
            let queries = queries
                .narrow(0, first, count)?
                .reshape((count, kv_heads, group, head_dim))?
                .permute((1, 2, 0, 3))?
                .contiguous()?
                .reshape((kv_heads, group * count, head_dim))?
                .to_dtype(DType::F32)?;
            let keys = keys.narrow(1, 0, visible)?;
            let scores = queries.matmul(&keys.t()?)?;
            let scores = scores.reshape((kv_heads * group, count, visible))?;
            let scores = soft_cap((scores * attention.scale)?, attention.cap)?;
            let mask = mask(count, visible, attention.window, scores.device())?;
            let scores = scores.broadcast_add(&mask)?;
            let weights = softmax_last_dim(&scores)?.reshape((kv_heads, group * count, visible))?;
            let output = weights
                .to_dtype(values.dtype())?
                .matmul(&values.narrow(1, 0, visible)?.contiguous()?)?
                .reshape((kv_heads, group, count, head_dim))?
                .permute((2, 0, 1, 3))?
                .contiguous()?
                .reshape((count, heads * head_dim))?;
            outputs.push(output);
        }
    }
    Tensor::cat(&outputs, 0)
}

/// What a segment attends to: its context and itself.
fn context(packed: &Tensor, segment: &Segment) -> Result<Tensor> {
    let parts = segment.context.iter().chain([&segment.own]);
    let parts = parts.map(|part| packed.narrow(0, part.start, part.len()));
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

/// Zero where the query may look, negative infinity elsewhere. The tile's last query is that of the
/// last of the `visible` keys.
fn mask(queries: usize, visible: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let window = window.unwrap_or(visible);
    let before = visible - queries;
    let mask: Vec<f32> = (0..queries)
        .flat_map(|query| {
            (0..visible).map(move |key| {
                let own = before + query;
                if key <= own && own - key < window {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        })
        .collect();
    Tensor::from_vec(mask, (queries, visible), device)
}

/// Values bent to stay within a cap of either sign, if there is one.
pub(super) fn soft_cap(values: Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        None => Ok(values),
        Some(cap) => (values / cap)?.tanh()? * cap,
    }
}
