//! Attention over packed segments by the FlashAttention-2 kernels, in one launch for all of them.
//!
//! Dao 2023, arXiv 2307.08691. Queries and keys come as sequences of variable length, one for each
//! segment; a segment's keys are those of its context and its own, gathered.

use candle_core::{DType, Result, Tensor};
use candle_flash_attn::flash_attn_varlen_alibi_windowed_softcap;

use super::Tensors;
use crate::decoder::attention::{Attention, Pattern};

/// The widest head that the kernels have.
const MOST_HEAD_DIM: usize = 256;

/// What the kernels are told of a batch.
#[derive(Debug)]
pub(super) struct FlashPattern {
    /// Which tokens are computed, `(queries)`.
    queries: Tensor,
    /// The keys of each segment, one after another, `(keys)`.
    keys: Tensor,
    /// Where the queries of each segment begin and the last ones end, `(segments + 1)`.
    query_ends: Tensor,
    /// The same of keys.
    key_ends: Tensor,
    most_queries: usize,
    most_keys: usize,
}

impl FlashPattern {
    /// None where the kernels do not fit.
    pub fn new(pattern: &Pattern, with: &Tensors) -> Result<Option<Self>> {
        let head_dim = with.config.head_dim;
        let fits = with.device.is_cuda()
            && matches!(with.dtype, DType::BF16 | DType::F16)
            && head_dim <= MOST_HEAD_DIM
            && head_dim.is_multiple_of(8);
        if !fits || pattern.computed().next().is_none() {
            return Ok(None);
        }
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let (mut query_ends, mut key_ends) = (vec![0], vec![0]);
        let (mut most_queries, mut most_keys) = (0, 0);
        for (segment, wanted) in pattern.computed() {
            // The last query sees all keys, as the kernels take it.
            let own = segment.own.start..wanted.end;
            let before = keys.len();
            keys.extend(
                segment
                    .context
                    .iter()
                    .cloned()
                    .flatten()
                    .map(|key| key as u32),
            );
            keys.extend(own.map(|key| key as u32));
            most_keys = most_keys.max(keys.len() - before);
            most_queries = most_queries.max(wanted.len());
            queries.extend(wanted.map(|query| query as u32));
            query_ends.push(queries.len() as u32);
            key_ends.push(keys.len() as u32);
        }
        let tensor = |numbers: Vec<u32>| {
            let count = numbers.len();
            Tensor::from_vec(numbers, count, with.device)
        };
        Ok(Some(Self {
            queries: tensor(queries)?,
            keys: tensor(keys)?,
            query_ends: tensor(query_ends)?,
            key_ends: tensor(key_ends)?,
            most_queries,
            most_keys,
        }))
    }

    /// As [`super::attention::attend`].
    pub fn attend(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        attention: Attention,
    ) -> Result<Tensor> {
        let queries = if self.queries.dim(0)? == queries.dim(0)? {
            queries.clone()
        } else {
            queries.index_select(&self.queries, 0)?
        };
        let attended = flash_attn_varlen_alibi_windowed_softcap(
            &queries,
            &keys.index_select(&self.keys, 0)?,
            &values.index_select(&self.keys, 0)?,
            None,
            &self.query_ends,
            &self.key_ends,
            self.most_queries,
            self.most_keys,
            attention.scale as f32,
            attention.window.map(|window| window - 1),
            Some(0),
            attention.cap.map_or(0.0, |cap| cap as f32),
        )?;
        attended.flatten_from(1)
    }
}
