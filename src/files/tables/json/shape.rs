//! What the records of a file are made of, and the Arrow columns that hold them.
//!
//! Fields keep the order in which they first come: a chat template that prints a tool call prints it as it
//! was written.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use indexmap::IndexMap;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// More fields than a struct has: its keys are data.
const MAX_FIELDS: usize = 1_000;

/// All values of one place in the records, taken together.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) enum Shape {
    /// Only null.
    #[default]
    Unknown,
    Bool,
    /// Whether there are values below 0, and above what 64 bits with a sign hold.
    Integer {
        negative: bool,
        wide: bool,
    },
    Float,
    Text,
    List(Box<Shape>),
    Struct(IndexMap<String, Shape>),
    /// No Arrow type holds them all.
    Mixed,
}

/// The records of a file or of several.
#[derive(Debug, Default)]
pub(super) struct Records {
    columns: IndexMap<String, Shape>,
}

impl Records {
    /// Takes one more record, the text of an object, into account.
    ///
    /// # Errors
    /// When the text is not JSON, or not an object.
    pub(super) fn add(&mut self, record: &[u8]) -> serde_json::Result<()> {
        let mut json = serde_json::Deserializer::from_slice(record);
        json.deserialize_map(Columns(&mut self.columns))?;
        json.end()
    }

    /// The columns. One that no Arrow type holds is text: strings as they are, anything else as its JSON.
    pub(super) fn schema(&self) -> Schema {
        let field = |(name, shape): (&String, &Shape)| {
            Field::new(name, shape.data_type().unwrap_or(DataType::Utf8), true)
        };
        Schema::new(self.columns.iter().map(field).collect::<Vec<_>>())
    }
}

impl Shape {
    /// The Arrow type that holds every value exactly, if there is one.
    fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Unknown => DataType::Null,
            Self::Bool => DataType::Boolean,
            Self::Integer { wide: false, .. } => DataType::Int64,
            Self::Integer { .. } => DataType::UInt64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::List(item) => {
                DataType::List(Arc::new(Field::new_list_field(item.data_type()?, true)))
            }
            // Parquet has no struct without fields.
            Self::Struct(fields) if fields.is_empty() => return None,
            Self::Struct(fields) => {
                let field = |(name, shape): (&String, &Self)| {
                    Some(Field::new(name, shape.data_type()?, true))
                };
                DataType::Struct(fields.iter().map(field).collect::<Option<Fields>>()?)
            }
            Self::Mixed => return None,
        })
    }

    /// The shape of these values and of one more.
    fn meet(&mut self, other: Self) {
        let integer = |negative, wide| match negative && wide {
            true => Self::Mixed,
            false => Self::Integer { negative, wide },
        };
        *self = match (std::mem::take(self), other) {
            (Self::Unknown, other) => other,
            (Self::Bool, Self::Bool) => Self::Bool,
            (
                Self::Integer { negative, wide },
                Self::Integer {
                    negative: below,
                    wide: above,
                },
            ) => integer(negative || below, wide || above),
            (Self::Float | Self::Integer { .. }, Self::Float)
            | (Self::Float, Self::Integer { .. }) => Self::Float,
            (Self::Text, Self::Text) => Self::Text,
            _ => Self::Mixed,
        };
    }
}

struct Columns<'a>(&'a mut IndexMap<String, Shape>);

impl<'de> Visitor<'de> for Columns<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        fields_of(self.0, map).map(drop)
    }
}

/// Takes the fields of an object into account. Whether they may be a struct's.
fn fields_of<'de, A: MapAccess<'de>>(
    fields: &mut IndexMap<String, Shape>,
    mut map: A,
) -> Result<bool, A::Error> {
    let mut at = 0;
    while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
        // Records are mostly alike.
        let found = match fields.get_index(at) {
            Some((known, _)) if **known == *name => at,
            _ => match fields.get_index_of(&*name) {
                Some(found) => found,
                None => fields.insert_full(name.into_owned(), Shape::Unknown).0,
            },
        };
        at = found + 1;
        map.next_value_seed(Value(&mut fields[found]))?;
    }
    Ok(fields.len() <= MAX_FIELDS)
}

