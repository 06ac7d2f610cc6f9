//! `preference_scores(prompt, chosen, rejected)`.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use datafusion::error::Result;
use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use super::call::nullable;
use super::facade::{Description, Scored};
use super::pair_columns::PairColumns;
use crate::scorer::Needs;

pub(super) const NAME: &str = "preference_scores";

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::EDIT_DISTANCE
            .union(Needs::EMBEDDINGS)
            .union(Needs::LOG_PROBS),
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "Everything that one pass of the model over a preference pair gives, as a struct of \
             ches, ches_normalized, last_hidden_similarity, normalized_edit_distance, \
             chosen_logprob, rejected_logprob, prompt_tokens, chosen_tokens, rejected_tokens, \
             truncated and error.",
            "preference_scores(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("preference_scores(chosen, rejected)")
        .with_sql_example(
            "SELECT id, preference_scores(prompt, chosen, rejected)['chosen_logprob'] FROM pairs",
        )
        .build(),
    }
}

/// The fields of the struct.
pub(super) fn fields() -> Fields {
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

/// The columns of the struct.
pub(super) fn columns(rows: &PairColumns) -> Vec<ArrayRef> {
    vec![
        rows.float(|row| row.ches),
        rows.float(|row| row.ches_normalized),
        rows.float(|row| row.last_hidden_similarity),
        rows.float(|row| row.normalized_edit_distance),
        rows.float(|row| row.chosen_logprob),
        rows.float(|row| row.rejected_logprob),
        rows.count(|row| row.prompt_tokens),
        rows.count(|row| row.chosen_tokens),
        rows.count(|row| row.rejected_tokens),
        rows.truth(|row| row.truncated),
        rows.error(),
    ]
}

/// The structs of rows.
pub(super) fn to_array(rows: &PairColumns, columns: Vec<ArrayRef>) -> Result<ArrayRef> {
    rows.structs(fields(), columns)
}
