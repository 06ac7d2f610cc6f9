//! Attention alone, on any device, by each of the kernels.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Activation;

use super::{Attention, Segment};
use crate::decoder::DecoderConfig;
use crate::decoder::backend::Backend;
use crate::decoder::tensors::{AttentionKernel, PreparedHeads, TensorBackend};

/// Heads, and how they attend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Products of queries and keys are multiplied by this.
    pub scale: f64,
    /// Then `x` becomes `cap · tanh(x / cap)`.
    pub cap: Option<f64>,
    /// A query sees so many of the keys up to its own.
    pub window: Option<usize>,
}

/// Attention of all tokens of segments by one kernel, `(tokens, heads · head_dim)`; none where the kernel
/// does not fit the device, the type or the shape. `qkv` is `(tokens, (heads + 2 kv_heads) head_dim)`, one
/// row after another: queries, keys and values, rotated where they are to be.
///
/// # Errors
/// When the numbers are not as many as the shape says, or the device fails.
pub fn attend_on(
    device: &Device,
    dtype: DType,
    kernel: AttentionKernel,
    shape: AttentionShape,
    segments: &[Segment],
    qkv: &[f32],
) -> Result<Option<Vec<f32>>> {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale,
        cap,
        window,
    } = shape;
    let tokens: usize = segments.iter().map(|segment| segment.own.len()).sum();
    let config = DecoderConfig {
        hidden_size: heads * head_dim,
        intermediate_size: 1,
        layers: Vec::new(),
        heads,
        kv_heads,
        head_dim,
        vocab_size: 1,
        max_positions: tokens,
        norm_eps: 0.0,
        activation: Activation::Silu,
        gated_mlp: false,
        parallel_residual: false,
        ropes: Vec::new(),
        attention_scale: scale,
        attention_cap: cap,
        logit_cap: None,
        embedding_scale: None,
        clip_qkv: None,
    };
    let steps = TensorBackend {
        config: &config,
        device,
        dtype,
    };
    let qkv = Tensor::from_slice(qkv, (tokens, (heads + 2 * kv_heads) * head_dim), device)?;
    let qkv = qkv.to_dtype(dtype)?;
    let part = |first: usize, heads: usize| {
        let part = qkv.narrow(1, first * head_dim, heads * head_dim)?;
        part.contiguous()?.reshape((tokens, heads, head_dim))
    };
    let prepared = PreparedHeads {
        queries: part(0, heads)?,
        keys: part(heads, kv_heads)?,
        values: part(heads + kv_heads, kv_heads)?,
    };
    let all: Vec<_> = segments.iter().map(|segment| segment.own.clone()).collect();
    let pattern = steps.pattern(segments, &all)?;
    let attention = Attention { scale, cap, window };
    let attended = steps.attend_by(kernel, &prepared, &pattern, attention)?;
    let numbers = |attended: Tensor| {
        let attended = attended.to_dtype(DType::F32)?;
        attended.flatten_all()?.to_vec1::<f32>()
    };
    attended.map(numbers).transpose()
}
