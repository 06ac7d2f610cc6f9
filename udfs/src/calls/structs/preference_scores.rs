//! The struct of `preference_scores`.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use datafusion::error::Result;

use crate::calls::call::nullable;
use crate::calls::pair_columns::PairColumns;

/// The name of the function, and of the field of the call.
pub(crate) const NAME: &str = "preference_scores";

/// The fields of the struct.
pub(in crate::calls) fn fields() -> Fields {
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
pub(in crate::calls) fn columns(rows: &PairColumns) -> Vec<ArrayRef> {
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
pub(in crate::calls) fn to_array(rows: &PairColumns, columns: Vec<ArrayRef>) -> Result<ArrayRef> {
    rows.structs(fields(), columns)
}
