//! The steps of predictions by candle's own operations, on any device, in f32.

use std::f64::consts::PI;
use std::ops::Range;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::Activation;

use super::TensorBackend;
use super::attention::soft_cap;
use crate::decoder::gradient_backend::{GradientBackend, PairRows, Products};
use crate::decoder::{Linear, Matrix, Norm};

/// So many numbers of a matrix's gradient, or of logits, are held at once.
const HELD_VALUES: usize = 1 << 24;

/// The signs of a matrix's entries, −1, 0 or 1, each plus 1; as pieces of some of its rows.
#[derive(Debug)]
pub(crate) struct Signs {
    pieces: Vec<Tensor>,
}

impl GradientBackend for TensorBackend<'_> {
    type Signs = Signs;

    fn exact(&self) -> Self {
        Self {
            config: self.config,
            device: self.device,
            dtype: DType::F32,
        }
    }

    fn to_host(&self, rows: &Tensor) -> Result<Vec<f32>> {
        rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }

    fn product(&self, rows: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.product_of(rows, &linear.weight)
    }

    fn unembedded(
        &self,
        hidden: &Tensor,
        unembedding: &Linear,
        targets: &[u32],
    ) -> Result<(Vec<f32>, Tensor)> {
        let at_once = (HELD_VALUES / self.config.vocab_size.min(VOCABULARY)).max(1);
        let (mut log_probs, mut gradients) = (Vec::new(), Vec::new());
        for (first, targets) in (0..).step_by(at_once).zip(targets.chunks(at_once)) {
            let hidden = hidden.narrow(0, first, targets.len())?;
            let (of_part, gradients_of_part) =
                self.unembedded_part(&hidden, unembedding, targets)?;
            log_probs.extend(of_part);
            gradients.push(gradients_of_part);
        }
        Ok((log_probs, Tensor::cat(&gradients, 0)?))
    }

    fn linear_back(&self, gradients: &Tensor, linear: &Linear) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        self.each_piece(&linear.weight, usize::MAX, |range, piece| {
            let of_piece = gradients.narrow(1, range.start, range.len())?;
            let product = of_piece.contiguous()?.matmul(&piece)?;
            sum = Some(match sum.take() {
                None => product,
                Some(sum) => (sum + product)?,
            });
            Ok(())
        })?;
        match sum {
            Some(sum) => Ok(sum),
            None => bail!("a matrix without rows"),
        }
    }

    fn normed_back(&self, rows: &Tensor, gradients: Tensor, norm: &Norm) -> Result<Tensor> {
        self.norm_derivative(rows, &gradients.broadcast_mul(&norm.gain)?, norm)
    }

    fn normed_along(&self, rows: &Tensor, tangents: Tensor, norm: &Norm) -> Result<Tensor> {
        let moved = self.norm_derivative(rows, &tangents, norm)?;
        moved.broadcast_mul(&norm.gain)
    }

    fn activated_back(&self, up: &Tensor, gradients: &Tensor) -> Result<Tensor> {
        let (gate, up) = self.gate_and_up(up)?;
        let slope = derivative(&gate, self.config.activation)?;
        let Some(up) = up else {
            return slope * gradients;
        };
        let of_gate = ((slope * gradients)? * up)?;
        let of_up = (gate.apply(&self.config.activation)? * gradients)?;
        Tensor::cat(&[of_gate, of_up], 1)
    }

    fn activated_along(&self, up: &Tensor, tangents: &Tensor) -> Result<Tensor> {
        let (gate, up) = self.gate_and_up(up)?;
        let (gate_moves, up_moves) = self.gate_and_up(tangents)?;
        let moved = (derivative(&gate, self.config.activation)? * gate_moves)?;
        match (up, up_moves) {
            (Some(up), Some(up_moves)) => {
                (moved * up)? + (gate.apply(&self.config.activation)? * up_moves)?
            }
            _ => Ok(moved),
        }
    }

    fn products(
        &self,
        gradients: &Tensor,
        inputs: &Tensor,
        pair: &PairRows,
        at: usize,
    ) -> Result<(Products, Tensor)> {
        let inputs = inputs.to_dtype(DType::F32)?;
        let input = inputs.narrow(0, at, 1)?;
        let mut products = Products::default();
        let mut moves = Vec::new();
        for range in pieces(gradients.dim(1)?, inputs.dim(1)?) {
            let plus = gradient(gradients, &inputs, &pair.chosen, &range)?;
            let minus = match pair.rejected == pair.chosen {
                true => plus.clone(),
                false => gradient(gradients, &inputs, &pair.rejected, &range)?,
            };
            let signs = (&plus - &minus)?.sign()?;
            moves.push(input.matmul(&signs.t()?)?);
            let product = |a: &Tensor, b: &Tensor| -> Result<f64> {
                let sums = (a * b)?.sum(1)?.to_vec1::<f32>()?;
                Ok(sums.into_iter().map(f64::from).sum())
            };
            products += Products {
                plus_signs: product(&plus, &signs)?,
                minus_signs: product(&minus, &signs)?,
                plus_plus: product(&plus, &plus)?,
                minus_minus: product(&minus, &minus)?,
                plus_minus: product(&plus, &minus)?,
            };
        }
        Ok((products, Tensor::cat(&moves, 1)?))
    }

    fn signs(&self, gradients: &Tensor, inputs: &Tensor, pair: &PairRows) -> Result<Signs> {
        let inputs = inputs.to_dtype(DType::F32)?;
        let signs = |range| {
            let plus = gradient(gradients, &inputs, &pair.chosen, &range)?;
            let minus = gradient(gradients, &inputs, &pair.rejected, &range)?;
            ((plus - minus)?.sign()? + 1.0)?.to_dtype(DType::U8)
        };
        let pieces = pieces(gradients.dim(1)?, inputs.dim(1)?).map(signs);
        let pieces = pieces.collect::<Result<_>>()?;
        Ok(Signs { pieces })
    }

    fn linear_moved(
        &self,
        rows: &Tensor,
        linear: &Linear,
        signs: &Signs,
        step: f64,
    ) -> Result<Tensor> {
        use crate::decoder::backend::Backend;
        let rows = rows.to_dtype(DType::F32)?;
        let still = self.linear(&rows, linear)?;
        let moved = |signs: &Tensor| {
            let signs = (signs.to_dtype(DType::F32)? - 1.0)?;
            rows.matmul(&signs.t()?)
        };
        let moved = signs.pieces.iter().map(moved).collect::<Result<Vec<_>>>()?;
        still + (Tensor::cat(&moved, 1)? * step)?
    }
}

