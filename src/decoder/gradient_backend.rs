//! What predictions take of a backend: gradients of
//! log-probabilities with respect to activations and matrices, and matrices moved along them.
//!
//! All of it is computed in f32, whatever the weights are.

use std::ops::{AddAssign, Range};

use candle_core::Result;

use super::backend::Backend;
use super::{Linear, Norm};

/// The rows of a pair's two responses, among those of several pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PairRows {
    pub chosen: Range<usize>,
    /// Those of `chosen` if both responses are the same, so that their gradients are.
    pub rejected: Range<usize>,
}

/// Inner products over the entries of matrices. `G⁺` and `G⁻` are the gradients of the responses'
/// log-probabilities, `s` the signs of `G⁺ − G⁻`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Products {
    /// `⟨G⁺, s⟩`.
    pub plus_signs: f64,
    /// `⟨G⁻, s⟩`.
    pub minus_signs: f64,
    /// `⟨G⁺, G⁺⟩`.
    pub plus_plus: f64,
    /// `⟨G⁻, G⁻⟩`.
    pub minus_minus: f64,
    /// `⟨G⁺, G⁻⟩`.
    pub plus_minus: f64,
}

impl AddAssign for Products {
    fn add_assign(&mut self, other: Self) {
        self.plus_signs += other.plus_signs;
        self.minus_signs += other.minus_signs;
        self.plus_plus += other.plus_plus;
        self.minus_minus += other.minus_minus;
        self.plus_minus += other.plus_minus;
    }
}

/// What predictions consist of, besides [`Backend`].
pub(super) trait GradientBackend: Backend + Sized {
    /// The signs of a matrix's entries.
    type Signs;

    /// The same steps in f32.
    fn exact(&self) -> Self;

    /// Rows of f32, `(rows, width)`, one after another.
    fn to_host(&self, rows: &Self::Rows) -> Result<Vec<f32>>;

    /// Each row times a linear map's matrix, without its bias.
    fn product(&self, rows: &Self::Rows, linear: &Linear) -> Result<Self::Rows>;

    /// `ln p(target)` at each hidden state, nats, and its gradient with respect to that state.
    ///
    /// The vocabulary is met in parts: what is exponentiated is relative to the highest logit so far,
    /// and what is summed up is scaled down when a higher one comes.
    fn unembedded(
        &self,
        hidden: &Self::Rows,
        unembedding: &Linear,
        targets: &[u32],
    ) -> Result<(Vec<f32>, Self::Rows)>;

    /// Gradients with respect to a linear map's inputs, from those of its outputs.
    fn linear_back(&self, gradients: &Self::Rows, linear: &Linear) -> Result<Self::Rows>;

    /// Gradients with respect to rows, from those of the normed rows.
    fn normed_back(
        &self,
        rows: &Self::Rows,
        gradients: Self::Rows,
        norm: &Norm,
    ) -> Result<Self::Rows>;

    /// How normed rows move when rows do.
    fn normed_along(
        &self,
        rows: &Self::Rows,
        tangents: Self::Rows,
        norm: &Norm,
    ) -> Result<Self::Rows>;

    /// Gradients with respect to the projection into the MLP, from those of [`Backend::activated`].
    fn activated_back(&self, up: &Self::Rows, gradients: &Self::Rows) -> Result<Self::Rows>;

    /// How [`Backend::activated`] moves when the projection does.
    fn activated_along(&self, up: &Self::Rows, tangents: &Self::Rows) -> Result<Self::Rows>;

    /// Of the matrix that `inputs` were multiplied with, given `gradients` with respect to its
    /// outputs: the products, and what its move along the signs adds to the outputs of the input
    /// row `at`.
    fn products(
        &self,
        gradients: &Self::Rows,
        inputs: &Self::Rows,
        pair: &PairRows,
        at: usize,
    ) -> Result<(Products, Self::Rows)>;

    /// The signs of `G⁺ − G⁻` of that matrix.
    fn signs(
        &self,
        gradients: &Self::Rows,
        inputs: &Self::Rows,
        pair: &PairRows,
    ) -> Result<Self::Signs>;

    /// A linear map of each row, its matrix moved by `step` along signs.
    fn linear_moved(
        &self,
        rows: &Self::Rows,
        linear: &Linear,
        signs: &Self::Signs,
        step: f64,
    ) -> Result<Self::Rows>;
}
