//! The struct of `displacement`.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use datafusion::error::Result;
use std::sync::Arc;

use super::token_changes::{token_change_list, token_changes};
use crate::calls::call::nullable;
use crate::calls::pair_columns::PairColumns;
use crate::scorer::Displacement;

/// The name of the function, and of the field of the call.
pub(crate) const NAME: &str = "displacement";

/// The fields of the struct.
pub(in crate::calls) fn fields() -> Fields {
    nullable([
        ("chosen_rate", DataType::Float64),
        ("rejected_rate", DataType::Float64),
        ("chosen_rate_per_token", DataType::Float64),
        ("rejected_rate_per_token", DataType::Float64),
        ("chosen_rate_sgd", DataType::Float64),
        ("rejected_rate_sgd", DataType::Float64),
        ("overlap", DataType::Float64),
        ("chosen_logprob", DataType::Float64),
        ("rejected_logprob", DataType::Float64),
        ("gaining", token_change_list()),
        ("losing", token_change_list()),
        ("error", DataType::Utf8),
    ])
}

/// The structs of rows.
pub(in crate::calls) fn to_array(rows: &PairColumns) -> Result<ArrayRef> {
    let float = |of: fn(&Displacement) -> Option<f64>| {
        rows.float(move |row| row.displacement.as_deref().and_then(of))
    };
    let of_rows = || rows.scores().map(|row| row.displacement.as_deref());
    let columns: Vec<ArrayRef> = vec![
        float(|row| Some(row.chosen_rate)),
        float(|row| Some(row.rejected_rate)),
        float(|row| Some(row.chosen_rate_per_token)),
        float(|row| Some(row.rejected_rate_per_token)),
        float(|row| Some(row.chosen_rate_sgd)),
        float(|row| Some(row.rejected_rate_sgd)),
        float(|row| row.overlap),
        rows.float(|row| row.chosen_logprob),
        rows.float(|row| row.rejected_logprob),
        Arc::new(token_changes(of_rows().map(|row| Some(&row?.gaining[..])))),
        Arc::new(token_changes(of_rows().map(|row| Some(&row?.losing[..])))),
        rows.error(),
    ];
    rows.structs(fields(), columns)
}
