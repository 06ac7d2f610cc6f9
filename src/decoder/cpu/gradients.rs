//! The steps of predictions on CPU.
//!
//! Gradients of a matrix are formed in panels of some of its outputs, transposed: `(inputs, COLUMNS)`.
//! A panel is reduced, or its signs kept, and dropped.

use std::ops::Range;

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::matmul::{View, ViewMut, product, product_transposed};
use super::packed::{COLUMNS, Packed, panel_product};
use super::softmax::{exponentials_from, highest, soft_cap};
use super::vectorised::vectorised;
use super::{CpuBackend, Rows, add_bias, each_part, product_of, rows, with_norm};
use crate::decoder::backend::Backend;
use crate::decoder::gradient_backend::{GradientBackend, PairRows, Products};
use crate::decoder::{Linear, Matrix, Norm};

/// So many hidden states are unembedded at once.
const UNEMBEDDED_ROWS: usize = 1024;

/// By so many tokens of the vocabulary at once.
const UNEMBEDDED_TOKENS: usize = 2048;

/// So many numbers are summed up in f32 before they are in f64.
const SUMMED: usize = 256;

/// The signs of a matrix's entries, −1, 0 or 1: in panels as [`Packed`] has them.
#[derive(Debug)]
pub(crate) struct Signs {
    panels: Vec<Vec<i8>>,
}

/// What one hidden state has met of the vocabulary.
#[derive(Debug, Clone, Copy)]
struct Unembedded {
    highest: f32,
    /// Of `e` to the logits less the highest.
    sum: f32,
    of_target: f32,
}

