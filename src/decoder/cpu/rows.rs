//! What happens to each row by itself: norms, activations, rotation.

use rayon::prelude::*;

use super::exp::{exp, sigmoid, tanh};
use super::softmax::{exponentials, soft_cap, sum_of};
use super::vectorised::vectorised;

/// Rows are worked on in runs of about so many numbers.
const RUN: usize = 1 << 14;

/// The constants of GELU by the hyperbolic tangent.
const GELU_FACTOR: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// Calls `work` with each row of `out` and its number, runs of rows on several cores.
fn each_row(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (RUN / width.max(1)).max(1);
    out.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(run, out)| {
            vectorised(
                #[inline(always)]
                || {
                    for (at, row) in out.chunks_exact_mut(width).enumerate() {
                        work(run * rows + at, row);
                    }
                },
            );
        });
}

/// The parameters of a norm.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormOf<'a> {
    pub gain: &'a [f32],
    /// With it by mean and variance, without it by the root mean square.
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
}

impl NormOf<'_> {
    #[inline(always)]
    fn apply(&self, row: &mut [f32]) {
        let count = row.len() as f32;
        if let Some(bias) = self.bias {
            let mean = sum_of(row, |value| value) / count;
            row.iter_mut().for_each(|value| *value -= mean);
            let scale = self.scale(row);
            for ((value, gain), bias) in row.iter_mut().zip(self.gain).zip(bias) {
                *value = *value * scale * gain + bias;
            }
        } else {
            let scale = self.scale(row);
            for (value, gain) in row.iter_mut().zip(self.gain) {
                *value = *value * scale * gain;
            }
        }
    }

    #[inline(always)]
    fn scale(&self, row: &[f32]) -> f32 {
        let mean = sum_of(row, |value| value * value) / row.len() as f32;
        1.0 / (mean + self.eps).sqrt()
    }
}

impl NormOf<'_> {
    /// The symmetric part of the norm's derivative at a row, applied to a vector: without the
    /// gain.
    #[inline(always)]
    fn derivative(&self, row: &[f32], vector: &mut [f32]) {
        let count = row.len() as f32;
        let mean = match self.bias {
            None => 0.0,
            Some(_) => sum_of(row, |value| value) / count,
        };
        let square = sum_of(row, |value| (value - mean) * (value - mean)) / count;
        let scale = 1.0 / (square + self.eps).sqrt();
        let mut along = vector.to_vec();
        for (along, value) in along.iter_mut().zip(row) {
            *along *= (value - mean) * scale;
        }
        let along = sum_of(&along, |value| value) / count;
        let middle = match self.bias {
            None => 0.0,
            Some(_) => sum_of(vector, |value| value) / count,
        };
        for (out, value) in vector.iter_mut().zip(row) {
            *out = (*out - middle - (value - mean) * scale * along) * scale;
        }
    }

    #[inline(always)]
    fn gained(&self, row: &mut [f32]) {
        for (value, gain) in row.iter_mut().zip(self.gain) {
            *value *= gain;
        }
    }
}

/// Makes gradients with respect to normed rows those with respect to the rows.
pub(super) fn normed_back(rows: &[f32], gradients: &mut [f32], norm: NormOf) {
    let width = norm.gain.len();
    each_row(
        gradients,
        width,
        #[inline(always)]
        |at, gradient| {
            norm.gained(gradient);
            norm.derivative(&rows[at * width..(at + 1) * width], gradient);
        },
    );
}

/// Makes moves of rows those of the normed rows.
pub(super) fn normed_along(rows: &[f32], tangents: &mut [f32], norm: NormOf) {
    let width = norm.gain.len();
    each_row(
        tangents,
        width,
        #[inline(always)]
        |at, tangent| {
            norm.derivative(&rows[at * width..(at + 1) * width], tangent);
            norm.gained(tangent);
        },
    );
}

/// Normed rows.
pub(super) fn normed(rows: &[f32], width: usize, norm: NormOf) -> Vec<f32> {
    let mut out = rows.to_vec();
    each_row(
        &mut out,
        width,
        #[inline(always)]
        |_, row| norm.apply(row),
    );
    out
}