/// One value, which its shape takes into account.
struct Value<'a>(&'a mut Shape);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.meet(Shape::Bool);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.meet(Shape::Integer {
            negative: value < 0,
            wide: false,
        });
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.meet(Shape::Integer {
            negative: false,
            wide: i64::try_from(value).is_err(),
        });
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.meet(Shape::Float);
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        if *self.0 != Shape::Text {
            self.0.meet(Shape::Text);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if *self.0 == Shape::Unknown {
            *self.0 = Shape::List(Box::default());
        }
        let mut ignored = Shape::Unknown;
        let is_list = matches!(self.0, Shape::List(_));
        let item = match self.0 {
            Shape::List(item) => &mut **item,
            _ => &mut ignored,
        };
        while items.next_element_seed(Value(item))?.is_some() {}
        if !is_list {
            *self.0 = Shape::Mixed;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        if *self.0 == Shape::Unknown {
            *self.0 = Shape::Struct(IndexMap::new());
        }
        let mut ignored = IndexMap::new();
        let is_struct = matches!(self.0, Shape::Struct(_));
        let fields = match self.0 {
            Shape::Struct(fields) => fields,
            _ => &mut ignored,
        };
        if !fields_of(fields, map)? || !is_struct {
            *self.0 = Shape::Mixed;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(records: &[&str]) -> Vec<String> {
        let mut all = Records::default();
        for record in records {
            all.add(record.as_bytes()).unwrap();
        }
        let schema = all.schema();
        let fields = schema.fields().iter();
        fields
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect()
    }

    #[test]
    fn fields_keep_their_order() {
        let found = types(&[
            r#"{"z": [{"role": "a", "content": "b"}], "a": 1}"#,
            r#"{"b": true, "z": [{"content": "c", "name": null, "role": "d"}]}"#,
        ]);
        assert_eq!(
            found,
            [
                r#"z List(Struct("role": Utf8, "content": Utf8, "name": Null))"#,
                "a Int64",
                "b Boolean"
            ]
        );
    }

    #[test]
    fn no_number_is_rounded() {
        for (values, expected) in [
            (&["1", "2"][..], "Int64"),
            (&["1", "18446744073709551615"], "UInt64"),
            (&["-1", "18446744073709551615"], "Utf8"),
            (&["1", "2.5"], "Float64"),
            (&["null", "2.5", "1"], "Float64"),
            (&["null"], "Null"),
            (&["1", "\"1\""], "Utf8"),
            (&["true", "1"], "Utf8"),
        ] {
            let records: Vec<_> = values.iter().map(|v| format!("{{\"a\": {v}}}")).collect();
            let records: Vec<_> = records.iter().map(String::as_str).collect();
            assert_eq!(types(&records), [format!("a {expected}")], "{values:?}");
        }
    }

    #[test]
    fn what_no_type_holds_is_text() {
        for values in [
            [r#"[{"content": "a"}]"#, r#"[{"content": ["a"]}]"#],
            [r#""a""#, r#"["a"]"#],
            [r#"{"a": {}}"#, "null"],
            [r#"["a", 1]"#, "[]"],
        ] {
            let records = values.map(|value| format!("{{\"a\": {value}}}"));
            assert_eq!(types(&[&records[0], &records[1]]), ["a Utf8"], "{values:?}");
            assert_eq!(types(&[&records[1], &records[0]]), ["a Utf8"], "{values:?}");
        }
        let keys: Vec<_> = (0..=MAX_FIELDS).map(|at| format!("\"{at}\": 1")).collect();
        let record = format!("{{\"a\": {{{}}}}}", keys.join(", "));
        assert_eq!(types(&[&record]), ["a Utf8"]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for record in ["5", "[1]", "{\"a\": }", "{} {}"] {
            assert!(
                Records::default().add(record.as_bytes()).is_err(),
                "{record}"
            );
        }
    }
}
