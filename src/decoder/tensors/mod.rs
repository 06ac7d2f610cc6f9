//! The decoder's steps by candle's own operations, on any device. Matrices multiply in the type of
//! the weights; what blocks add to one another is f32, and so are norms and rotations.

mod attention;
#[cfg(feature = "flash-attn")]
mod flash;
mod gradients;

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::Activation;
use candle_nn::ops::{layer_norm, rms_norm};
use candle_nn::rotary_emb::rope_thd;

use super::attention::{Attention, Pattern, Segment};
use super::backend::{Backend, Heads, Sums};
use super::rope::Table;
use super::{DecoderConfig, Linear, Matrix, Norm};

/// The steps of one model on one device.
#[derive(Debug)]
pub(super) struct TensorBackend<'a> {
    pub config: &'a DecoderConfig,
    pub device: &'a Device,
    /// The type of the weights.
    pub dtype: DType,
}

/// Cosines and sines, each `(tokens, dims / 2)`.
#[derive(Debug)]
pub(super) struct Angles {
    cos: Tensor,
    sin: Tensor,
    dims: usize,
}

/// Which tokens attend to which, in the ways there are to compute it.
#[derive(Debug)]
pub(super) struct AttentionPattern {
    plain: Pattern,
    /// None where the kernels do not fit the model or its type.
    #[cfg(feature = "flash-attn")]
    flash: Option<flash::FlashPattern>,
}

/// What meets in attention, in the type of the weights.
#[derive(Debug)]
pub(super) struct PreparedHeads {
    /// `(tokens, heads, head_dim)`.
    pub queries: Tensor,
    /// `(tokens, kv_heads, head_dim)`.
    pub keys: Tensor,
    /// The same.
    pub values: Tensor,
}

/// The ways to compute attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKernel {
    /// By products of matrices.
    Plain,
    /// By the FlashAttention-2 kernels.
    Flash,
}

impl TensorBackend<'_> {
    /// Queries, keys and values of their projections: clipped, normed and rotated.
    pub(super) fn prepared(&self, qkv: Tensor, with: &Heads<Angles>) -> Result<PreparedHeads> {
        let DecoderConfig {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.config;
        let tokens = qkv.dim(0)?;
        let qkv = match self.config.clip_qkv {
            None => qkv,
            Some(clip) => qkv.clamp(-clip, clip)?,
        };
        let part = |first: usize, heads: usize| {
            qkv.narrow(1, first * head_dim, heads * head_dim)?
                .contiguous()
        };
        let prepared = |first: usize, heads: usize, norm: Option<&Norm>| {
            let heads = self
                .normed_heads(&part(first, heads)?, norm)?
                .reshape((1, tokens, heads, head_dim))?;
            let heads = match with.angles {
                None => heads,
                Some(angles) => rotated(&heads, angles)?,
            };
            heads.squeeze(0)?.to_dtype(self.dtype)
        };
        Ok(PreparedHeads {
            queries: prepared(0, heads, with.query_norm)?,
            keys: prepared(heads, kv_heads, with.key_norm)?,
            values: part(heads + kv_heads, kv_heads)?.reshape((tokens, kv_heads, head_dim))?,
        })
    }

    /// Attention by one kernel; none where it does not fit.
    pub(super) fn attend_by(
        &self,
        kernel: AttentionKernel,
        heads: &PreparedHeads,
        pattern: &AttentionPattern,
        attention: Attention,
    ) -> Result<Option<Tensor>> {
        match kernel {
            AttentionKernel::Plain => attention::attend(heads, &pattern.plain, attention).map(Some),
            #[cfg(feature = "flash-attn")]
            AttentionKernel::Flash => {
                let flash = pattern.flash.as_ref();
                flash
                    .map(|flash| flash.attend(heads, attention))
                    .transpose()
            }
            #[cfg(not(feature = "flash-attn"))]
            AttentionKernel::Flash => Ok(None),
        }
    }
}

impl TensorBackend<'_> {
    /// Queries or keys, `(tokens, width)`, normed in groups as wide as the norm; f32.
    fn normed_heads(&self, heads: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let heads = heads.to_dtype(DType::F32)?;
        let Some(norm) = norm else {
            return Ok(heads);
        };
        let (tokens, width) = heads.dims2()?;
        let of_norm = norm.gain.dim(0)?;
        self.normed(&heads.reshape((tokens, width / of_norm, of_norm))?, norm)
    }
}

impl TensorBackend<'_> {
    /// `rows · matrixᵀ`.
    fn product_of(&self, rows: &Tensor, matrix: &Matrix) -> Result<Tensor> {
        let rows = rows.to_dtype(self.dtype)?;
        match matrix {
            Matrix::Dense(weight) => rows.matmul(&weight.to_dtype(self.dtype)?.t()?),
            Matrix::Quantised(pieces) => {
                let columns = pieces.iter().map(|piece| {
                    let piece = piece.dequantize(self.device)?.to_dtype(self.dtype)?;
                    rows.matmul(&piece.t()?)
                });
                Tensor::cat(&columns.collect::<Result<Vec<_>>>()?, 1)
            }
            Matrix::Packed(_) => bail!("a matrix that is laid out for a CPU"),
        }
    }
}

impl TensorBackend<'_> {
    /// The activation of each value. candle's CUDA kernels compute in the type of the values, in which the
    /// difference that GELU is of negative ones is lost in half precision.
    fn through_activation(&self, values: &Tensor) -> Result<Tensor> {
        let activation = &self.config.activation;
        match activation {
            Activation::Silu => values.apply(activation),
            _ => {
                let values = values.to_dtype(DType::F32)?.apply(activation)?;
                values.to_dtype(self.dtype)
            }
        }
    }
}

