//! Attention over packed segments by the FlashAttention-2 kernels, many of them in one launch.
//!
//! Dao 2023, arXiv 2307.08691. Queries and keys come as sequences of variable length, one for each
//! segment; a segment's keys are those of its context and its own, gathered.

use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_flash_attn::flash_attn_varlen_alibi_windowed_softcap;

use super::{PreparedHeads, TensorBackend};
use crate::decoder::attention::{Attention, Pattern, Segment};

/// The widths of heads that there are kernels for; those in between are taken by the next wider.
const HEAD_DIMS: [usize; 8] = [32, 64, 96, 128, 160, 192, 224, 256];

/// The widths that this build has kernels for, separated by commas, if it has not all (`docs/gpu.md`).
const BUILT: Option<&str> = option_env!("CHES_FLASH_HEAD_DIMS");

/// Keys and values are gathered for so many times as many tokens as a batch has, at most: a long context
/// that many segments share is repeated for each.
const GATHERED: usize = 4;

/// A launch's grid has a dimension for segments, which ends here.
const MOST_SEGMENTS: usize = 65_535;

/// What the kernels are told of a batch, in one launch or several.
#[derive(Debug)]
pub(super) struct FlashPattern {
    launches: Vec<Launch>,
}

/// Some segments.
#[derive(Debug)]
struct Launch {
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

/// A launch that segments are added to.
#[derive(Debug)]
struct Collected {
    queries: Vec<u32>,
    keys: Vec<u32>,
    query_ends: Vec<u32>,
    key_ends: Vec<u32>,
    most_queries: usize,
    most_keys: usize,
}

impl Default for Collected {
    fn default() -> Self {
        Self {
            queries: Vec::new(),
            keys: Vec::new(),
            query_ends: vec![0],
            key_ends: vec![0],
            most_queries: 0,
            most_keys: 0,
        }
    }
}

impl Collected {
    fn add(&mut self, segment: &Segment, queries: Range<usize>) {
        // The last query sees all keys, as the kernels take it.
        let own = segment.own.start..queries.end;
        let before = self.keys.len();
        let context = segment.context.iter().cloned().flatten();
        self.keys.extend(context.chain(own).map(|key| key as u32));
        self.most_keys = self.most_keys.max(self.keys.len() - before);
        self.most_queries = self.most_queries.max(queries.len());
        self.queries.extend(queries.map(|query| query as u32));
        self.query_ends.push(self.queries.len() as u32);
        self.key_ends.push(self.keys.len() as u32);
    }

    fn on(self, device: &Device) -> Result<Launch> {
        let tensor = |numbers: Vec<u32>| {
            let count = numbers.len();
            Tensor::from_vec(numbers, count, device)
        };
        Ok(Launch {
            queries: tensor(self.queries)?,
            keys: tensor(self.keys)?,
            query_ends: tensor(self.query_ends)?,
            key_ends: tensor(self.key_ends)?,
            most_queries: self.most_queries,
            most_keys: self.most_keys,
        })
    }
}

impl FlashPattern {
    /// None where the kernels do not fit.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub(super) fn new(pattern: &Pattern, with: &TensorBackend) -> Result<Option<Self>> {
        let head_dim = with.config.head_dim;
        let fits = is_supported(with.device)?
            && matches!(with.dtype, DType::BF16 | DType::F16)
            && has_kernel(head_dim);
        if !fits || pattern.computed().next().is_none() {
            return Ok(None);
        }
        let tokens: usize = pattern
            .segments
            .iter()
            .map(|segment| segment.own.len())
            .sum();
        let mut launches = Vec::new();
        let mut collected = Collected::default();
        for (segment, queries) in pattern.computed() {
            let keys: usize = segment.context.iter().map(Range::len).sum();
            let is_full = collected.keys.len() + keys + segment.own.len() > GATHERED * tokens
                || collected.query_ends.len() > MOST_SEGMENTS;
            if is_full && !collected.queries.is_empty() {
                launches.push(std::mem::take(&mut collected).on(with.device)?);
            }
            collected.add(segment, queries);
        }
        launches.push(collected.on(with.device)?);
        Ok(Some(Self { launches }))
    }

    /// As [`super::attention::attend`].
    pub(super) fn attend(
        &self,
        PreparedHeads {
            queries,
            keys,
            values,
        }: &PreparedHeads,
        attention: Attention,
    ) -> Result<Tensor> {
        let attended = self.launches.iter().map(|launch| {
            let attended = flash_attn_varlen_alibi_windowed_softcap(
                &queries.index_select(&launch.queries, 0)?,
                &keys.index_select(&launch.keys, 0)?,
                &values.index_select(&launch.keys, 0)?,
                None,
                &launch.query_ends,
                &launch.key_ends,
                launch.most_queries,
                launch.most_keys,
                attention.scale as f32,
                attention.window.map(|window| window - 1),
                Some(0),
                attention.cap.map_or(0.0, |cap| cap as f32),
            )?;
            attended.flatten_from(1)
        });
        Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// Whether there is a kernel for heads of this width.
fn has_kernel(head_dim: usize) -> bool {
    let Some(kernel) = HEAD_DIMS.iter().find(|width| **width >= head_dim) else {
        return false;
    };
    let is_built = |built: &str| built.split(',').any(|width| width.parse() == Ok(*kernel));
    head_dim.is_multiple_of(8) && BUILT.is_none_or(is_built)
}

/// Whether a device has the instructions of the kernels (Ampere and later). On others they print a line and
/// leave the result as it is.
fn is_supported(device: &Device) -> Result<bool> {
    let Device::Cuda(device) = device else {
        return Ok(false);
    };
    let stream = device.cuda_stream();
    let (major, _) = stream.context().compute_capability().map_err(Error::wrap)?;
    Ok(major >= 8)
}
