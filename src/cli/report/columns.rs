//! The scores and lengths that the page compares, as columns.

use super::Scored;
use super::statistics;

/// One number of each scored row.
pub(super) struct Column {
    /// As it is called in SQL, where it is a field there.
    pub name: &'static str,
    /// What it says, in a line.
    pub meaning: &'static str,
    /// Whether its values are whole numbers.
    pub whole: bool,
    pub values: Vec<f64>,
    /// In ascending order.
    pub sorted: Vec<f64>,
    pub ranks: Vec<f64>,
}

impl Column {
    pub(super) fn median(&self) -> f64 {
        statistics::quantile(&self.sorted, 0.5)
    }

    /// Spearman's; None if one of the two is constant.
    pub(super) fn correlation(&self, other: &Self) -> Option<f64> {
        statistics::rank_correlation(&self.ranks, &other.ranks)
    }
}

/// Every column of the page.
pub(super) struct Columns {
    pub ches_normalized: Column,
    pub ches: Column,
    pub chosen_rate_per_token: Column,
    pub rejected_rate_per_token: Column,
    pub last_hidden_similarity: Column,
    pub normalized_edit_distance: Column,
    pub margin_per_token: Column,
    pub prompt_tokens: Column,
    pub chosen_tokens: Column,
    pub rejected_tokens: Column,
    pub length_difference: Column,
}

impl Columns {
    pub(super) fn of(scored: &[Scored]) -> Self {
        let column = |name, meaning, whole, value: fn(&Scored) -> f64| {
            let values: Vec<f64> = scored.iter().map(value).collect();
            Column {
                name,
                meaning,
                whole,
                sorted: statistics::sorted(&values),
                ranks: statistics::ranks(&values),
                values,
            }
        };
        let score = |name, meaning, value| column(name, meaning, false, value);
        let tokens = |name, meaning, value| column(name, meaning, true, value);
        Self {
            ches_normalized: score(
                "ches_normalized",
                "the score the paper filters by; high: the responses look alike to the model",
                |row| row.ches_normalized,
            ),
            ches: score(
                "ches",
                "the same from sums, not means: mostly a difference of lengths",
                |row| row.ches,
            ),
            chosen_rate_per_token: score(
                "chosen_rate_per_token",
                "what a step on the pair does to ln π(chosen); low: it gains little, or falls",
                |row| row.chosen_rate_per_token,
            ),
            rejected_rate_per_token: score(
                "rejected_rate_per_token",
                "what a step on the pair does to ln π(rejected); high: it falls little, or gains",
                |row| row.rejected_rate_per_token,
            ),
            last_hidden_similarity: score(
                "last_hidden_similarity",
                "inner product of the two last hidden embeddings",
                |row| row.last_hidden_similarity,
            ),
            normalized_edit_distance: score(
                "normalized_edit_distance",
                "edits between the token sequences over the longer length; 0: identical",
                |row| row.normalized_edit_distance,
            ),
            margin_per_token: score(
                "margin per token",
                "ln π(chosen) − ln π(rejected), each per token, in nats, before training",
                margin_per_token,
            ),
            prompt_tokens: tokens("prompt_tokens", "tokens of the prompt", |row| {
                f64::from(row.prompt_tokens)
            }),
            chosen_tokens: tokens("chosen_tokens", "tokens of the chosen response", |row| {
                f64::from(row.chosen_tokens)
            }),
            rejected_tokens: tokens(
                "rejected_tokens",
                "tokens of the rejected response",
                |row| f64::from(row.rejected_tokens),
            ),
            length_difference: tokens(
                "rejected − chosen tokens",
                "above 0: the rejected response is longer",
                |row| f64::from(row.rejected_tokens) - f64::from(row.chosen_tokens),
            ),
        }
    }

    pub(super) fn scores(&self) -> [&Column; 7] {
        [
            &self.ches_normalized,
            &self.ches,
            &self.chosen_rate_per_token,
            &self.rejected_rate_per_token,
            &self.last_hidden_similarity,
            &self.normalized_edit_distance,
            &self.margin_per_token,
        ]
    }

    pub(super) fn lengths(&self) -> [&Column; 4] {
        [
            &self.prompt_tokens,
            &self.chosen_tokens,
            &self.rejected_tokens,
            &self.length_difference,
        ]
    }
}

/// The end token is scored too, unless a response was cut; which of the two was is not known, and
/// one token of a cut response matters little.
fn margin_per_token(row: &Scored) -> f64 {
    let targets = |tokens: u32| (f64::from(tokens) + f64::from(u8::from(!row.truncated))).max(1.0);
    row.chosen_logprob / targets(row.chosen_tokens)
        - row.rejected_logprob / targets(row.rejected_tokens)
}
