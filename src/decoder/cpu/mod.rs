//! The decoder's steps on CPU. Activations are f32 whatever the weights are; what is multiplied with weights
//! in bf16 is rounded to it where the processor multiplies bf16.

mod attention;
mod exp;
mod gradients;
mod matmul;
mod packed;
mod rows;
mod softmax;
mod vectorised;

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};
use candle_nn::Activation;
use half::{bf16, f16};
use rayon::prelude::*;

use self::attention::Heads;
use self::matmul::{View, ViewMut, product_transposed};
pub(super) use self::packed::Packed;
use self::rows::{NormOf, Preparation};
use super::attention::{Attention, Pattern, Segment};
use super::backend::{self, Backend, Sums};
use super::rope::Table;
use super::{DecoderConfig, Linear, Matrix, Norm};

/// Weights that are not f32 become so, so many at a time.
const CONVERTED: usize = 1 << 20;

/// The steps on CPU.
#[derive(Debug)]
pub(super) struct CpuBackend<'a> {
    config: &'a DecoderConfig,
    /// Whether nothing is rounded to the type of the weights.
    is_exact: bool,
}

/// Rows of numbers, one after another.
#[derive(Debug)]
pub(super) struct Rows {
    values: Vec<f32>,
    width: usize,
}

impl Rows {
    /// Rows of a width that divides the number of values.
    pub(super) fn new(values: Vec<f32>, width: usize) -> Self {
        Self { values, width }
    }

    /// The numbers, one row after another.
    pub(super) fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// The numbers of a contiguous f32 tensor.
fn with_numbers<T>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => work(&values[start..end]),
        _ => bail!("a tensor that is not f32 in a row on CPU"),
    }
}

fn with_norm<T>(norm: &Norm, eps: f32, work: impl FnOnce(NormOf) -> Result<T>) -> Result<T> {
    with_numbers(&norm.gain, |gain| match &norm.bias {
        None => work(NormOf {
            gain,
            bias: None,
            eps,
        }),
        Some(bias) => with_numbers(bias, |bias| {
            work(NormOf {
                gain,
                bias: Some(bias),
                eps,
            })
        }),
    })
}

fn with_norm_if<T>(
    norm: Option<&Norm>,
    eps: f32,
    work: impl FnOnce(Option<NormOf>) -> Result<T>,
) -> Result<T> {
    match norm {
        None => work(None),
        Some(norm) => with_norm(norm, eps, |norm| work(Some(norm))),
    }
}

impl<'a> CpuBackend<'a> {
    pub(super) fn new(config: &'a DecoderConfig) -> Self {
        Self {
            config,
            is_exact: false,
        }
    }
}

impl CpuBackend<'_> {
    /// Clips, norms and rotates queries, keys and values, in their place.
    pub(super) fn prepare(&self, qkv: &mut Rows, with: &backend::Heads<Table>) -> Result<()> {
        with_norm_if(with.query_norm, self.eps(), |query_norm| {
            with_norm_if(with.key_norm, self.eps(), |key_norm| {
                let preparation = Preparation {
                    heads: self.config.heads,
                    kv_heads: self.config.kv_heads,
                    head_dim: self.config.head_dim,
                    clip: self.config.clip_qkv.map(|clip| clip as f32),
                    query_norm,
                    key_norm,
                    angles: with.angles.map(|angles| (&angles.cos[..], &angles.sin[..])),
                    rotated: with.angles.map_or(0, |angles| angles.dims),
                };
                rows::prepare(&mut qkv.values, preparation);
                Ok(())
            })
        })
    }

    /// Attention of queries, keys and values that [`Self::prepare`] has seen.
    pub(super) fn attend_prepared(
        &self,
        qkv: &Rows,
        pattern: &Pattern,
        attention: Attention,
    ) -> Rows {
        let DecoderConfig {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.config;
        let heads_of = Heads {
            qkv: &qkv.values,
            heads,
            kv_heads,
            head_dim,
        };
        Rows {
            values: heads_of.attend(pattern, attention),
            width: heads * head_dim,
        }
    }

    fn eps(&self) -> f32 {
        self.config.norm_eps as f32
    }

    fn activation(&self) -> Result<rows::Activation> {
        Ok(match self.config.activation {
            Activation::Silu => rows::Activation::Silu,
            Activation::Gelu => rows::Activation::Gelu,
            Activation::GeluPytorchTanh => rows::Activation::GeluTanh,
            other => bail!("no activation {other:?}"),
        })
    }
}