/// Rows plus a branch's, which is normed first if there is a norm.
pub(super) fn sum(
    rows: &[f32],
    mut branch: Vec<f32>,
    width: usize,
    norm: Option<NormOf>,
) -> Vec<f32> {
    each_row(
        &mut branch,
        width,
        #[inline(always)]
        |at, out| {
            if let Some(norm) = norm {
                norm.apply(out);
            }
            let row = &rows[at * width..(at + 1) * width];
            for (out, value) in out.iter_mut().zip(row) {
                *out += value;
            }
        },
    );
    branch
}

/// Adds the same numbers to every row.
pub(super) fn add_to_each(rows: &mut [f32], bias: &[f32]) {
    each_row(
        rows,
        bias.len(),
        #[inline(always)]
        |_, row| {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        },
    );
}

/// An activation, as vector code can run it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    #[inline(always)]
    fn apply(self, row: &mut [f32]) {
        match self {
            Self::Silu => row.iter_mut().for_each(|x| *x *= sigmoid(*x)),
            Self::GeluTanh => {
                for x in row {
                    *x *= 0.5 * (1.0 + tanh(GELU_FACTOR * (*x + GELU_CUBIC * *x * *x * *x)));
                }
            }
            Self::Gelu => {
                for x in row {
                    *x *= 0.5 * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2));
                }
            }
        }
    }
}

/// The inner layer of an MLP from its projections, `(rows, 2 · width)` gate and up, or without a
/// gate `(rows, width)` up.
pub(super) fn activated(
    up: Vec<f32>,
    width: usize,
    is_gated: bool,
    activation: Activation,
) -> Vec<f32> {
    if !is_gated {
        let mut out = up;
        each_row(
            &mut out,
            width,
            #[inline(always)]
            |_, row| activation.apply(row),
        );
        return out;
    }
    let mut out = vec![0.0; up.len() / 2];
    each_row(
        &mut out,
        width,
        #[inline(always)]
        |at, out| {
            let (gate, up) = up[2 * at * width..2 * (at + 1) * width].split_at(width);
            out.copy_from_slice(gate);
            activation.apply(out);
            for (out, up) in out.iter_mut().zip(up) {
                *out *= up;
            }
        },
    );
    out
}

impl Activation {
    /// Makes each `x` of a row the derivative there.
    #[inline(always)]
    fn derivative(self, row: &mut [f32]) {
        match self {
            Self::Silu => {
                for x in row {
                    let sigmoid = sigmoid(*x);
                    *x = sigmoid * (1.0 + *x * (1.0 - sigmoid));
                }
            }
            Self::GeluTanh => {
                for x in row {
                    let square = GELU_CUBIC * *x * *x;
                    let tanh = tanh(GELU_FACTOR * *x * (1.0 + square));
                    let slope = GELU_FACTOR * (1.0 + 3.0 * square) * (1.0 - tanh * tanh);
                    *x = 0.5 * (1.0 + tanh + *x * slope);
                }
            }
            Self::Gelu => {
                // Of the normal distribution.
                const DENSITY: f32 = 0.398_942_3;
                for x in row {
                    let below = 0.5 * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2));
                    *x = below + *x * DENSITY * exp(-0.5 * *x * *x);
                }
            }
        }
    }
}

/// Gradients with respect to an MLP's projections, as [`activated`] takes them, from those of its
/// inner layer, `(rows, width)`.
pub(super) fn activated_back(
    up: &[f32],
    gradients: &[f32],
    width: usize,
    is_gated: bool,
    activation: Activation,
) -> Vec<f32> {
    let mut out = up.to_vec();
    let inner_width = if is_gated { 2 * width } else { width };
    each_row(
        &mut out,
        inner_width,
        #[inline(always)]
        |at, out| {
            let gradients = &gradients[at * width..(at + 1) * width];
            let (gate, up) = out.split_at_mut(width);
            let mut activated = gate.to_vec();
            activation.apply(&mut activated);
            activation.derivative(gate);
            for (gate, gradient) in gate.iter_mut().zip(gradients) {
                *gate *= gradient;
            }
            let pairs = gate.iter_mut().zip(up).zip(activated.iter().zip(gradients));
            for ((gate, up), (activated, gradient)) in pairs {
                *gate *= *up;
                *up = activated * gradient;
            }
        },
    );
    out
}

