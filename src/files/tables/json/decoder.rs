//! Records as Arrow batches.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use serde_json::value::RawValue;

use super::framing::Record;

/// Bytes of records that make a batch, of however few rows.
const BATCH_BYTES: usize = 4 << 20;

/// How much of a record an error shows.
const SHOWN: usize = 100;

/// Gathers records and makes batches of them.
#[derive(Debug)]
pub(super) struct Decoder {
    schema: SchemaRef,
    batch_size: usize,
    /// The records, each with a line end.
    texts: Vec<u8>,
    /// Where each begins, here and in the file.
    starts: Vec<(usize, u64)>,
}

impl Decoder {
    /// Of records with these columns.
    pub(super) fn new(schema: SchemaRef, batch_size: usize) -> Self {
        Self {
            schema,
            batch_size,
            texts: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Takes a record. Whether there are enough for a batch.
    pub(super) fn take(&mut self, record: &Record<'_>) -> bool {
        self.starts.push((self.texts.len(), record.offset));
        self.texts.extend_from_slice(record.text);
        self.texts.push(b'\n');
        self.starts.len() >= self.batch_size || self.texts.len() >= BATCH_BYTES
    }

    /// The records that were taken since the last batch, if there are any.
    ///
    /// # Errors
    /// When one is not JSON or does not have the columns' types, or has a field that they do not have; the message tells where it
    /// begins.
    pub(super) fn batch(&mut self) -> Result<Option<RecordBatch>, String> {
        if self.starts.is_empty() {
            return Ok(None);
        }
        let decoded = self.decode(&self.texts, self.starts.len());
        let decoded = match decoded {
            Ok(batch) => Ok(batch),
            Err(_) => self.one_by_one(),
        };
        self.texts.clear();
        self.starts.clear();
        decoded.map(Some)
    }

    fn decode(&self, texts: &[u8], rows: usize) -> Result<RecordBatch, ArrowError> {
        let mut decoder = ReaderBuilder::new(self.schema.clone())
            .with_batch_size(rows)
            .with_strict_mode(true)
            .build_decoder()?;
        let decoded = decoder.decode(texts)?;
        let batch = decoder.flush()?;
        match batch {
            Some(batch) if decoded == texts.len() && batch.num_rows() == rows => Ok(batch),
            _ => Err(ArrowError::JsonError("it has no end".into())),
        }
    }

    /// The same with other values than strings in columns of text as their JSON, which takes longer, and with
    /// the record in the message that cannot be decoded.
    fn one_by_one(&self) -> Result<RecordBatch, String> {
        let mut texts = Vec::with_capacity(self.texts.len());
        let ends = self.starts.iter().skip(1).map(|(start, _)| *start);
        let ends = ends.chain([self.texts.len()]);
        for ((start, offset), end) in self.starts.iter().zip(ends) {
            let record = &self.texts[*start..end - 1];
            let failed = |reason: &dyn std::fmt::Display| {
                let shown = beginning(record);
                format!("the record at byte {offset}: {reason}; it begins {shown}")
            };
            let begin = texts.len();
            self.with_texts(record, &mut texts)
                .map_err(|error| failed(&error))?;
            texts.push(b'\n');
            let decoded = self.decode(&texts[begin..], 1);
            decoded.map_err(|error| failed(&said(&error)))?;
        }
        let decoded = self.decode(&texts, self.starts.len());
        decoded.map_err(|error| said(&error))
    }

    /// Adds a record to `to`, as it is or with such texts.
    fn with_texts(&self, record: &[u8], to: &mut Vec<u8>) -> serde_json::Result<()> {
        let is_text = |name: &str| {
            let field = self.schema.field_with_name(name);
            field.is_ok_and(|field| *field.data_type() == DataType::Utf8)
        };
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(record)?;
        to.push(b'{');
        for (at, (name, value)) in fields.iter().enumerate() {
            if at > 0 {
                to.push(b',');
            }
            serde_json::to_writer(&mut *to, name)?;
            to.push(b':');
            let value = value.get();
            match value.as_bytes() {
                [b'"', ..] | b"null" => to.extend_from_slice(value.as_bytes()),
                _ if is_text(name) => serde_json::to_writer(&mut *to, value)?,
                _ => to.extend_from_slice(value.as_bytes()),
            }
        }
        to.push(b'}');
        Ok(())
    }
}

/// What an error says of a record, without its kind.
fn said(error: &ArrowError) -> String {
    let said = match error {
        ArrowError::JsonError(said) => said.clone(),
        other => other.to_string(),
    };
    if said.contains("missing from schema") || said.contains("not found in schema") {
        return format!(
            "{said}, which is of the records that were looked at; accepted: OPTIONS \
             ('format.schema_infer_max_rec' '<more records>') of CREATE EXTERNAL TABLE"
        );
    }
    said
}

/// How a record begins.
pub(super) fn beginning(record: &[u8]) -> String {
    let shown = &record[..record.len().min(SHOWN)];
    let more = if shown.len() < record.len() {
        "…"
    } else {
        ""
    };
    let text = String::from_utf8_lossy(shown);
    format!("{}{more}", text.trim_end_matches('\u{fffd}'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::AsArray;
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn decoder() -> Decoder {
        let fields = vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
        ];
        Decoder::new(Arc::new(Schema::new(fields)), 8)
    }

    fn batch(records: &[&str]) -> Result<RecordBatch, String> {
        let mut decoder = decoder();
        let mut offset = 0;
        for record in records {
            let text = record.as_bytes();
            decoder.take(&Record { text, offset });
            offset += text.len() as u64 + 1;
        }
        decoder.batch().map(Option::unwrap)
    }

    #[test]
    fn a_column_of_text_takes_anything() {
        let records = [
            r#"{"a": 1, "b": "x\ny"}"#,
            r#"{"b": [{"c": 1.50}]}"#,
            r#"{"b": null}"#,
            r#"{"b": 1e3, "a": null}"#,
        ];
        let batch = batch(&records).unwrap();
        let texts: Vec<_> = batch.column(1).as_string::<i32>().iter().collect();
        let expected = [Some("x\ny"), Some(r#"[{"c": 1.50}]"#), None, Some("1e3")];
        assert_eq!(texts, expected);
    }

    #[test]
    fn errors_tell_the_record() {
        for (record, reason) in [
            (r#"{"a": "x"}"#, "'a'"),
            (r#"{"c": 1}"#, "'c'"),
            (r#"{"a": 1"#, "EOF"),
            (r#"{"a": [}"#, "expected value"),
        ] {
            let error = batch(&[r#"{"a": 1}"#, record]).unwrap_err();
            assert!(error.contains("the record at byte 9: "), "{error}");
            assert!(error.contains(reason), "{error}");
            assert!(error.contains(record), "{error}");
        }
    }

    #[test]
    fn batches_end_by_rows_and_by_bytes() {
        let mut decoder = decoder();
        let record = Record {
            text: b"{}",
            offset: 0,
        };
        assert!((0..7).all(|_| !decoder.take(&record)));
        assert!(decoder.take(&record));
        assert_eq!(decoder.batch().unwrap().unwrap().num_rows(), 8);
        let text = format!("{{\"b\": \"{}\"}}", "x".repeat(BATCH_BYTES));
        let text = text.as_bytes();
        assert!(decoder.take(&Record { text, offset: 0 }));
        assert_eq!(decoder.batch().unwrap().unwrap().num_rows(), 1);
        assert!(decoder.batch().unwrap().is_none());
    }
}
