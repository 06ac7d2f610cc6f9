//! `__ches_score_response(needs, guard, prompt, response)`: the hidden function behind every public
//! function of a single response.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, Float64Array, Int32Array, ListBuilder, StringArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use async_trait::async_trait;
use datafusion::error::Result;

use super::call::{Kind, nullable};
use super::pair_call::response;
use super::request::Outcome;
use crate::likely_mistakes::Mistakes;
use crate::preference_pair::PromptedResponse;
use crate::scorer::{
    Argument, Job, Needs, ResponseEmbedding, ResponseScores, RowError, Scorer, ScorerError,
};
use crate::template_variables::TemplateVariables;
use crate::text::Text;

/// The field that `response_embedding` returns.
pub(crate) const EMBEDDING: &str = "embedding";

/// The field of an embedding that the call has itself, since no model is needed for it.
const TOKENS: &str = "tokens";

/// Scores and embeddings of one response.
#[derive(Debug)]
pub(super) struct Response;

#[async_trait]
impl Kind for Response {
    const NAME: &'static str = "__ches_score_response";
    type Item = PromptedResponse;
    type Scores = ResponseScores;

    fn arguments(count: usize) -> Option<&'static [Argument]> {
        (count == 2).then_some(&[Argument::Prompt, Argument::Response])
    }

    fn fields() -> Fields {
        let embedding = DataType::Struct(embedding_fields());
        nullable([
            ("log_prob", DataType::Float64),
            (EMBEDDING, embedding),
            (TOKENS, DataType::Int32),
            ("error", DataType::Utf8),
        ])
    }

    fn field_needs(field: &str) -> Option<Needs> {
        match field {
            "log_prob" => Some(Needs::LOG_PROBS),
            EMBEDDING => Some(Needs::EMBEDDINGS),
            TOKENS => Some(Needs::empty()),
            _ => None,
        }
    }

    fn item(texts: Vec<Text>, variables: TemplateVariables) -> Result<PromptedResponse, RowError> {
        let [prompt, answer] = <[Text; 2]>::try_from(texts)
            .map_err(|texts| RowError::of_row(format!("{} texts", texts.len())))?;
        let response =
            response(&prompt, answer).map_err(|reason| RowError::of(Argument::Response, reason))?;
        Ok(PromptedResponse {
            prompt,
            response,
            variables,
        })
    }

    fn mistakes(item: &PromptedResponse) -> Mistakes {
        Mistakes::of_response(item)
    }

    async fn score(
        scorer: &dyn Scorer,
        job: &Job,
        items: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        scorer.score_responses(job, items).await
    }

    fn has_none(scores: &ResponseScores) -> bool {
        scores.no_score.is_some()
    }

    fn to_array(rows: Vec<Outcome<ResponseScores>>) -> Result<ArrayRef> {
        let valid: NullBuffer = rows.iter().map(Option::is_some).collect();
        let log_prob = |row: &Outcome<ResponseScores>| row.as_ref()?.as_ref().ok()?.log_prob;
        let tokens = |row: &Outcome<ResponseScores>| row.as_ref()?.as_ref().ok()?.tokens;
        let error = |row: &Outcome<ResponseScores>| match row.as_ref()? {
            Ok(scores) => scores.no_score.clone(),
            Err(error) => Some(error.reason.clone()),
        };
        let embeddings = rows
            .iter()
            .map(|row| row.as_ref()?.as_ref().ok()?.embedding.as_ref());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(log_prob).collect::<Float64Array>()),
            embedding_array(embeddings)?,
            Arc::new(rows.iter().map(tokens).collect::<Int32Array>()),
            Arc::new(rows.iter().map(error).collect::<StringArray>()),
        ];
        Ok(Arc::new(StructArray::try_new(
            Self::fields(),
            columns,
            Some(valid),
        )?))
    }
}

/// Whether a field of `response_embedding`'s struct is also one of the call's own.
pub(super) fn is_own_field(whole: &str, field: &str) -> bool {
    whole == EMBEDDING && field == TOKENS
}

/// The fields of `response_embedding`.
pub(crate) fn embedding_fields() -> Fields {
    let vector = DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)));
    nullable([
        ("sum", vector.clone()),
        ("last", vector),
        (TOKENS, DataType::Int32),
    ])
}

fn embedding_array<'a>(
    rows: impl Iterator<Item = Option<&'a ResponseEmbedding>> + Clone,
) -> Result<ArrayRef> {
    let list = |of: fn(&ResponseEmbedding) -> &[f32]| -> ArrayRef {
        let mut list = ListBuilder::new(Float32Builder::new());
        for row in rows.clone() {
            list.values().append_slice(row.map_or(&[], of));
            list.append(row.is_some());
        }
        Arc::new(list.finish())
    };
    let valid: NullBuffer = rows.clone().map(|row| row.is_some()).collect();
    let columns: Vec<ArrayRef> = vec![
        list(|row| &row.sum),
        list(|row| &row.last),
        Arc::new(
            rows.clone()
                .map(|row| row.map(|row| row.tokens))
                .collect::<Int32Array>(),
        ),
    ];
    Ok(Arc::new(StructArray::try_new(
        embedding_fields(),
        columns,
        Some(valid),
    )?))
}