impl GradientBackend for CpuBackend<'_> {
    type Signs = Signs;

    fn exact(&self) -> Self {
        Self {
            config: self.config,
            is_exact: true,
        }
    }

    fn to_host(&self, rows: &Rows) -> Result<Vec<f32>> {
        Ok(rows.values.clone())
    }

    fn product(&self, rows: &Rows, linear: &Linear) -> Result<Rows> {
        product_of(rows, &linear.weight, self.is_exact)
    }

    fn unembedded(
        &self,
        hidden: &Rows,
        unembedding: &Linear,
        targets: &[u32],
    ) -> Result<(Vec<f32>, Rows)> {
        let width = hidden.width;
        let (mut log_probs, mut gradients) = (Vec::new(), Vec::new());
        let parts = hidden.values.chunks(UNEMBEDDED_ROWS * width);
        for (hidden, targets) in parts.zip(targets.chunks(UNEMBEDDED_ROWS)) {
            let (of_part, gradients_of_part) =
                self.unembedded_part(hidden, width, unembedding, targets)?;
            log_probs.extend(of_part);
            gradients.extend(gradients_of_part);
        }
        let values = gradients;
        Ok((log_probs, Rows { values, width }))
    }

    fn linear_back(&self, gradients: &Rows, linear: &Linear) -> Result<Rows> {
        let count = gradients.values.len() / gradients.width;
        let (mut values, mut width, mut first) = (Vec::new(), 0, 0);
        each_part(&linear.weight, |part, inputs| {
            let outputs = part.len() / inputs;
            let is_first = values.is_empty();
            if is_first {
                (values, width) = (vec![0.0; count * inputs], inputs);
            }
            if count > 0 && outputs > 0 {
                product(
                    ViewMut::new(&mut values, count, inputs, inputs),
                    View::new(&gradients.values[first..], count, outputs, gradients.width),
                    View::new(part, outputs, inputs, inputs),
                    !is_first,
                    rayon::current_num_threads(),
                );
            }
            first += outputs;
            Ok(())
        })?;
        Ok(Rows { values, width })
    }

    fn normed_back(&self, rows: &Rows, mut gradients: Rows, norm: &Norm) -> Result<Rows> {
        with_norm(norm, self.eps(), |norm| {
            rows::normed_back(&rows.values, &mut gradients.values, norm);
            Ok(gradients)
        })
    }

    fn normed_along(&self, rows: &Rows, mut tangents: Rows, norm: &Norm) -> Result<Rows> {
        with_norm(norm, self.eps(), |norm| {
            rows::normed_along(&rows.values, &mut tangents.values, norm);
            Ok(tangents)
        })
    }

    fn activated_back(&self, up: &Rows, gradients: &Rows) -> Result<Rows> {
        let (is_gated, activation) = (self.config.gated_mlp, self.activation()?);
        let (up_values, gradients, inner) = (&up.values, &gradients.values, gradients.width);
        let values = rows::activated_back(up_values, gradients, inner, is_gated, activation);
        let width = up.width;
        Ok(Rows { values, width })
    }

    fn activated_along(&self, up: &Rows, tangents: &Rows) -> Result<Rows> {
        let (is_gated, activation) = (self.config.gated_mlp, self.activation()?);
        let width = self.config.intermediate_size;
        let (up, tangents) = (&up.values, &tangents.values);
        let values = rows::activated_along(up, tangents, width, is_gated, activation);
        Ok(Rows { values, width })
    }

    fn products(
        &self,
        gradients: &Rows,
        inputs: &Rows,
        pair: &PairRows,
        at: usize,
    ) -> Result<(Products, Rows)> {
        let chosen = OneSide::new(inputs, [pair.chosen.clone()]);
        let is_same = pair.chosen == pair.rejected;
        let rejected = (!is_same).then(|| OneSide::new(inputs, [pair.rejected.clone()]));
        let input = &inputs.values[at * inputs.width..(at + 1) * inputs.width];
        let panels = 0..gradients.width.div_ceil(COLUMNS);
        let of_panels: Vec<(Products, [f32; COLUMNS])> = panels
            .into_par_iter()
            .map(|panel| {
                let chosen = chosen.panel(gradients, panel, &[(pair.chosen.clone(), 1.0)]);
                let of_rejected = [(pair.rejected.clone(), 1.0)];
                let rejected = rejected
                    .as_ref()
                    .map(|rejected| rejected.panel(gradients, panel, &of_rejected));
                let rejected = rejected.as_ref().unwrap_or(&chosen);
                vectorised(
                    #[inline(always)]
                    || reduced(&chosen, rejected, input),
                )
            })
            .collect();
        let mut products = Products::default();
        let mut values = Vec::with_capacity(of_panels.len() * COLUMNS);
        for (of_panel, moves) in of_panels {
            products += of_panel;
            values.extend(moves);
        }
        let width = gradients.width;
        values.truncate(width);
        Ok((products, Rows { values, width }))
    }

    fn signs(&self, gradients: &Rows, inputs: &Rows, pair: &PairRows) -> Result<Signs> {
        let (chosen, rejected) = (pair.chosen.clone(), pair.rejected.clone());
        let both = OneSide::new(inputs, [chosen.clone(), rejected.clone()]);
        let parts = [(chosen, 1.0), (rejected, -1.0)];
        let panels = 0..gradients.width.div_ceil(COLUMNS);
        let signs = |difference: &mut Vec<f32>, panel: usize| {
            both.write_panel(gradients, panel, &parts, difference);
            vectorised(
                #[inline(always)]
                || {
                    let sign = |x: &f32| i8::from(*x > 0.0) - i8::from(*x < 0.0);
                    difference.iter().map(sign).collect()
                },
            )
        };
        let panels = panels.into_par_iter().map_init(Vec::new, signs).collect();
        Ok(Signs { panels })
    }

    fn linear_moved(&self, rows: &Rows, linear: &Linear, signs: &Signs, step: f64) -> Result<Rows> {
        if step == 0.0 && matches!(&linear.weight, Matrix::Packed(_)) {
            return self.linear(rows, linear);
        }
        let laid_out;
        let packed = match &linear.weight {
            Matrix::Packed(packed) => packed,
            other => {
                let mut values = Vec::new();
                each_part(other, |part, _| {
                    values.extend_from_slice(part);
                    Ok(())
                })?;
                laid_out = Packed::of_f32(&values, rows.width);
                &laid_out
            }
        };
        let width = packed.outputs();
        if signs.panels.len() != width.div_ceil(COLUMNS) {
            bail!("signs of another matrix");
        }
        let values = packed.product_by_panels(&rows.values, |number, panel| {
            vectorised(
                #[inline(always)]
                || {
                    for (weight, sign) in panel.iter_mut().zip(&signs.panels[number]) {
                        *weight += step as f32 * f32::from(*sign);
                    }
                },
            );
        });
        let mut out = Rows { values, width };
        add_bias(&mut out, linear)?;
        Ok(out)
    }
}