/// So many tokens of the vocabulary are met at once.
const VOCABULARY: usize = 1 << 14;

impl TensorBackend<'_> {
    /// The pieces of a matrix as f32, at most so many rows each, with the rows that they are.
    fn each_piece(
        &self,
        matrix: &Matrix,
        most_rows: usize,
        mut work: impl FnMut(Range<usize>, Tensor) -> Result<()>,
    ) -> Result<()> {
        let mut first = 0;
        let mut each_part = |piece: &Tensor| {
            let count = piece.dim(0)?;
            for start in (0..count).step_by(most_rows.min(count).max(1)) {
                let rows = most_rows.min(count - start);
                let part = piece.narrow(0, start, rows)?.to_dtype(DType::F32)?;
                work(first + start..first + start + rows, part)?;
            }
            first += count;
            Ok(())
        };
        match matrix {
            Matrix::Dense(weight) => each_part(weight),
            Matrix::Quantised(pieces) => {
                for piece in pieces {
                    each_part(&piece.dequantize(self.device)?)?;
                }
                Ok(())
            }
            Matrix::Packed(_) => bail!("a matrix that is laid out for a CPU"),
        }
    }

    /// Some rows of a matrix, in order, as f32.
    pub(crate) fn rows_of(&self, matrix: &Matrix, rows: &[u32]) -> Result<Tensor> {
        if let Matrix::Dense(weight) = matrix {
            let rows = weight.index_select(&Tensor::new(rows, self.device)?, 0)?;
            return rows.to_dtype(DType::F32);
        }
        let mut found = Vec::new();
        self.each_piece(matrix, VOCABULARY, |range, piece| {
            let here = rows.iter().map(|row| *row as usize);
            let here = here.filter(|row| range.contains(row));
            let here: Vec<u32> = here.map(|row| (row - range.start) as u32).collect();
            if !here.is_empty() {
                found.push(piece.index_select(&Tensor::new(here, self.device)?, 0)?);
            }
            Ok(())
        })?;
        Tensor::cat(&found, 0)
    }

    /// As [`GradientBackend::unembedded`], of few enough rows.
    fn unembedded_part(
        &self,
        hidden: &Tensor,
        unembedding: &Linear,
        targets: &[u32],
    ) -> Result<(Vec<f32>, Tensor)> {
        let count = targets.len();
        let hidden = hidden.to_dtype(DType::F32)?;
        let mut highest = Tensor::full(f32::NEG_INFINITY, (count, 1), self.device)?;
        let mut sum = Tensor::zeros((count, 1), DType::F32, self.device)?;
        let mut mean = hidden.zeros_like()?;
        let mut of_target = Tensor::zeros((count, 1), DType::F32, self.device)?;
        let mut gradients = hidden.zeros_like()?;
        self.each_piece(&unembedding.weight, VOCABULARY, |tokens, embeddings| {
            let mut logits = hidden.matmul(&embeddings.t()?)?;
            if let Some(bias) = &unembedding.bias {
                let bias = bias.narrow(0, tokens.start, tokens.len())?;
                logits = logits.broadcast_add(&bias.to_dtype(DType::F32)?)?;
            }
            let logits = soft_cap(logits, self.config.logit_cap)?;
            let slopes = match self.config.logit_cap {
                None => None,
                Some(cap) => Some((1.0 - (&logits / cap)?.sqr()?)?),
            };
            // A row's target lies in one of the parts: elsewhere it counts for nothing.
            let place = |target: &u32| {
                let at = (*target as usize).checked_sub(tokens.start);
                at.filter(|at| *at < tokens.len())
            };
            let here = targets
                .iter()
                .map(|target| place(target).map_or(0.0, |_| 1.0));
            let here = Tensor::from_vec(here.collect::<Vec<f32>>(), (count, 1), self.device)?;
            let at = targets
                .iter()
                .map(|target| place(target).unwrap_or(0) as u32);
            let at = Tensor::from_vec(at.collect::<Vec<_>>(), count, self.device)?;
            let picked = logits.gather(&at.unsqueeze(1)?, 1)?;
            of_target = (&of_target + (picked * &here)?)?;
            let mut weight = here;
            if let Some(slopes) = &slopes {
                weight = (weight * slopes.gather(&at.unsqueeze(1)?, 1)?)?;
            }
            let embedded = embeddings.index_select(&at, 0)?;
            gradients = (&gradients + embedded.broadcast_mul(&weight)?)?;
            let next = logits.max_keepdim(1)?.maximum(&highest)?;
            let scale = (&highest - &next)?.exp()?;
            let mut weights = logits.broadcast_sub(&next)?.exp()?;
            sum = ((&sum * &scale)? + weights.sum_keepdim(1)?)?;
            if let Some(slopes) = &slopes {
                weights = (weights * slopes)?;
            }
            mean = (mean.broadcast_mul(&scale)? + weights.matmul(&embeddings)?)?;
            highest = next;
            Ok(())
        })?;
        let log_probs = ((of_target - highest)? - sum.log()?)?;
        let gradients = (gradients - mean.broadcast_div(&sum)?)?;
        Ok((log_probs.flatten_all()?.to_vec1()?, gradients))
    }

    /// The symmetric part of a norm's derivative at rows, applied to vectors: without the gain.
    fn norm_derivative(&self, rows: &Tensor, vectors: &Tensor, norm: &Norm) -> Result<Tensor> {
        let mut rows = rows.to_dtype(DType::F32)?;
        let mut vectors = vectors.clone();
        if norm.bias.is_some() {
            rows = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
            vectors = vectors.broadcast_sub(&vectors.mean_keepdim(D::Minus1)?)?;
        }
        let scale = (rows.sqr()?.mean_keepdim(D::Minus1)? + self.config.norm_eps)?;
        let scale = scale.sqrt()?.recip()?;
        let normed = rows.broadcast_mul(&scale)?;
        let along = (&normed * &vectors)?.mean_keepdim(D::Minus1)?;
        (vectors - normed.broadcast_mul(&along)?)?.broadcast_mul(&scale)
    }

    /// What is activated, and what is multiplied with it if there is a gate.
    fn gate_and_up(&self, projected: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let projected = projected.to_dtype(DType::F32)?;
        if !self.config.gated_mlp {
            return Ok((projected, None));
        }
        let width = self.config.intermediate_size;
        let up = projected.narrow(1, width, width)?;
        Ok((projected.narrow(1, 0, width)?, Some(up)))
    }
}

