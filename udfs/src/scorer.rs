//! The door between SQL and the model: one async trait and the plain values that pass it.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use bitflags::bitflags;

use crate::preference_pair::{PreferencePair, PromptedResponse};
use crate::printable::printable;
use crate::query_resources::{QueryMemory, ScoreMetrics};
use crate::settings::ChesSettings;

bitflags! {
    /// What a query needs of each pair, so that nothing else is computed.
    ///
    /// Token counts and `truncated` are always given. With none of [`Needs::MODEL`] set,
    /// no forward pass runs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Needs: u8 {
        /// The token-level edit distance; runs no model.
        const EDIT_DISTANCE = 1;
        /// The scores formed from hidden embeddings: a forward pass, no unembedding.
        const EMBEDDINGS = 1 << 1;
        /// Log-probabilities: a forward pass and the unembedding of the response's positions.
        const LOG_PROBS = 1 << 2;
        /// First-order effects of training: a forward pass, and back through the unembedding and
        /// the last block. Gives log-probabilities too.
        const DISPLACEMENT = 1 << 3;
        /// A simulated step of training: a forward pass, back through all blocks, and through them
        /// again. Gives all of the former too.
        const SIMULATION = 1 << 4;
        /// The texts and token ids that the model is shown; runs no model.
        const TOKENS = 1 << 5;
        /// Whatever takes a forward pass.
        const MODEL = Self::EMBEDDINGS.bits()
            | Self::LOG_PROBS.bits()
            | Self::DISPLACEMENT.bits()
            | Self::SIMULATION.bits();
    }
}

impl Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bitflags::parser::to_writer(self, f)
    }
}

/// What a scorer says of one pair. Scores that were not asked for, or that the row has not by
/// definition, are `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairScores {
    /// `⟨S⁺, S⁻ − S⁺⟩` (Razin et al. 2024, Definition 2).
    pub ches: Option<f64>,
    /// `⟨S⁺/m⁺, S⁻/m⁻ − S⁺/m⁺⟩`.
    pub ches_normalized: Option<f64>,
    /// Inner product of the two last hidden embeddings.
    pub last_hidden_similarity: Option<f64>,
    /// Levenshtein distance of the responses' token ids over the longer length, in `[0, 1]`.
    pub normalized_edit_distance: Option<f64>,
    /// `ln π(chosen | prompt)`, nats.
    pub chosen_logprob: Option<f64>,
    /// `ln π(rejected | prompt)`, nats.
    pub rejected_logprob: Option<f64>,
    /// Tokens of the prompt, BOS included.
    pub prompt_tokens: Option<i32>,
    /// Tokens of the chosen response that were scored, without the end token.
    pub chosen_tokens: Option<i32>,
    /// Tokens of the rejected response that were scored, without the end token.
    pub rejected_tokens: Option<i32>,
    /// Whether `ches.max_length` cut either response.
    pub truncated: Option<bool>,
    /// First-order effects of training on the pair.
    pub displacement: Option<Box<Displacement>>,
    /// The effect of one step of training on the pair.
    pub simulated: Option<Box<SimulatedDisplacement>>,
    /// What the model is shown of the pair.
    pub shown: Option<Box<ShownPair>>,
    /// Why this row has no scores by definition (an empty response, a prompt that fills
    /// `ches.max_length`); not an error, whatever `ches.on_error` says.
    pub no_score: Option<String>,
}

/// What the model is shown of a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShownPair {
    /// The rendered prompt.
    pub prompt_text: String,
    /// What follows it with the chosen response.
    pub chosen_text: String,
    /// What follows it with the rejected response.
    pub rejected_text: String,
    /// The prompt's own tokens, BOS included.
    pub prompt_ids: Vec<i32>,
    /// The tokens of prompt and chosen response, tokenized as one text and cut to the longest length.
    pub chosen_ids: Vec<i32>,
    /// The tokens of prompt and rejected response.
    pub rejected_ids: Vec<i32>,
    /// The token that ends a response, if it is known.
    pub end_token_id: Option<i32>,
}

/// What training on a pair does to its responses, to first order. `G⁺` and `G⁻` are the gradients of
/// `ln π(chosen)` and `ln π(rejected)` with respect to some of the model's matrices, never the
/// embeddings `S`. All numbers are finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Displacement {
    /// `⟨G⁺, sign(G⁺ − G⁻)⟩`: nats for each unit that every weight moves by.
    pub chosen_rate: f64,
    /// `⟨G⁻, sign(G⁺ − G⁻)⟩`.
    pub rejected_rate: f64,
    /// `chosen_rate` over the targets that were scored.
    pub chosen_rate_per_token: f64,
    /// `rejected_rate` over the targets that were scored.
    pub rejected_rate_per_token: f64,
    /// `⟨G⁺, G⁺ − G⁻⟩`.
    pub chosen_rate_sgd: f64,
    /// `⟨G⁻, G⁺ − G⁻⟩`.
    pub rejected_rate_sgd: f64,
    /// `⟨G⁺, G⁻⟩ / ⟨G⁺, G⁺⟩`; none where `G⁺` is zero.
    pub overlap: Option<f64>,
    /// Tokens whose log-probability at the last prompt position rises, the fastest first; `change`
    /// is in nats for each unit.
    pub gaining: Vec<TokenChange>,
    /// Tokens of which it falls, the fastest first.
    pub losing: Vec<TokenChange>,
}