impl Backend for CpuBackend<'_> {
    type Rows = Rows;
    type Angles = Table;
    type Pattern = Pattern;

    fn angles(&self, table: Table) -> Result<Table> {
        Ok(table)
    }

    fn pattern(&self, segments: &[Segment], queries: &[Range<usize>]) -> Result<Pattern> {
        Ok(Pattern::new(segments, queries))
    }

    fn embed(&self, embedding: &Tensor, tokens: &[u32]) -> Result<Rows> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let embedded = embedding.index_select(&tokens, 0)?;
        let width = embedded.dim(1)?;
        let mut values = embedded
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        if let Some(scale) = self.config.embedding_scale {
            values.iter_mut().for_each(|value| *value *= scale as f32);
        }
        Ok(Rows { values, width })
    }

    fn normed(&self, rows: &Rows, norm: &Norm) -> Result<Rows> {
        let width = rows.width;
        with_norm(norm, self.eps(), |norm| {
            let values = rows::normed(&rows.values, width, norm);
            Ok(Rows { values, width })
        })
    }

    fn linear(&self, rows: &Rows, linear: &Linear) -> Result<Rows> {
        let mut out = product_of(rows, &linear.weight, self.is_exact)?;
        add_bias(&mut out, linear)?;
        Ok(out)
    }

    fn attend(
        &self,
        mut qkv: Rows,
        pattern: &Pattern,
        with: backend::Heads<Table>,
        attention: Attention,
    ) -> Result<Rows> {
        self.prepare(&mut qkv, &with)?;
        Ok(self.attend_prepared(&qkv, pattern, attention))
    }

    fn activated(&self, up: Rows) -> Result<Rows> {
        let width = self.config.intermediate_size;
        let is_gated = self.config.gated_mlp;
        let values = rows::activated(up.values, width, is_gated, self.activation()?);
        Ok(Rows { values, width })
    }

    fn sum(&self, rows: &Rows, branch: Rows, norm: Option<&Norm>) -> Result<Rows> {
        let width = rows.width;
        with_norm_if(norm, self.eps(), |norm| {
            let values = rows::sum(&rows.values, branch.values, width, norm);
            Ok(Rows { values, width })
        })
    }

    fn select(&self, rows: &Rows, which: &[u32]) -> Result<Rows> {
        let width = rows.width;
        let mut values = Vec::with_capacity(which.len() * width);
        for at in which {
            let first = *at as usize * width;
            values.extend_from_slice(&rows.values[first..first + width]);
        }
        Ok(Rows { values, width })
    }

    fn part(&self, rows: &Rows, range: Range<usize>) -> Result<Rows> {
        let width = rows.width;
        let values = rows.values[range.start * width..range.end * width].to_vec();
        Ok(Rows { values, width })
    }

    fn stack(&self, parts: Vec<Rows>) -> Result<Rows> {
        let width = parts.first().map_or(1, |part| part.width);
        let parts: Vec<Vec<f32>> = parts.into_iter().map(|part| part.values).collect();
        let values = parts.concat();
        Ok(Rows { values, width })
    }

    fn sums(&self, rows: &Rows, lengths: &[usize]) -> Result<Vec<Sums>> {
        let mut rest = rows.values.chunks_exact(rows.width);
        let sums = lengths.iter().map(|length| {
            let mut sums = Sums {
                sum: vec![0.0; rows.width],
                last: Vec::new(),
            };
            for row in rest.by_ref().take(*length) {
                for (sum, value) in sums.sum.iter_mut().zip(row) {
                    *sum += f64::from(*value);
                }
                row.clone_into(&mut sums.last);
            }
            sums
        });
        Ok(sums.collect())
    }

    fn log_probs(&self, mut logits: Rows, targets: &[u32]) -> Result<Vec<f32>> {
        let cap = self.config.logit_cap;
        let width = logits.width;
        Ok(rows::log_probs(&mut logits.values, width, cap, targets))
    }
}