/// Runs of a matrix's rows, of which few enough are formed at once.
fn pieces(rows: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    let at_once = (HELD_VALUES / width.max(1)).max(1);
    (0..rows)
        .step_by(at_once)
        .map(move |first| first..rows.min(first + at_once))
}

/// Some rows of the gradient of a matrix: the sum over activations `rows` of what outer products give.
fn gradient(
    gradients: &Tensor,
    inputs: &Tensor,
    rows: &Range<usize>,
    outputs: &Range<usize>,
) -> Result<Tensor> {
    let gradients = gradients.narrow(0, rows.start, rows.len())?;
    let gradients = gradients.narrow(1, outputs.start, outputs.len())?;
    let inputs = inputs.narrow(0, rows.start, rows.len())?;
    gradients.t()?.contiguous()?.matmul(&inputs.contiguous()?)
}

/// The derivative of an activation.
fn derivative(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => {
            let sigmoid = candle_nn::ops::sigmoid(x)?;
            let rest = (1.0 - &sigmoid)?;
            &sigmoid * ((x * rest)? + 1.0)?
        }
        Activation::GeluPytorchTanh => {
            let factor = (2.0 / PI).sqrt();
            let square = (x.sqr()? * 0.044715)?;
            let tanh = ((x * (&square + 1.0)?)? * factor)?.tanh()?;
            let slope = (((square * 3.0)? + 1.0)? * factor)?;
            let bent = ((1.0 - tanh.sqr()?)? * slope)?;
            (((tanh + 1.0)? + (x * bent)?)? * 0.5)?.contiguous()
        }
        Activation::Gelu => {
            let below = (((x / 2f64.sqrt())?.erf()? + 1.0)? * 0.5)?;
            let density = ((x.sqr()? * -0.5)?.exp()? / (2.0 * PI).sqrt())?;
            below + (x * density)?
        }
        other => bail!("no activation {other:?}"),
    }
}
