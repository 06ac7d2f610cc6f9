//! `__ches_score_pair(needs, guard, [prompt,] chosen, rejected)`: the hidden function behind every
//! public function of a pair.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use async_trait::async_trait;
use datafusion::error::Result;

use super::call::{Kind, nullable};
use super::pair_columns::PairColumns;
use super::request::Outcome;
use super::structs::{
    self, displacement, displacement_simulated, preference_scores, preference_tokens,
};
use crate::implicit_prompt;
use crate::likely_mistakes::Mistakes;
use crate::preference_pair::PreferencePair;
use crate::scorer::{Argument, Job, Needs, PairScores, RowError, Scorer, ScorerError};
use crate::template_variables::TemplateVariables;
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

    /// The fields of `preference_scores` one by one, and the structs of the public functions that
    /// return one, each by the function's name.
    fn fields() -> Fields {
        let of_functions = structs::all().map(|(name, fields)| (name, DataType::Struct(fields)));
        let scores = preference_scores::fields();
        let of_functions = nullable(of_functions);
        scores.iter().chain(&of_functions).cloned().collect()
    }

    /// `error` tells of all that the call needs, unless the statement runs no model
    /// ([`HoistScores`](crate::optimizer::HoistScores)).
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

    fn item(texts: Vec<Text>, variables: TemplateVariables) -> Result<PreferencePair, RowError> {
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
                    variables,
                })
            }
            Err(texts) => match <[Text; 2]>::try_from(texts) {
                Ok([chosen, rejected]) => {
                    let pair = implicit_prompt::split(chosen, rejected);
                    let pair = pair.map_err(RowError::of_row)?;
                    Ok(PreferencePair { variables, ..pair })
                }
                Err(texts) => Err(RowError::of_row(format!("{} texts", texts.len()))),
            },
        }
    }

    fn mistakes(item: &PreferencePair) -> Mistakes {
        Mistakes::of_pair(item)
    }

    async fn score(
        scorer: &dyn Scorer,
        job: &Job,
        items: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        scorer.score_pairs(job, items).await
    }

    fn has_none(scores: &PairScores) -> bool {
        scores.no_score.is_some()
    }

    fn to_array(rows: Vec<Outcome<PairScores>>) -> Result<ArrayRef> {
        let rows = PairColumns::new(rows);
        let mut columns = preference_scores::columns(&rows);
        columns.extend([
            preference_scores::to_array(&rows, columns.clone())?,
            displacement::to_array(&rows)?,
            displacement_simulated::to_array(&rows)?,
            preference_tokens::to_array(&rows)?,
        ]);
        rows.structs(Self::fields(), columns)
    }
}

/// Whether a public function of a pair returns a struct of these fields.
pub(super) fn is_public_struct(fields: &Fields) -> bool {
    structs::all().iter().any(|(_, of_one)| of_one == fields)
}

/// Whether a field of a public function's struct is also one of the call's own.
pub(super) fn is_own_field(function: &str, field: &str) -> bool {
    is_struct(function) && preference_scores::fields().find(field).is_some()
}

/// Whether a public function of this name returns a struct.
pub(super) fn is_struct(function: &str) -> bool {
    structs::all().iter().any(|(name, _)| *name == function)
}

/// A response column's text, without the prompt that it may repeat.
pub(super) fn response(prompt: &Text, response: Text) -> Result<Text, String> {
    match response {
        Text::Turns(turns) => own_turns(prompt, turns).map(Text::Turns),
        other => Ok(other),
    }
}
