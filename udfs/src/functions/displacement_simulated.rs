//! `displacement_simulated(prompt, chosen, rejected)`.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use datafusion::error::Result;
use datafusion::logical_expr::Documentation;
use datafusion::logical_expr::scalar_doc_sections::DOC_SECTION_OTHER;

use super::call::nullable;
use super::facade::{Description, Scored};
use super::pair_columns::PairColumns;
use super::token_changes::{token_change_list, token_changes};
use crate::scorer::{Needs, SimulatedDisplacement};

pub(super) const NAME: &str = "displacement_simulated";

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::SIMULATION,
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "What one step of training on a preference pair does to its responses, simulated: the \
             MLPs and attention's output projections of all blocks move by ches.learning_rate \
             along the signs of the gradient of ln p(chosen) - ln p(rejected), attention held \
             constant, for this pair only, and the responses go through the model once more. A \
             struct of chosen_change, rejected_change (of the log-probabilities, nats), both \
             _per_token, gaining and losing (the tokens whose log-probability at the last prompt \
             position changes most), and error. Takes several times as long as displacement.",
            "displacement_simulated(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("displacement_simulated(chosen, rejected)")
        .with_sql_example(
            "SELECT id, displacement_simulated(prompt, chosen, rejected)['chosen_change_per_token'] \
             FROM pairs",
        )
        .build(),
    }
}

/// The fields of the struct.
pub(super) fn fields() -> Fields {
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
pub(super) fn to_array(rows: &PairColumns) -> Result<ArrayRef> {
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