/// Rotates heads of shape `(1, tokens, heads, head_dim)`, f32.
fn rotated(heads: &Tensor, angles: &Angles) -> Result<Tensor> {
    let rotate = |heads: &Tensor| rope_thd(heads, &angles.cos, &angles.sin);
    let head_dim = heads.dim(D::Minus1)?;
    if angles.dims == head_dim {
        return rotate(heads);
    }
    let first = rotate(&heads.narrow(D::Minus1, 0, angles.dims)?.contiguous()?)?;
    let rest = heads.narrow(D::Minus1, angles.dims, head_dim - angles.dims)?;
    Tensor::cat(&[&first, &rest], D::Minus1)
}

impl Backend for TensorBackend<'_> {
    type Rows = Tensor;
    type Angles = Angles;
    type Pattern = AttentionPattern;

    fn angles(&self, table: Table) -> Result<Angles> {
        let half = table.dims / 2;
        let shape = (table.cos.len() / half, half);
        Ok(Angles {
            cos: Tensor::from_vec(table.cos, shape, self.device)?,
            sin: Tensor::from_vec(table.sin, shape, self.device)?,
            dims: table.dims,
        })
    }

    fn pattern(&self, segments: &[Segment], queries: &[Range<usize>]) -> Result<AttentionPattern> {
        let plain = Pattern::new(segments, queries);
        Ok(AttentionPattern {
            #[cfg(feature = "flash-attn")]
            flash: flash::FlashPattern::new(&plain, self)?,
            plain,
        })
    }

    fn embed(&self, embedding: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::new(tokens, self.device)?;
        let embedded = embedding.index_select(&tokens, 0)?.to_dtype(DType::F32)?;
        match self.config.embedding_scale {
            None => Ok(embedded),
            Some(scale) => embedded * scale,
        }
    }

    fn normed(&self, rows: &Tensor, norm: &Norm) -> Result<Tensor> {
        let eps = self.config.norm_eps as f32;
        match &norm.bias {
            None => rms_norm(rows, &norm.gain, eps),
            Some(bias) => layer_norm(rows, &norm.gain, bias, eps),
        }
    }

    fn linear(&self, rows: &Tensor, linear: &Linear) -> Result<Tensor> {
        let product = self.product_of(rows, &linear.weight)?;
        match &linear.bias {
            None => Ok(product),
            Some(bias) => product.broadcast_add(&bias.to_dtype(self.dtype)?),
        }
    }

    fn attend(
        &self,
        qkv: Tensor,
        pattern: &Self::Pattern,
        with: Heads<Angles>,
        attention: Attention,
    ) -> Result<Tensor> {
        let heads = self.prepared(qkv, &with)?;
        match self.attend_by(AttentionKernel::Flash, &heads, pattern, attention)? {
            Some(attended) => Ok(attended),
            None => attention::attend(&heads, &pattern.plain, attention),
        }
    }

    fn activated(&self, up: Tensor) -> Result<Tensor> {
        if !self.config.gated_mlp {
            return self.through_activation(&up);
        }
        let width = self.config.intermediate_size;
        let gate = self.through_activation(&up.narrow(1, 0, width)?)?;
        gate * up.narrow(1, width, width)?
    }

    fn sum(&self, rows: &Tensor, branch: Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let branch = branch.to_dtype(DType::F32)?;
        match norm {
            None => rows + branch,
            Some(norm) => rows + self.normed(&branch, norm)?,
        }
    }

    fn select(&self, rows: &Tensor, which: &[u32]) -> Result<Tensor> {
        rows.index_select(&Tensor::new(which, self.device)?, 0)
    }

    fn part(&self, rows: &Tensor, range: Range<usize>) -> Result<Tensor> {
        rows.narrow(0, range.start, range.len())
    }

    fn stack(&self, parts: Vec<Tensor>) -> Result<Tensor> {
        // Of the steps in f32, some may be of the pass before.
        let parts = parts
            .iter()
            .map(|part| part.to_dtype(parts[parts.len() - 1].dtype()));
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }

    fn sums(&self, rows: &Tensor, lengths: &[usize]) -> Result<Vec<Sums>> {
        let mut first = 0;
        let (mut sums, mut lasts) = (Vec::new(), Vec::new());
        for length in lengths {
            let own = rows.narrow(0, first, *length)?;
            sums.push(own.sum(0)?);
            lasts.push(own.get(length - 1)?);
            first += length;
        }
        if sums.is_empty() {
            return Ok(Vec::new());
        }
        let sums = Tensor::stack(&sums, 0)?.to_vec2::<f32>()?;
        let lasts = Tensor::stack(&lasts, 0)?.to_vec2::<f32>()?;
        let of_one = |(sum, last): (Vec<f32>, Vec<f32>)| Sums {
            sum: sum.into_iter().map(f64::from).collect(),
            last,
        };
        Ok(sums.into_iter().zip(lasts).map(of_one).collect())
    }

    fn log_probs(&self, logits: Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        let logits = attention::soft_cap(logits.to_dtype(DType::F32)?, self.config.logit_cap)?;
        let targets = Tensor::new(targets, self.device)?.unsqueeze(1)?;
        let of_targets = logits.gather(&targets, 1)?.squeeze(1)?;
        (of_targets - logits.log_sum_exp(D::Minus1)?)?.to_vec1()
    }
}
