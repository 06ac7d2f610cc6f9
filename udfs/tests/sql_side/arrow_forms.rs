//! The same rows in every physical form that Arrow has for them are the same rows.

use std::sync::Arc;

use crate::support::fake_scorer;
use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, NullArray, RecordBatch, StringArray, StructArray,
    new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::prelude::SessionContext;

/// A role and a content.
type Turn<'a> = (Option<&'a str>, Option<&'a str>);
type Turns<'a> = Option<Vec<Option<Turn<'a>>>>;

fn turn<'a>(role: &'a str, content: &'a str) -> Option<Turn<'a>> {
    Some((Some(role), Some(content)))
}

/// Prompts that the fake scorer echoes, or that are NULL as a whole or somewhere within.
fn conversations<'a>() -> Vec<Turns<'a>> {
    vec![
        Some(vec![turn("system", "ECHO"), turn("user", "one")]),
        None,
        Some(vec![]),
        Some(vec![turn("user", "ECHO Größe 😀")]),
        Some(vec![None, turn("user", "ECHO")]),
        Some(vec![Some((None, Some("ECHO")))]),
        Some(vec![Some((Some("user"), None))]),
        Some(vec![
            turn("user", "ECHO"),
            turn("assistant", "two"),
            turn("user", "a text of more than twelve bytes"),
        ]),
        None,
        Some(vec![turn("user", "ECHO last")]),
    ]
}

fn strings() -> ArrayRef {
    Arc::new(StringArray::from(vec![
        Some("ECHO"),
        None,
        Some(""),
        Some("ECHO a text of more than twelve bytes"),
        Some("ECHO Größe 😀"),
        None,
        Some("ECHO"),
    ]))
}

/// Conversations as a list of structs of these names, in this order.
fn list(rows: &[Turns], names: [&str; 2], swapped: bool) -> ListArray {
    let turns: Vec<_> = rows.iter().flatten().flatten().copied().collect();
    let column = |of: fn(Turn) -> Option<String>| -> ArrayRef {
        let cells = turns.iter().map(|turn| turn.and_then(of));
        Arc::new(cells.collect::<StringArray>())
    };
    let mut columns = vec![
        column(|(role, _)| role.map(str::to_owned)),
        column(|(_, content)| content.map(str::to_owned)),
    ];
    let mut fields: Vec<_> = names
        .map(|name| Field::new(name, DataType::Utf8, true))
        .into();
    if swapped {
        columns.reverse();
        fields.reverse();
    }
    let valid: NullBuffer = turns.iter().map(Option::is_some).collect();
    let messages = StructArray::new(fields.into(), columns, Some(valid));
    let item = Arc::new(Field::new_list_field(messages.data_type().clone(), true));
    let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
    let valid: NullBuffer = rows.iter().map(Option::is_some).collect();
    ListArray::new(
        item,
        OffsetBuffer::from_lengths(lengths),
        Arc::new(messages),
        Some(valid),
    )
}

fn list_type(names: [&str; 2], text: &DataType, large: bool) -> DataType {
    let fields: Fields = names
        .map(|name| Field::new(name, text.clone(), true))
        .into_iter()
        .collect();
    let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
    if large {
        DataType::LargeList(item)
    } else {
        DataType::List(item)
    }
}

fn dictionary(key: DataType, value: DataType) -> DataType {
    DataType::Dictionary(Box::new(key), Box::new(value))
}

