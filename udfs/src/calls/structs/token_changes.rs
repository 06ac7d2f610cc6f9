//! The lists `gaining` and `losing`: tokens with the change of their log-probabilities.

use std::sync::Arc;

use arrow::array::{Float64Array, Int32Array, ListArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};

use crate::calls::call::nullable;
use crate::scorer::TokenChange;

fn fields() -> Fields {
    nullable([
        ("token", DataType::Utf8),
        ("token_id", DataType::Int32),
        ("change", DataType::Float64),
    ])
}

fn item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(fields()), true))
}

/// The type of such a list.
pub(super) fn token_change_list() -> DataType {
    DataType::List(item())
}

/// The lists of rows.
pub(super) fn token_changes<'a>(
    rows: impl Iterator<Item = Option<&'a [TokenChange]>> + Clone,
) -> ListArray {
    let changes = || rows.clone().flatten().flatten();
    let tokens: StringArray = changes().map(|change| Some(&change.token)).collect();
    let ids: Int32Array = changes().map(|change| change.token_id).collect();
    let of_changes: Float64Array = changes().map(|change| change.change).collect();
    let structs = StructArray::new(
        fields(),
        vec![Arc::new(tokens), Arc::new(ids), Arc::new(of_changes)],
        None,
    );
    let lengths = rows.clone().map(|row| row.map_or(0, <[_]>::len));
    let valid: NullBuffer = rows.clone().map(|row| row.is_some()).collect();
    ListArray::new(
        item(),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(structs),
        Some(valid),
    )
}
