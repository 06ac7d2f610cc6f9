//! The further fields of messages (`name`, `tool_calls`, `reasoning_content`, …): which Arrow types a chat
//! template can be shown, and reading them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use datafusion::error::Result;

use crate::text::FieldValue;

/// Whether values of a type are what Python has too, so that a template prints them the same.
pub(crate) fn is_shown(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null | DataType::Boolean => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_shown(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_shown(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| is_shown(field.data_type())),
        number => number.is_integer() || number.is_floating(),
    }
}

/// Values of a shown type, in few types.
#[derive(Debug)]
pub(crate) enum FieldColumn {
    None,
    /// Of booleans, integers (Int64, UInt64), floats (Float64) or strings (LargeUtf8).
    Plain(ArrayRef),
    List {
        rows: ArrayRef,
        items: Box<FieldColumn>,
    },
    Struct {
        rows: ArrayRef,
        fields: Vec<(String, FieldColumn)>,
    },
}

impl FieldColumn {
    /// Reads an array whose type [`is_shown`].
    pub(crate) fn try_new(array: &ArrayRef) -> Result<Self> {
        let plain =
            |data_type: &DataType| -> Result<Self> { Ok(Self::Plain(cast(array, data_type)?)) };
        Ok(match array.data_type() {
            DataType::Null => Self::None,
            DataType::Boolean => plain(&DataType::Boolean)?,
            DataType::Dictionary(_, values) => return Self::try_new(&cast(array, values)?),
            DataType::List(item) | DataType::FixedSizeList(item, _) => {
                let rows = cast(array, &DataType::LargeList(item.clone()))?;
                return Self::try_new(&rows);
            }
            DataType::LargeList(_) => Self::List {
                items: Box::new(Self::try_new(array.as_list::<i64>().values())?),
                rows: array.clone(),
            },
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns();
                let read = |(field, column): (&arrow::datatypes::FieldRef, &ArrayRef)| {
                    Ok((field.name().clone(), Self::try_new(column)?))
                };
                let fields = fields.iter().zip(columns).map(read);
                Self::Struct {
                    fields: fields.collect::<Result<_>>()?,
                    rows: array.clone(),
                }
            }
            unsigned if unsigned.is_unsigned_integer() => plain(&DataType::UInt64)?,
            signed if signed.is_signed_integer() => plain(&DataType::Int64)?,
            float if float.is_floating() => plain(&DataType::Float64)?,
            _ => plain(&DataType::LargeUtf8)?,
        })
    }

    /// The value of a row; `None` where it is NULL.
    pub(crate) fn value(&self, row: usize) -> Option<FieldValue> {
        match self {
            Self::None => None,
            Self::Plain(values) => values.is_valid(row).then(|| plain_value(values, row)),
            Self::List { rows, items } => rows.is_valid(row).then(|| {
                let offsets = rows.as_list::<i64>().value_offsets();
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                let item = |at| items.value(at).unwrap_or(FieldValue::None);
                FieldValue::List(range.map(item).collect())
            }),
            Self::Struct { rows, fields } => rows.is_valid(row).then(|| {
                let value = |(name, values): &(String, Self)| {
                    (name.clone(), values.value(row).unwrap_or(FieldValue::None))
                };
                FieldValue::Struct(fields.iter().map(value).collect())
            }),
        }
    }
}

fn plain_value(values: &ArrayRef, row: usize) -> FieldValue {
    match values.data_type() {
        DataType::Boolean => FieldValue::Bool(values.as_boolean().value(row)),
        DataType::Int64 => FieldValue::Int(values.as_primitive::<Int64Type>().value(row).into()),
        DataType::UInt64 => FieldValue::Int(values.as_primitive::<UInt64Type>().value(row).into()),
        DataType::Float64 => FieldValue::float(values.as_primitive::<Float64Type>().value(row)),
        _ => FieldValue::Text(values.as_string::<i64>().value(row).to_owned()),
    }
}
