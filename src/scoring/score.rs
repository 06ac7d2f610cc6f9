//! The scores of a pair, from the embeddings of its two responses.
//!
//! Definitions are those of Razin et al. 2024 (arXiv 2410.08847), section 4.2 and appendix.

use crate::models::group::Embedding;

/// `⟨S⁺, S⁻ − S⁺⟩`, which is `⟨S⁺, S⁻⟩ − ‖S⁺‖²` (Definition 2).
pub(crate) fn ches(chosen: &Embedding, rejected: &Embedding) -> f64 {
    centered_product(&chosen.sum, &rejected.sum, 1.0, 1.0)
}

/// `⟨S⁺/m⁺, S⁻/m⁻ − S⁺/m⁺⟩`.
pub(crate) fn ches_normalized(chosen: &Embedding, rejected: &Embedding) -> f64 {
    centered_product(
        &chosen.sum,
        &rejected.sum,
        chosen.contexts as f64,
        rejected.contexts as f64,
    )
}

/// Inner product of the two last hidden embeddings.
pub(crate) fn last_hidden_similarity(chosen: &Embedding, rejected: &Embedding) -> f64 {
    let pairs = chosen.last.iter().zip(&rejected.last);
    pairs.map(|(c, r)| f64::from(*c) * f64::from(*r)).sum()
}

/// Levenshtein distance of two token sequences over the longer length.
pub(crate) fn normalized_edit_distance(chosen: &[u32], rejected: &[u32]) -> f64 {
    rapidfuzz::distance::levenshtein::normalized_distance(
        chosen.iter().copied(),
        rejected.iter().copied(),
    )
}

fn centered_product(chosen: &[f64], rejected: &[f64], chosen_by: f64, rejected_by: f64) -> f64 {
    let pairs = chosen.iter().zip(rejected);
    pairs
        .map(|(c, r)| (c / chosen_by, r / rejected_by))
        .map(|(c, r)| c * (r - c))
        .sum()
}
