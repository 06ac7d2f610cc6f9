//! Rotary position embedding.

use candle_core::{D, Device, Result, Tensor};

use super::PackedBatch;
use super::config::RopeConfig;

/// The frequencies of a rotary embedding.
#[derive(Debug)]
pub(super) struct Rope {
    dims: usize,
    magnitude: f64,
    frequencies: Vec<f32>,
    /// Those of sequences of more tokens than the number.
    long: Option<(usize, Vec<f32>)>,
}

/// Cosines and sines of a batch's positions, each `(tokens, dims / 2)`.
pub(super) struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub fn new(config: &RopeConfig) -> Self {
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
            magnitude: config.magnitude.into(),
            frequencies: frequencies(config.factors.as_ref()),
            long: long.map(|long| (long.from, frequencies(Some(&long.factors)))),
        }
    }

    /// Angles are formed in f32, as the reference implementations do.
    pub fn at(&self, batch: &PackedBatch, device: &Device) -> Result<Angles> {
        let mut angles = Vec::with_capacity(batch.positions.len() * self.frequencies.len());
        for segment in &batch.segments {
            let frequencies = match &self.long {
                Some((from, long)) if segment.sequence_tokens > *from => long,
                _ => &self.frequencies,
            };
            for position in &batch.positions[segment.own.clone()] {
                angles.extend(frequencies.iter().map(|f| *position as f32 * f));
            }
        }
        let shape = (batch.positions.len(), self.frequencies.len());
        let angles = Tensor::from_vec(angles, shape, device)?;
        Ok(Angles {
            cos: (angles.cos()? * self.magnitude)?,
            sin: (angles.sin()? * self.magnitude)?,
        })
    }

    /// Rotates heads of shape `(1, tokens, heads, head_dim)`, f32.
    pub fn rotate(&self, heads: &Tensor, Angles { cos, sin }: &Angles) -> Result<Tensor> {
        let rotate = |heads: &Tensor| candle_nn::rotary_emb::rope_thd(heads, cos, sin);
        let head_dim = heads.dim(D::Minus1)?;
        if self.dims == head_dim {
            return rotate(heads);
        }
        let rotated = rotate(&heads.narrow(D::Minus1, 0, self.dims)?.contiguous()?)?;
        let rest = heads.narrow(D::Minus1, self.dims, head_dim - self.dims)?;
        Tensor::cat(&[&rotated, &rest], D::Minus1)
    }
}
