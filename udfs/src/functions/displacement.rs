//! `displacement(prompt, chosen, rejected)`.

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
use crate::scorer::{Displacement, Needs};

pub(super) const NAME: &str = "displacement";

pub(super) fn describe() -> Description {
    Description {
        name: NAME,
        aliases: &[],
        scored: Scored::Pair,
        needs: Needs::DISPLACEMENT.union(Needs::LOG_PROBS),
        field: Some(NAME),
        documentation: Documentation::builder(
            DOC_SECTION_OTHER,
            "What training on a preference pair does to its responses, to first order: how fast \
             their log-probabilities change along a step of Adam on the DPO loss, restricted to \
             the last block. A struct of chosen_rate, rejected_rate (nats for each unit that \
             every weight moves by), both _per_token (to rank pairs by) and _sgd (along the \
             gradient instead, without beta/2), overlap (above 1: a step of SGD lowers the \
             chosen response), chosen_logprob, rejected_logprob, gaining and losing (the tokens \
             whose probability at the last prompt position changes most, with the rate of their \
             log-probability), and error. Rates rank pairs of one data set under one model.",
            "displacement(prompt, chosen, rejected)",
        )
        .with_alternative_syntax("displacement(chosen, rejected)")
        .with_sql_example(
            "SELECT id, displacement(prompt, chosen, rejected)['chosen_rate_per_token'] FROM pairs",
        )
        .build(),
    }
}

/// The fields of the struct.
pub(super) fn fields() -> Fields {
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
pub(super) fn to_array(rows: &PairColumns) -> Result<ArrayRef> {
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
