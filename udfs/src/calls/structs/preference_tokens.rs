//! The struct of `preference_tokens`.

use arrow::array::{ArrayRef, Int32Array, ListArray, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::error::Result;
use std::sync::Arc;

use crate::calls::call::nullable;
use crate::calls::pair_columns::PairColumns;
use crate::scorer::ShownPair;

/// The name of the function, and of the field of the call.
pub(crate) const NAME: &str = "preference_tokens";

fn id_list() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)))
}

/// The fields of the struct.
pub(in crate::calls) fn fields() -> Fields {
    nullable([
        ("prompt_text", DataType::Utf8),
        ("chosen_text", DataType::Utf8),
        ("rejected_text", DataType::Utf8),
        ("prompt_ids", id_list()),
        ("chosen_ids", id_list()),
        ("rejected_ids", id_list()),
        ("end_token_id", DataType::Int32),
        ("error", DataType::Utf8),
    ])
}

/// The structs of rows.
pub(in crate::calls) fn to_array(rows: &PairColumns) -> Result<ArrayRef> {
    let of_rows = || rows.scores().map(|row| row.shown.as_deref());
    let text = |of: fn(&ShownPair) -> &str| -> ArrayRef {
        Arc::new(of_rows().map(|row| row.map(of)).collect::<StringArray>())
    };
    let ids = |of: fn(&ShownPair) -> &[i32]| -> ArrayRef {
        let lists = || of_rows().map(move |row| row.map(of));
        let lengths = lists().map(|list| list.map_or(0, <[i32]>::len));
        let values: Int32Array = lists().flatten().flatten().copied().map(Some).collect();
        let valid: NullBuffer = lists().map(|list| list.is_some()).collect();
        Arc::new(ListArray::new(
            Arc::new(Field::new_list_field(DataType::Int32, true)),
            OffsetBuffer::from_lengths(lengths),
            Arc::new(values),
            Some(valid),
        ))
    };
    let columns: Vec<ArrayRef> = vec![
        text(|row| &row.prompt_text),
        text(|row| &row.chosen_text),
        text(|row| &row.rejected_text),
        ids(|row| &row.prompt_ids),
        ids(|row| &row.chosen_ids),
        ids(|row| &row.rejected_ids),
        rows.count(|row| row.shown.as_deref()?.end_token_id),
        rows.error(),
    ];
    rows.structs(fields(), columns)
}
