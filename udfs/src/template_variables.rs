//! What columns beside the texts give the chat template: `tools` and `chat_template_kwargs`, as TRL's trainers
//! read them (`dpo_trainer.py`, `tokenize_fn`, version 1.16).

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Fields};
use datafusion::error::Result;

use crate::message_fields::{FieldColumn, is_shown};
use crate::printable::quoted;
use crate::text::FieldValue;

/// Names and values that the chat template finds besides, in one row.
pub type TemplateVariables = Vec<(String, FieldValue)>;

/// The field of a struct that holds a text with its variables: the text.
pub(crate) const TEXT: &str = "__ches_text";

/// The others.
pub(crate) const TOOLS: &str = "tools";
pub(crate) const KWARGS: &str = "chat_template_kwargs";

/// What a rendering sets itself.
const OWN: [&str; 3] = [
    "messages",
    "add_generation_prompt",
    "continue_final_message",
];

/// The type of the text, where a struct holds it with its variables.
pub(crate) fn text_within(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::Struct(fields) => {
            let first = fields.first().filter(|first| first.name() == TEXT);
            first.map(|first| first.data_type())
        }
        _ => None,
    }
}

/// Whether a column may hold tools, or what is given to the template by name.
pub(crate) fn is_accepted(name: &str, data_type: &DataType) -> bool {
    let is_text = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
        )
    };
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        DataType::Struct(_) => name == KWARGS && is_shown(data_type),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            name == TOOLS && is_shown(data_type)
        }
        other => is_text(other),
    }
}

/// What [`is_accepted`], in words.
pub(crate) fn accepted(name: &str) -> &'static str {
    match name {
        TOOLS => "a string of JSON, or a list of structs",
        _ => "a string of JSON, or a struct",
    }
}

/// The variables of the rows of a batch.
#[derive(Debug)]
pub(crate) struct VariableColumns {
    tools: FieldColumn,
    kwargs: FieldColumn,
}

impl VariableColumns {
    /// Of a struct that holds a text with its variables; None of any other column.
    pub(crate) fn try_new(array: &ArrayRef) -> Result<Option<(ArrayRef, Self)>> {
        if text_within(array.data_type()).is_none() {
            return Ok(None);
        }
        let structs: &StructArray = array.as_struct();
        let column = |name| match structs.column_by_name(name) {
            Some(column) => FieldColumn::try_new(column),
            None => Ok(FieldColumn::None),
        };
        let columns = Self {
            tools: column(TOOLS)?,
            kwargs: column(KWARGS)?,
        };
        Ok(Some((structs.column(0).clone(), columns)))
    }

    /// The variables of a row.
    ///
    /// # Errors
    /// When a text is not JSON, or not of the kind that is accepted.
    pub(crate) fn row(&self, row: usize) -> Result<TemplateVariables, String> {
        let mut variables = TemplateVariables::new();
        if let Some(tools) = read(TOOLS, self.tools.value(row))? {
            match tools {
                FieldValue::List(_) => variables.push((TOOLS.into(), tools)),
                _ => return Err(format!("{TOOLS} is no list; accepted: {}", accepted(TOOLS))),
            }
        }
        if let Some(kwargs) = read(KWARGS, self.kwargs.value(row))? {
            let FieldValue::Struct(fields) = kwargs else {
                let accepted = accepted(KWARGS);
                return Err(format!("{KWARGS} is no object; accepted: {accepted}"));
            };
            if let Some((name, _)) = fields.iter().find(|(name, _)| OWN.contains(&&name[..])) {
                return Err(format!("{KWARGS}: '{name}' is set for each conversation"));
            }
            // As in Python, a name's last value counts.
            variables.retain(|(name, _)| fields.iter().all(|(other, _)| other != name));
            variables.extend(fields);
        }
        Ok(variables)
    }
}

/// A value, read if it is the text of one; None of NULL and of null.
fn read(name: &str, value: Option<FieldValue>) -> Result<Option<FieldValue>, String> {
    let value = match value {
        Some(FieldValue::Text(text)) => serde_json::from_str(&text)
            .map_err(|error| format!("{name} is no JSON: {error}; it is {}", quoted(&text)))?,
        Some(value) => value,
        None => FieldValue::None,
    };
    Ok((value != FieldValue::None).then_some(value))
}

/// The fields of a struct of a text with its variables, of these types.
pub(crate) fn fields(text: &DataType, tools: &DataType, kwargs: &DataType) -> Fields {
    [(TEXT, text), (TOOLS, tools), (KWARGS, kwargs)]
        .into_iter()
        .map(|(name, data_type)| arrow::datatypes::Field::new(name, data_type.clone(), true))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;

    use super::*;

    fn rows(tools: Option<&str>, kwargs: Option<&str>) -> Result<TemplateVariables, String> {
        let columns: Vec<ArrayRef> = [Some("a"), tools, kwargs]
            .map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef)
            .into();
        let text = &DataType::Utf8;
        let array = StructArray::new(fields(text, text, text), columns, None);
        let (_, columns) = VariableColumns::try_new(&(Arc::new(array) as _))
            .unwrap()
            .unwrap();
        columns.row(0)
    }

    #[test]
    fn variables_of_text() {
        assert_eq!(rows(None, None).unwrap(), []);
        assert_eq!(rows(Some("null"), Some("null")).unwrap(), []);
        let none = FieldValue::List(vec![]);
        assert_eq!(rows(Some("[]"), None).unwrap(), [("tools".into(), none)]);
        let text = |text: &str| FieldValue::Text(text.into());
        let tools = FieldValue::List(vec![FieldValue::Struct(vec![
            ("z".into(), text("1")),
            ("a".into(), FieldValue::Int(2)),
        ])]);
        let found = rows(
            Some(r#"[{"z": "1", "a": 2}]"#),
            Some(r#"{"enable_thinking": false}"#),
        );
        let expected = [
            ("tools".into(), tools),
            ("enable_thinking".into(), FieldValue::Bool(false)),
        ];
        assert_eq!(found.unwrap(), expected);
        let found = rows(Some("[1]"), Some(r#"{"tools": "x"}"#)).unwrap();
        assert_eq!(found, [("tools".into(), text("x"))]);
    }

    #[test]
    fn what_is_no_variable() {
        for (tools, kwargs, reason) in [
            (Some("{}"), None, "tools is no list"),
            (Some("[1"), None, "tools is no JSON"),
            (None, Some("[]"), "chat_template_kwargs is no object"),
            (None, Some(r#"{"messages": 1}"#), "'messages' is set"),
        ] {
            let error = rows(tools, kwargs).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