impl CpuBackend<'_> {
    /// As [`GradientBackend::unembedded`], of few enough rows.
    fn unembedded_part(
        &self,
        hidden: &[f32],
        width: usize,
        unembedding: &Linear,
        targets: &[u32],
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let count = targets.len();
        let cap = self.config.logit_cap;
        let bias = match &unembedding.bias {
            None => None,
            Some(bias) => Some(super::in_f32(bias)?.to_vec1::<f32>()?),
        };
        let mut met = vec![
            Unembedded {
                highest: f32::NEG_INFINITY,
                sum: 0.0,
                of_target: 0.0,
            };
            count
        ];
        // Of each row `Σ e^(logit − highest) · slope · W` over the tokens, and `slope · W` of the
        // target; the slope is that of the soft cap.
        let mut means = vec![0.0; count * width];
        let mut of_targets = vec![0.0; count * width];
        let mut logits = vec![0.0; count * UNEMBEDDED_TOKENS];
        let threads = rayon::current_num_threads();
        let mut first = 0;
        each_part(&unembedding.weight, |part, _| {
            for part in part.chunks(UNEMBEDDED_TOKENS * width) {
                let tokens = part.len() / width;
                let logits = &mut logits[..count * tokens];
                let embeddings = View::new(part, tokens, width, width);
                product_transposed(
                    ViewMut::new(logits, count, tokens, tokens),
                    View::new(hidden, count, width, width),
                    embeddings,
                    1.0,
                    threads,
                );
                let bias = bias.as_ref().map(|bias| &bias[first..first + tokens]);
                let rows = logits
                    .par_chunks_exact_mut(tokens)
                    .zip(&mut met)
                    .zip(targets);
                let means_of = means.par_chunks_exact_mut(width);
                let of_targets = of_targets.par_chunks_exact_mut(width);
                let rows = rows.zip(means_of.zip(of_targets));
                rows.for_each(|(((logits, met), target), (means, of_target))| {
                    vectorised(
                        #[inline(always)]
                        || {
                            if let Some(bias) = bias {
                                logits.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
                            }
                            soft_cap(logits, cap);
                            let slope = |x: f32| match cap {
                                None => 1.0,
                                Some(cap) => 1.0 - (x / cap as f32) * (x / cap as f32),
                            };
                            if let Some(at) = (*target as usize).checked_sub(first)
                                && at < tokens
                            {
                                met.of_target = logits[at];
                                let slope = slope(logits[at]);
                                let embedding = &part[at * width..(at + 1) * width];
                                for (out, value) in of_target.iter_mut().zip(embedding) {
                                    *out = slope * value;
                                }
                            }
                            let next = highest(logits).max(met.highest);
                            let scale = (met.highest - next).exp();
                            if scale < 1.0 {
                                means.iter_mut().for_each(|x| *x *= scale);
                            }
                            if cap.is_none() {
                                met.sum = met.sum * scale + exponentials_from(logits, next);
                            } else {
                                let mut slopes = logits.to_vec();
                                slopes.iter_mut().for_each(|x| *x = slope(*x));
                                met.sum = met.sum * scale + exponentials_from(logits, next);
                                logits
                                    .iter_mut()
                                    .zip(slopes)
                                    .for_each(|(x, slope)| *x *= slope);
                            }
                            met.highest = next;
                        },
                    );
                });
                product(
                    ViewMut::new(&mut means, count, width, width),
                    View::new(logits, count, tokens, tokens),
                    embeddings,
                    true,
                    threads,
                );
                first += tokens;
            }
            Ok(())
        })?;
        let rows = of_targets
            .chunks_exact_mut(width)
            .zip(means.chunks_exact(width));
        for ((out, means), met) in rows.zip(&met) {
            for (out, mean) in out.iter_mut().zip(means) {
                *out -= mean / met.sum;
            }
        }
        let log_prob = |met: &Unembedded| met.of_target - met.highest - met.sum.ln();
        Ok((met.iter().map(log_prob).collect(), of_targets))
    }
}

