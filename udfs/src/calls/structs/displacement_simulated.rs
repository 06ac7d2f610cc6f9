//! The struct of `displacement_simulated`.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use datafusion::error::Result;
use std::sync::Arc;

use super::token_changes::{token_change_list, token_changes};
use crate::calls::call::nullable;
use crate::calls::pair_columns::PairColumns;
use crate::scorer::SimulatedDisplacement;

/// The name of the function, and of the field of the call.
pub(crate) const NAME: &str = "displacement_simulated";

/// The fields of the struct.
pub(in crate::calls) fn fields() -> Fields {
    nullable([
        ("chosen_change", DataType::Float64),
        ("rejected_change", DataType::Float64),
        ("chosen_change_per_token", DataType::Float64),
        ("rejected_change_per_token", DataType::Float64),
        ("gaining", token_change_list()),
        ("losing", token_change_list()),
        ("error", DataType::Utf8),
    ])
}

/// The structs of rows.
pub(in crate::calls) fn to_array(rows: &PairColumns) -> Result<ArrayRef> {
    let float = |of: fn(&SimulatedDisplacement) -> f64| {
        rows.float(move |row| row.simulated.as_deref().map(of))
    };
    let of_rows = || rows.scores().map(|row| row.simulated.as_deref());
    let columns: Vec<ArrayRef> = vec![
        float(|row| row.chosen_change),
        float(|row| row.rejected_change),
        float(|row| row.chosen_change_per_token),
        float(|row| row.rejected_change_per_token),
        Arc::new(token_changes(of_rows().map(|row| Some(&row?.gaining[..])))),
        Arc::new(token_changes(of_rows().map(|row| Some(&row?.losing[..])))),
        rows.error(),
    ];
    rows.structs(fields(), columns)
}