/// What one simulated step of training on a pair does to its responses. All numbers are finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SimulatedDisplacement {
    /// The change of `ln π(chosen | prompt)`, nats.
    pub chosen_change: f64,
    /// The change of `ln π(rejected | prompt)`, nats.
    pub rejected_change: f64,
    /// `chosen_change` over the targets that were scored.
    pub chosen_change_per_token: f64,
    /// `rejected_change` over the targets that were scored.
    pub rejected_change_per_token: f64,
    /// Tokens whose log-probability at the last prompt position rises, the most first; `change` is in
    /// nats.
    pub gaining: Vec<TokenChange>,
    /// Tokens of which it falls, the most first.
    pub losing: Vec<TokenChange>,
}

/// How the log-probability of a token changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenChange {
    /// The token's text.
    pub token: String,
    /// The token.
    pub token_id: i32,
    /// The change of its log-probability; the struct that holds it says its unit.
    pub change: f64,
}

/// What is kept of a response's hidden embeddings, enough for every score of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseEmbedding {
    /// `S`: the sum over the response's `tokens + 1` contexts, as long as the model is wide.
    pub sum: Vec<f32>,
    /// The last of them.
    pub last: Vec<f32>,
    /// Tokens of the response that were scored, without the end token.
    pub tokens: i32,
}

/// What a scorer says of one prompted response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseScores {
    /// `ln π(response | prompt)`, nats.
    pub log_prob: Option<f64>,
    /// The hidden embeddings.
    pub embedding: Option<ResponseEmbedding>,
    /// Tokens of the response that were scored, without the end token; none of a row without scores.
    pub tokens: Option<i32>,
    /// Why this row has no scores by definition.
    pub no_score: Option<String>,
}

/// The argument of a function that a row error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// The prompt.
    Prompt,
    /// The preferred response of a pair.
    Chosen,
    /// The dispreferred response of a pair.
    Rejected,
    /// The only response.
    Response,
}

impl Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prompt => "prompt",
            Self::Chosen => "chosen",
            Self::Rejected => "rejected",
            Self::Response => "response",
        })
    }
}

/// One row could not be scored: it cannot be rendered, is malformed, or failed on the device.
///
/// `ches.on_error` decides whether that fails the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The argument at fault, where it is one.
    pub argument: Option<Argument>,
    /// What was found and what is accepted: at most some 800 characters, none of them a control.
    pub reason: String,
}

impl RowError {
    /// An error of one argument.
    pub fn of(argument: Argument, reason: impl Into<String>) -> Self {
        Self {
            argument: Some(argument),
            reason: printable(reason.into()),
        }
    }

    /// An error of the row as a whole.
    pub fn of_row(reason: impl Into<String>) -> Self {
        Self {
            argument: None,
            reason: printable(reason.into()),
        }
    }
}

/// No row of the query can be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScorerError {
    /// A setting is missing or names something that cannot be used.
    #[error("ches.{key}: {reason}")]
    Setting {
        /// The key, without its prefix.
        key: &'static str,
        /// What was found and what is accepted.
        reason: String,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// What a call asks of a scorer, besides its rows.
#[derive(Debug, Clone)]
pub struct Job {
    /// The settings of the session.
    pub settings: ChesSettings,
    /// What is to be computed.
    pub needs: Needs,
    /// Where the scorer says what it did; see [`ScoreMetrics`] for what is left to it.
    pub metrics: ScoreMetrics,
    /// What the memory that the job takes is accounted to; none where the plan does not tell.
    pub memory: Option<Arc<QueryMemory>>,
}

impl Job {
    /// A job without counters or a memory pool.
    pub fn new(settings: ChesSettings, needs: Needs) -> Self {
        Self {
            settings,
            needs,
            metrics: ScoreMetrics::default(),
            memory: None,
        }
    }
}

/// Computes what the functions of this crate return.
///
/// One value of this trait serves all sessions, partitions and functions that it is
/// registered with, concurrently; it forms its own batches. Both methods return one result
/// for each row, in the order given. Dropping the future must stop the work.
#[async_trait]
pub trait Scorer: Debug + Send + Sync + 'static {
    /// Where scores under these settings come from, as keys and values: the metadata of the
    /// columns that hold them, and so of a Parquet file that they are written to. Asked while a
    /// query is planned. Empty, as by default, where there is nothing to say or no usable model.
    fn provenance(&self, _settings: &ChesSettings) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Scores preference pairs.
    async fn score_pairs(
        &self,
        job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError>;

    /// Scores prompted responses, each on its own.
    async fn score_responses(
        &self,
        job: &Job,
        responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError>;
}