/// How the inner layer of an MLP, `(rows, width)`, moves when its projections do.
pub(super) fn activated_along(
    up: &[f32],
    tangents: &[f32],
    width: usize,
    is_gated: bool,
    activation: Activation,
) -> Vec<f32> {
    let inner_width = if is_gated { 2 * width } else { width };
    let mut out = vec![0.0; up.len() / inner_width * width];
    each_row(
        &mut out,
        width,
        #[inline(always)]
        |at, out| {
            let row = at * inner_width..(at + 1) * inner_width;
            let (gate, up) = up[row.clone()].split_at(width);
            let (gate_moves, up_moves) = tangents[row].split_at(width);
            out.copy_from_slice(gate);
            activation.derivative(out);
            for (out, moved) in out.iter_mut().zip(gate_moves) {
                *out *= moved;
            }
            let mut activated = gate.to_vec();
            activation.apply(&mut activated);
            let pairs = out.iter_mut().zip(up).zip(activated.iter().zip(up_moves));
            for ((out, up), (activated, moved)) in pairs {
                *out = *out * up + activated * moved;
            }
        },
    );
    out
}

/// What happens to queries and keys before they meet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preparation<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Everything is cut to this magnitude first.
    pub clip: Option<f32>,
    /// The norm of queries, of one head or of all.
    pub query_norm: Option<NormOf<'a>>,
    /// The same of keys.
    pub key_norm: Option<NormOf<'a>>,
    /// Cosines and sines of the tokens' positions, each `(tokens, rotated / 2)`.
    pub angles: Option<(&'a [f32], &'a [f32])>,
    /// How much of a head is rotated.
    pub rotated: usize,
}

/// Prepares `(tokens, (heads + 2 kv_heads) · head_dim)` for attention.
pub(super) fn prepare(qkv: &mut [f32], with: Preparation) {
    let width = (with.heads + 2 * with.kv_heads) * with.head_dim;
    each_row(
        qkv,
        width,
        #[inline(always)]
        |token, row| {
            if let Some(clip) = with.clip {
                row.iter_mut().for_each(|x| *x = x.clamp(-clip, clip));
            }
            let (queries, keys) = row.split_at_mut(with.heads * with.head_dim);
            let keys = &mut keys[..with.kv_heads * with.head_dim];
            for (part, norm) in [
                (&mut *queries, with.query_norm),
                (&mut *keys, with.key_norm),
            ] {
                if let Some(norm) = norm {
                    part.chunks_exact_mut(norm.gain.len())
                        .for_each(|head| norm.apply(head));
                }
            }
            if let Some((cos, sin)) = with.angles {
                let half = with.rotated / 2;
                let angles = token * half..(token + 1) * half;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                for part in [queries, keys] {
                    for head in part.chunks_exact_mut(with.head_dim) {
                        let (first, second) = head[..with.rotated].split_at_mut(half);
                        let pairs = first.iter_mut().zip(second).zip(cos.iter().zip(sin));
                        for ((a, b), (cos, sin)) in pairs {
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                }
            }
        },
    );
}

/// `ln p(target)` for each row of logits, which are bent by a soft cap first, if there is one.
pub(super) fn log_probs(
    logits: &mut [f32],
    width: usize,
    cap: Option<f64>,
    targets: &[u32],
) -> Vec<f32> {
    let mut out = vec![0.0; targets.len()];
    let rows = logits.par_chunks_exact_mut(width).zip(targets);
    rows.zip(&mut out).for_each(|((row, target), out)| {
        vectorised(
            #[inline(always)]
            || {
                soft_cap(row, cap);
                let of_target = row[*target as usize];
                let (highest, sum) = exponentials(row);
                *out = of_target - highest - sum.ln();
            },
        );
    });
    out
}