/// Adds a linear map's bias, if it has one, to what its matrix gives.
fn add_bias(out: &mut Rows, linear: &Linear) -> Result<()> {
    match &linear.bias {
        None => Ok(()),
        Some(bias) => with_numbers(&in_f32(bias)?, |bias| {
            rows::add_to_each(&mut out.values, bias);
            Ok(())
        }),
    }
}

fn in_f32(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)
}

/// `rows · weightᵀ`; what is multiplied is rounded to the type of laid out weights, unless it
/// `is_exact`.
fn product_of(rows: &Rows, weight: &Matrix, is_exact: bool) -> Result<Rows> {
    let width = match weight {
        Matrix::Packed(packed) if packed.is_f32() || !is_exact => {
            return Ok(Rows {
                values: packed.product(&rows.values),
                width: packed.outputs(),
            });
        }
        Matrix::Packed(packed) => {
            return Ok(Rows {
                values: packed.product_by_panels(&rows.values, |_, _| ()),
                width: packed.outputs(),
            });
        }
        Matrix::Dense(weight) => weight.dim(0)?,
        Matrix::Quantised(pieces) => pieces.iter().map(|piece| piece.shape().dims()[0]).sum(),
    };
    let mut out = Product::new(rows, width);
    each_part(weight, |part, _| {
        out.add(part);
        Ok(())
    })?;
    Ok(out.finish())
}

/// Calls `work` with all rows of a matrix as f32, in order, some at a time, and with their width.
fn each_part(weight: &Matrix, mut work: impl FnMut(&[f32], usize) -> Result<()>) -> Result<()> {
    match weight {
        Matrix::Dense(weight) => {
            let (storage, layout) = weight.storage_and_layout();
            let (Storage::Cpu(storage), Some((start, end))) =
                (&*storage, layout.contiguous_offsets())
            else {
                bail!("a weight that is not in a row on CPU");
            };
            let width = weight.dim(1)?;
            match storage {
                CpuStorage::F32(weight) => work(&weight[start..end], width),
                CpuStorage::BF16(weight) => {
                    each_converted(&weight[start..end], width, bf16::to_f32, work)
                }
                CpuStorage::F16(weight) => {
                    each_converted(&weight[start..end], width, f16::to_f32, work)
                }
                _ => bail!("weights of type {}", weight.dtype().as_str()),
            }
        }
        Matrix::Packed(weight) => {
            for panels in weight.runs_of_panels(CONVERTED) {
                work(&weight.rows(panels), weight.inputs())?;
            }
            Ok(())
        }
        Matrix::Quantised(pieces) => {
            for piece in pieces {
                let piece = piece.dequantize(&Device::Cpu)?;
                let width = piece.dim(1)?;
                with_numbers(&piece, |piece| work(piece, width))?;
            }
            Ok(())
        }
    }
}

fn each_converted<T: Copy + Sync>(
    weight: &[T],
    width: usize,
    to_f32: impl Fn(T) -> f32 + Sync,
    mut work: impl FnMut(&[f32], usize) -> Result<()>,
) -> Result<()> {
    let at_once = (CONVERTED / width).max(1) * width;
    for part in weight.chunks(at_once) {
        let part: Vec<f32> = part.par_iter().map(|value| to_f32(*value)).collect();
        work(&part, width)?;
    }
    Ok(())
}

/// A product with a matrix that comes in parts, some of its rows in each.
struct Product<'a> {
    rows: &'a Rows,
    width: usize,
    values: Vec<f32>,
    column: usize,
}

impl<'a> Product<'a> {
    fn new(rows: &'a Rows, width: usize) -> Self {
        let count = rows.values.len() / rows.width;
        Self {
            rows,
            width,
            values: vec![0.0; count * width],
            column: 0,
        }
    }

    fn add(&mut self, weight: &[f32]) {
        let inner = self.rows.width;
        let count = self.rows.values.len() / inner;
        let columns = weight.len() / inner;
        if count == 0 || columns == 0 {
            return;
        }
        product_transposed(
            ViewMut::new(&mut self.values[self.column..], count, columns, self.width),
            View::new(&self.rows.values, count, inner, inner),
            View::new(weight, columns, inner, inner),
            1.0,
            rayon::current_num_threads(),
        );
        self.column += columns;
    }

    fn finish(self) -> Rows {
        Rows {
            values: self.values,
            width: self.width,
        }
    }
}