/// What the scorer saw of each row, or why it did not.
async fn seen(prompts: &ArrayRef) -> Vec<Option<String>> {
    let rows = prompts.len();
    let answers: ArrayRef = Arc::new(StringArray::from(vec!["a"; rows]));
    let ids: ArrayRef = Arc::new(arrow::array::UInt64Array::from_iter_values(0..rows as u64));
    let columns = [
        ("id", ids),
        ("prompt", Arc::clone(prompts)),
        ("answer", answers),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let ctx: SessionContext = fake_scorer::session();
    ctx.register_batch("pairs", batch).unwrap();
    ctx.sql("SET ches.on_error = 'null'").await.unwrap();
    let sql = "SELECT preference_scores(prompt, answer, 'b')['error'] FROM pairs ORDER BY id";
    let batches = ctx.sql(sql).await.unwrap().collect().await.unwrap();
    let mut seen = Vec::new();
    for batch in &batches {
        let column = batch.column(0).as_string::<i32>();
        seen.extend(column.iter().map(|text| text.map(str::to_owned)));
    }
    assert_eq!(seen.len(), rows);
    seen
}

/// The array in the middle of a longer one, so that it starts at an offset.
fn sliced(array: &ArrayRef) -> ArrayRef {
    let around = array.slice(0, array.len().min(3));
    let longer = concat(&[around.as_ref(), array.as_ref(), around.as_ref()]).unwrap();
    longer.slice(around.len(), array.len())
}

async fn assert_seen(form: &str, array: &ArrayRef, expected: &[Option<String>]) {
    assert_eq!(seen(array).await, expected, "{form}: {}", array.data_type());
    let sliced = sliced(array);
    assert_eq!(
        seen(&sliced).await,
        expected,
        "{form}, sliced: {}",
        array.data_type()
    );
    assert_eq!(
        seen(&array.slice(2, 4)).await,
        &expected[2..6],
        "{form}, a part"
    );
    assert!(seen(&array.slice(1, 0)).await.is_empty(), "{form}, no rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_in_every_form() {
    let rows = conversations();
    let base = list(&rows, ["role", "content"], false);
    let base: ArrayRef = Arc::new(base);
    let expected = seen(&base).await;
    let reasons: Vec<_> = expected.iter().map(|reason| reason.as_deref()).collect();
    assert_eq!(reasons[0], Some("[system: ECHO, user: one] | 'a' | 'b'"));
    assert_eq!(reasons[1], Some("prompt is NULL"));
    assert_eq!(reasons[3], Some("[user: ECHO Größe 😀] | 'a' | 'b'"));
    assert_eq!(reasons[4], Some("a message of the conversation is NULL"));
    assert_eq!(reasons[5], Some("a message has a NULL 'role'"));
    assert_eq!(reasons[6], Some("a message has a NULL 'content'"));

    let texts = [
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        dictionary(DataType::Int32, DataType::Utf8),
        dictionary(DataType::UInt8, DataType::LargeUtf8),
    ];
    for text in &texts {
        for large in [false, true] {
            let form = list_type(["role", "content"], text, large);
            assert_seen("cast", &cast(&base, &form).unwrap(), &expected).await;
        }
    }
    let swapped: ArrayRef = Arc::new(list(&rows, ["role", "content"], true));
    assert_seen("content before role", &swapped, &expected).await;

    // ShareGPT's names; the reasons name the fields.
    let sharegpt: ArrayRef = Arc::new(list(&rows, ["from", "value"], true));
    let renamed = |reason: &Option<String>| {
        let reason = reason.as_ref()?;
        Some(
            reason
                .replace("NULL 'role'", "NULL 'from'")
                .replace("NULL 'content'", "NULL 'value'"),
        )
    };
    let expected: Vec<_> = expected.iter().map(renamed).collect();
    assert_seen("from and value", &sharegpt, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_in_every_form() {
    let base = strings();
    let expected = seen(&base).await;
    assert_eq!(expected[4].as_deref(), Some("'ECHO Größe 😀' | 'a' | 'b'"));
    let forms = [
        DataType::LargeUtf8,
        DataType::Utf8View,
        dictionary(DataType::Int8, DataType::Utf8),
        dictionary(DataType::Int32, DataType::LargeUtf8),
        dictionary(DataType::UInt64, DataType::Utf8View),
    ];
    for form in forms {
        assert_seen("cast", &cast(&base, &form).unwrap(), &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_nulls() {
    let null_types = [
        DataType::Utf8View,
        list_type(["role", "content"], &DataType::Utf8, true),
        dictionary(DataType::Int32, DataType::Utf8),
    ];
    let reason = || Some("prompt is NULL".to_owned());
    for data_type in null_types {
        assert_eq!(
            seen(&new_null_array(&data_type, 3)).await,
            [reason(), reason(), reason()]
        );
    }
    let untyped: ArrayRef = Arc::new(NullArray::new(2));
    assert_eq!(seen(&untyped).await, [reason(), reason()]);
}