/// The inputs of some rows, transposed: what gradients of a matrix are formed with.
struct OneSide {
    /// `(inputs, rows)`.
    inputs: Vec<f32>,
    rows: usize,
}

impl OneSide {
    fn new<const N: usize>(inputs: &Rows, ranges: [Range<usize>; N]) -> Self {
        let rows: usize = ranges.iter().map(Range::len).sum();
        let mut transposed = vec![0.0; rows * inputs.width];
        for (to, from) in ranges.into_iter().flatten().enumerate() {
            let row = &inputs.values[from * inputs.width..(from + 1) * inputs.width];
            for (at, value) in row.iter().enumerate() {
                transposed[at * rows + to] = *value;
            }
        }
        Self {
            inputs: transposed,
            rows,
        }
    }

    /// One panel of the matrix's gradient.
    fn panel(&self, gradients: &Rows, panel: usize, ranges: &[(Range<usize>, f32)]) -> Vec<f32> {
        let mut out = Vec::new();
        self.write_panel(gradients, panel, ranges, &mut out);
        out
    }

    /// Makes `out` one panel of the matrix's gradient, `(inputs, COLUMNS)`: the sum over the rows of
    /// these ranges, each times its factor.
    fn write_panel(
        &self,
        gradients: &Rows,
        panel: usize,
        ranges: &[(Range<usize>, f32)],
        out: &mut Vec<f32>,
    ) {
        let columns = panel * COLUMNS..gradients.width.min((panel + 1) * COLUMNS);
        let mut of_rows = vec![0.0; self.rows * COLUMNS];
        let rows = ranges
            .iter()
            .flat_map(|(rows, factor)| rows.clone().map(move |row| (row, factor)));
        for (out, (row, factor)) in of_rows.chunks_exact_mut(COLUMNS).zip(rows) {
            let row = &gradients.values[row * gradients.width..(row + 1) * gradients.width];
            for (out, value) in out.iter_mut().zip(&row[columns.clone()]) {
                *out = factor * value;
            }
        }
        let inputs = self.inputs.len() / self.rows.max(1);
        out.resize(inputs * COLUMNS, 0.0);
        panel_product(&self.inputs, self.rows, &of_rows, out);
    }
}

/// What is made of a panel of both gradients; and what a move along the signs adds to the outputs of
/// `input`.
#[inline(always)]
fn reduced(chosen: &[f32], rejected: &[f32], input: &[f32]) -> (Products, [f32; COLUMNS]) {
    let mut products = Products::default();
    let mut moves = [0.0; COLUMNS];
    let panels = chosen
        .chunks(SUMMED * COLUMNS)
        .zip(rejected.chunks(SUMMED * COLUMNS));
    for ((chosen, rejected), input) in panels.zip(input.chunks(SUMMED)) {
        let mut sums = [[0.0_f32; COLUMNS]; 5];
        let (chosen, _) = chosen.as_chunks::<COLUMNS>();
        let (rejected, _) = rejected.as_chunks::<COLUMNS>();
        for ((chosen, rejected), input) in chosen.iter().zip(rejected).zip(input) {
            for at in 0..COLUMNS {
                let (plus, minus) = (chosen[at], rejected[at]);
                let up = if plus > minus { 1.0 } else { 0.0 };
                let down = if plus < minus { 1.0 } else { 0.0 };
                let sign: f32 = up - down;
                sums[0][at] += plus * sign;
                sums[1][at] += minus * sign;
                sums[2][at] += plus * plus;
                sums[3][at] += minus * minus;
                sums[4][at] += plus * minus;
                moves[at] += sign * input;
            }
        }
        let total = |sums: &[f32; COLUMNS]| sums.iter().copied().map(f64::from).sum::<f64>();
        products += Products {
            plus_signs: total(&sums[0]),
            minus_signs: total(&sums[1]),
            plus_plus: total(&sums[2]),
            minus_minus: total(&sums[3]),
            plus_minus: total(&sums[4]),
        };
    }
    (products, moves)
}
