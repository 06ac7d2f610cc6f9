//! CSV and TSV: which columns files have. Their rows are DataFusion's to read.

use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::config::CsvOptions;
use datafusion::common::exec_datafusion_err;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::bytes;
use super::sample::Sample;

/// Bytes of one file that are looked at.
const MAX_HEAD: usize = 32 << 20;

/// The columns of files that are read with these options. All files have the same, in the same order.
///
/// # Errors
/// When a file cannot be read, or has other columns than the first; the message names it.
pub(super) async fn schema(
    store: &Arc<dyn ObjectStore>,
    objects: &[ObjectMeta],
    options: &CsvOptions,
    has_header: bool,
) -> Result<SchemaRef> {
    let compression = FileCompressionType::from(options.compression);
    let mut first: Option<(String, Vec<Field>)> = None;
    let mut sample = Sample::of(store, objects);
    for object in objects {
        // The names are read in every file: values are told by their place.
        sample.begin_file();
        let limit = sample.left_of_file().clamp(1, MAX_HEAD);
        let name = bytes::name(store, &object.location);
        let failed = |reason: &dyn std::fmt::Display| exec_datafusion_err!("{name}: {reason}");
        let chunks = bytes::of_file(store, &object.location, None, compression).await;
        let mut chunks = chunks.map_err(|error| failed(&error))?;
        let mut head = Vec::new();
        let mut is_whole = true;
        while let Some(chunk) = chunks.try_next().await.map_err(|error| failed(&error))? {
            head.extend_from_slice(&chunk);
            if head.len() >= limit {
                is_whole = false;
                break;
            }
        }
        sample.take(head.len());
        let fields = columns(&head, is_whole, options, has_header);
        let fields = fields.map_err(|error| failed(&error))?;
        match &mut first {
            None => first = Some((name, fields)),
            Some((first, known)) => {
                let names = |fields: &[Field]| {
                    let names: Vec<_> = fields.iter().map(|field| field.name().clone()).collect();
                    names
                };
                if names(known) != names(&fields) {
                    return Err(failed(&format!(
                        "has the columns {}, and {first} has {}; accepted: files with the same columns in the \
                         same order",
                        names(&fields).join(", "),
                        names(known).join(", ")
                    )));
                }
                for (known, field) in known.iter_mut().zip(fields) {
                    let both = both(known.data_type(), field.data_type());
                    known.set_data_type(both);
                }
            }
        }
    }
    let (_, fields) = first.unwrap_or_default();
    let is_empty = |field: &Field| *field.data_type() == DataType::Null;
    let text = |field: Field| match is_empty(&field) {
        true => field.with_data_type(DataType::Utf8),
        false => field,
    };
    Ok(Arc::new(Schema::new(
        fields.into_iter().map(text).collect::<Vec<_>>(),
    )))
}

/// The columns of a file that begins like this.
fn columns(
    head: &[u8],
    is_whole: bool,
    options: &CsvOptions,
    has_header: bool,
) -> Result<Vec<Field>> {
    let mut records = csv::ReaderBuilder::new()
        .delimiter(options.delimiter)
        .quote(options.quote)
        .escape(options.escape)
        .double_quote(options.double_quote.unwrap_or(true))
        .comment(options.comment)
        .has_headers(false)
        .flexible(true)
        .from_reader(head);
    let mut record = csv::ByteRecord::new();
    let mut rows = 0;
    let mut has_leading_zeros = Vec::new();
    loop {
        let read = records.read_byte_record(&mut record);
        if !read.map_err(|error| DataFusionError::External(Box::new(error)))? {
            break;
        }
        let is_cut = !is_whole && records.position().byte() >= head.len() as u64;
        if is_cut && rows > 0 {
            break;
        }
        rows += 1;
        if has_header && rows == 1 {
            continue;
        }
        has_leading_zeros.resize(record.len().max(has_leading_zeros.len()), false);
        for (has, value) in has_leading_zeros.iter_mut().zip(&record) {
            *has |= matches!(
                value,
                [b'0', b'0'..=b'9', ..] | [b'-', b'0', b'0'..=b'9', ..]
            );
        }
    }
    let mut format = Format::default()
        .with_header(has_header)
        .with_delimiter(options.delimiter)
        .with_quote(options.quote)
        .with_truncated_rows(options.truncated_rows.unwrap_or(false));
    if let Some(escape) = options.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = options.comment {
        format = format.with_comment(comment);
    }
    let rows = rows - usize::from(has_header && rows > 0);
    let (schema, _) = format.infer_schema(head, Some(rows))?;
    let field = |(at, field): (usize, &Arc<Field>)| {
        // A number would lose them.
        let is_text = has_leading_zeros.get(at) == Some(&true);
        match is_text && field.data_type().is_integer() {
            true => field.as_ref().clone().with_data_type(DataType::Utf8),
            false => field.as_ref().clone(),
        }
    };
    Ok(schema.fields().iter().enumerate().map(field).collect())
}

/// The type of a column that has one type here and one there.
fn both(one: &DataType, other: &DataType) -> DataType {
    match (one, other) {
        _ if one == other => one.clone(),
        (DataType::Null, some) | (some, DataType::Null) => some.clone(),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => {
            DataType::Float64
        }
        _ => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(head: &str, is_whole: bool) -> Vec<String> {
        let found = columns(head.as_bytes(), is_whole, &CsvOptions::default(), true).unwrap();
        let found = found.iter();
        found
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect()
    }

    #[test]
    fn columns_of_what_came() {
        let head = "id,text,zip,none\n1,\"a\n\"\"b\",01,\n2,c,12,\n3,\"cut";
        let expected = ["id Int64", "text Utf8", "zip Utf8", "none Null"];
        assert_eq!(types(head, false), expected);
        assert_eq!(types("a,b\n", true), ["a Null", "b Null"]);
        assert_eq!(types("", true), [""; 0]);
    }
}
