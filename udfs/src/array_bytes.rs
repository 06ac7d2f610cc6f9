//! How much rows hold.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;

/// Bytes that a batch's own rows hold, written out: those of a dictionary as often as they are pointed
/// at, of a slice no more than it shows.
pub(crate) fn bytes_of_batch(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(bytes_of_array).sum()
}

fn bytes_of_array(array: &ArrayRef) -> usize {
    let rows = array.len();
    match array.data_type() {
        DataType::Utf8 => span(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => span(array.as_string::<i64>().value_offsets()),
        DataType::Binary => span(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => span(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => of_views(array.as_string_view().views()),
        DataType::BinaryView => of_views(array.as_binary_view().views()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            of_items(list.values(), list.value_offsets())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            of_items(list.values(), list.value_offsets())
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
            of_items(&entries, map.value_offsets())
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(bytes_of_array).sum(),
        DataType::Dictionary(_, _) => of_dictionary(array),
        _ => array
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| rows * size_of::<u64>()),
    }
}

fn span<O: Copy + TryInto<usize>>(offsets: &[O]) -> usize {
    match offsets {
        [first, .., last] => place(*last).saturating_sub(place(*first)),
        _ => 0,
    }
}

fn place<O: TryInto<usize>>(offset: O) -> usize {
    offset.try_into().unwrap_or(0)
}

/// The low half of a view's first word is its length.
fn of_views(views: &[u128]) -> usize {
    views.iter().map(|view| *view as u32 as usize).sum()
}

fn of_items<O: Copy + TryInto<usize>>(items: &ArrayRef, offsets: &[O]) -> usize {
    let first = offsets.first().map_or(0, |first| place(*first));
    bytes_of_array(&items.slice(first, span(offsets)))
}

fn of_dictionary(array: &ArrayRef) -> usize {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    let Ok(keys) = cast(dictionary.keys(), &DataType::UInt64) else {
        return 0;
    };
    let keys = keys.as_primitive::<arrow::datatypes::UInt64Type>();
    let pointed_at = keys.iter().flatten().map(|key| key as usize);
    pointed_at
        .filter(|at| *at < values.len())
        .map(|at| bytes_of_array(&values.slice(at, 1)))
        .sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        DictionaryArray, Int64Array, LargeStringArray, ListArray, StringArray, StringViewArray,
        StructArray,
    };
    use arrow::datatypes::{Int8Type, Int32Type};

    use super::*;

    #[test]
    fn what_is_shown_counts() {
        let texts = ["", "four", "a text of more than twelve bytes"];
        let all: usize = texts.iter().map(|text| text.len()).sum();
        let strings = StringArray::from(texts.to_vec());
        let of_struct = StructArray::from(vec![(
            Arc::new(arrow::datatypes::Field::new("a", DataType::Utf8, true)),
            Arc::new(strings.clone()) as ArrayRef,
        )]);
        let dictionary: DictionaryArray<Int8Type> =
            [Some(texts[2]), None, Some(texts[2])].into_iter().collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1); 10]),
            Some(vec![Some(2); 3]),
        ]);
        let cases: Vec<(ArrayRef, usize)> = vec![
            (Arc::new(strings.clone()), all),
            (Arc::new(strings.slice(1, 1)), 4),
            (Arc::new(LargeStringArray::from(texts.to_vec())), all),
            (Arc::new(StringViewArray::from(texts.to_vec())), all),
            (
                Arc::new(StringViewArray::from(texts.to_vec()).slice(0, 2)),
                4,
            ),
            (Arc::new(of_struct), all),
            (Arc::new(dictionary.clone()), 2 * texts[2].len()),
            (Arc::new(dictionary.slice(0, 2)), texts[2].len()),
            (Arc::new(lists.slice(1, 1)), 3 * size_of::<i32>()),
            (Arc::new(Int64Array::from(vec![1, 2])), 16),
        ];
        for (array, bytes) in cases {
            assert_eq!(bytes_of_array(&array), bytes, "{array:?}");
        }
    }
}
