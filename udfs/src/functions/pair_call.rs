//! `__ches_score_pair(needs, guard, [prompt,] chosen, rejected)`: the hidden function behind every
//! public function of a pair.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Fields};
use async_trait::async_trait;
use datafusion::error::Result;

use super::call::{Kind, nullable};
use super::request::Outcome;
use crate::implicit_prompt;
use crate::scorer::{
    Argument, Job, Needs, PairScores, PreferencePair, RowError, Scorer, ScorerError,
};
use crate::text::{Text, own_turns};

/// Scores of a preference pair.
#[derive(Debug)]
pub(super) struct Pair;

#[async_trait]
impl Kind for Pair {
    const NAME: &'static str = "__ches_score_pair";
    type Item = PreferencePair;
    type Scores = PairScores;

    fn arguments(count: usize) -> Option<&'static [Argument]> {
        match count {
            2 => Some(&[Argument::Chosen, Argument::Rejected]),
            3 => Some(&[Argument::Prompt, Argument::Chosen, Argument::Rejected]),
            _ => None,
        }
    }

    /// The struct of `preference_scores`.
    fn fields() -> Fields {
        nullable([
            ("ches", DataType::Float64),
            ("ches_normalized", DataType::Float64),
            ("last_hidden_similarity", DataType::Float64),
            ("normalized_edit_distance", DataType::Float64),
            ("chosen_logprob", DataType::Float64),
            ("rejected_logprob", DataType::Float64),
            ("prompt_tokens", DataType::Int32),
            ("chosen_tokens", DataType::Int32),
            ("rejected_tokens", DataType::Int32),
            ("truncated", DataType::Boolean),
            ("error", DataType::Utf8),
        ])
    }

    /// `error` tells of all that the call needs.
    fn field_needs(field: &str) -> Option<Needs> {
        match field {
            "prompt_tokens" | "chosen_tokens" | "rejected_tokens" | "truncated" => {
                Some(Needs::empty())
            }
            "normalized_edit_distance" => Some(Needs::EDIT_DISTANCE),
            "ches" | "ches_normalized" | "last_hidden_similarity" => Some(Needs::EMBEDDINGS),
            "chosen_logprob" | "rejected_logprob" => Some(Needs::LOG_PROBS),
            _ => None,
        }
    }

    fn item(texts: Vec<Text>) -> Result<PreferencePair, RowError> {
        match <[Text; 3]>::try_from(texts) {
            Ok([prompt, chosen, rejected]) => {
                let chosen = response(&prompt, chosen)
                    .map_err(|reason| RowError::of(Argument::Chosen, reason))?;
                let rejected = response(&prompt, rejected)
                    .map_err(|reason| RowError::of(Argument::Rejected, reason))?;
                Ok(PreferencePair {
                    prompt,
                    chosen,
                    rejected,
                })
            }
            Err(texts) => match <[Text; 2]>::try_from(texts) {
                Ok([chosen, rejected]) => {
                    implicit_prompt::split(chosen, rejected).map_err(RowError::of_row)
                }
                Err(texts) => Err(RowError::of_row(format!("{} texts", texts.len()))),
            },
        }
    }

    async fn score(
        scorer: &dyn Scorer,
        job: &Job,
        items: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        scorer.score_pairs(job, items).await
    }

    fn to_array(rows: Vec<Outcome<PairScores>>) -> Result<ArrayRef> {
        let valid: NullBuffer = rows.iter().map(Option::is_some).collect();
        let scores = |row: &Outcome<PairScores>| match row {
            Some(Ok(scores)) => scores.clone(),
            Some(Err(error)) => PairScores {
                no_score: Some(error.reason.clone()),
                ..PairScores::default()
            },
            None => PairScores::default(),
        };
        let rows: Vec<PairScores> = rows.iter().map(scores).collect();
        let float = |of: fn(&PairScores) -> Option<f64>| -> ArrayRef {
            Arc::new(rows.iter().map(of).collect::<Float64Array>())
        };
        let count = |of: fn(&PairScores) -> Option<i32>| -> ArrayRef {
            Arc::new(rows.iter().map(of).collect::<Int32Array>())
        };
        let columns: Vec<ArrayRef> = vec![
            float(|row| row.ches),
            float(|row| row.ches_normalized),
            float(|row| row.last_hidden_similarity),
            float(|row| row.normalized_edit_distance),
            float(|row| row.chosen_logprob),
            float(|row| row.rejected_logprob),
            count(|row| row.prompt_tokens),
            count(|row| row.chosen_tokens),
            count(|row| row.rejected_tokens),
            Arc::new(
                rows.iter()
                    .map(|row| row.truncated)
                    .collect::<BooleanArray>(),
            ),
            Arc::new(
                rows.iter()
                    .map(|row| row.no_score.as_deref())
                    .collect::<StringArray>(),
            ),
        ];
        Ok(Arc::new(StructArray::try_new(
            Self::fields(),
            columns,
            Some(valid),
        )?))
    }
}

/// A response column's text, without the prompt that it may repeat.
pub(super) fn response(prompt: &Text, response: Text) -> Result<Text, String> {
    match response {
        Text::Turns(turns) => own_turns(prompt, turns).map(Text::Turns),
        other => Ok(other),
    }
}
