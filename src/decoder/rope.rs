//! Rotary position embedding.

use super::PackedBatch;
use super::config::RopeConfig;

/// The frequencies of a rotary embedding.
#[derive(Debug)]
pub(super) struct Rope {
    dims: usize,
    magnitude: f32,
    frequencies: Vec<f32>,
    /// Those of sequences of more tokens than the number.
    long: Option<(usize, Vec<f32>)>,
}

/// Cosines and sines of a batch's positions, each `(tokens, dims / 2)`.
#[derive(Debug)]
pub(super) struct Table {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    /// How much of a head is rotated.
    pub dims: usize,
}

impl Rope {
    pub(super) fn new(config: &RopeConfig) -> Self {
        let frequencies = |factors: Option<&Vec<f32>>| {
            let of_pair = |pair: usize| {
                let exponent = (2 * pair) as f32 / config.dims as f32;
                let factor = factors.map_or(1.0, |factors| factors[pair]);
                1.0 / (config.theta.powf(exponent) * factor)
            };
            (0..config.dims / 2).map(of_pair).collect()
        };
        let long = config.long.as_ref();
        Self {
            dims: config.dims,
            magnitude: config.magnitude,
            frequencies: frequencies(config.factors.as_ref()),
            long: long.map(|long| (long.from, frequencies(Some(&long.factors)))),
        }
    }

    /// Angles are formed in f32, as the reference implementations do.
    pub(super) fn at(&self, batch: &PackedBatch) -> Table {
        let count = batch.positions.len() * self.frequencies.len();
        let mut table = Table {
            cos: Vec::with_capacity(count),
            sin: Vec::with_capacity(count),
            dims: self.dims,
        };
        for segment in &batch.segments {
            let frequencies = match &self.long {
                Some((from, long)) if segment.sequence_tokens > *from => long,
                _ => &self.frequencies,
            };
            for position in &batch.positions[segment.own.clone()] {
                for frequency in frequencies {
                    let (sin, cos) = (*position as f32 * frequency).sin_cos();
                    table.cos.push(cos * self.magnitude);
                    table.sin.push(sin * self.magnitude);
                }
            }
        }
        table
    }
}
