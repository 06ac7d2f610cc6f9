//! Conversations that stand as JSON text in a string.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::text::{ASSISTANT, Content, FieldValue, MessageField, Turn, USER, text_parts};

/// The turns of a text that is a JSON array of messages; None of any other text.
///
/// A message is an object with the string `role` and with `content`, or with `from` and `value`; its further
/// fields that are not null are the turn's, in their order.
///
/// # Errors
/// When a message's content is neither a string nor a list of texts.
pub(crate) fn json_messages(text: &str) -> Option<Result<Vec<Turn>, String>> {
    let inner = text.trim_start().strip_prefix('[')?.trim_start();
    if !inner.starts_with('{') || !text.trim_end().ends_with(']') {
        return None;
    }
    let FieldValue::List(items) = serde_json::from_str(text).ok()? else {
        return None;
    };
    let messages: Vec<_> = items.into_iter().map(message).collect::<Option<_>>()?;
    Some(messages.into_iter().map(turn).collect())
}

/// An object that is a message.
struct Message {
    fields: Vec<(String, FieldValue)>,
    /// What it calls its role and its content.
    role: &'static str,
    content: &'static str,
}

fn message(item: FieldValue) -> Option<Message> {
    let FieldValue::Struct(fields) = item else {
        return None;
    };
    let field = |name: &str| fields.iter().find(|(field, _)| field == name);
    let is_message = |(role, content): &(&str, &str)| {
        matches!(field(role), Some((_, FieldValue::Text(_)))) && field(content).is_some()
    };
    let both = [("role", "content"), ("from", "value")];
    let (role, content) = both.into_iter().find(is_message)?;
    Some(Message {
        fields,
        role,
        content,
    })
}

fn turn(message: Message) -> Result<Turn, String> {
    let Message {
        fields,
        role,
        content,
    } = message;
    let mut turn = Turn::new("", Content::Absent);
    for (at, (name, value)) in fields.into_iter().enumerate() {
        match value {
            FieldValue::Text(text) if name == role => {
                turn.role = match (role, &text[..]) {
                    ("from", "human") => USER.into(),
                    ("from", "gpt") => ASSISTANT.into(),
                    _ => text,
                };
            }
            FieldValue::None => {}
            FieldValue::Text(text) if name == content => turn.content = text.into(),
            FieldValue::List(parts) if name == content => turn.content = text_parts(parts)?,
            _ if name == content => {
                return Err(format!(
                    "a message's '{content}' is neither a string nor a list of parts"
                ));
            }
            value => turn.fields.push(MessageField { at, name, value }),
        }
    }
    match turn.content == Content::Absent && turn.fields.is_empty() {
        true => Err(format!("a message has a null '{content}'")),
        false => Ok(turn),
    }
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfJson)
    }
}

struct OfJson;

impl<'de> Visitor<'de> for OfJson {
    type Value = FieldValue;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<FieldValue, E> {
        Ok(FieldValue::None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<FieldValue, E> {
        Ok(FieldValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<FieldValue, E> {
        Ok(FieldValue::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<FieldValue, E> {
        Ok(FieldValue::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<FieldValue, E> {
        Ok(FieldValue::float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<FieldValue, E> {
        Ok(FieldValue::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<FieldValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(FieldValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldValue, A::Error> {
        let mut fields: Vec<(String, FieldValue)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, _>()? {
            // As in Python, the last one of a name counts, in the place of the first.
            match fields.iter_mut().find(|(field, _)| *field == name) {
                Some((_, place)) => *place = value,
                None => fields.push((name, value)),
            }
        }
        Ok(FieldValue::Struct(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_text() {
        let text = r#" [{"role": "user", "content": "a"},
            {"content": null, "role": "assistant", "tool_calls": [{"z": 1, "a": 2.5}], "name": null},
            {"from": "gpt", "value": [{"type": "text", "text": "b"}]}] "#;
        let turns = json_messages(text).unwrap().unwrap();
        let mut calls = Turn::new(ASSISTANT, Content::Absent);
        calls.fields.push(MessageField {
            at: 2,
            name: "tool_calls".into(),
            value: FieldValue::List(vec![FieldValue::Struct(vec![
                ("z".into(), FieldValue::Int(1)),
                ("a".into(), FieldValue::float(2.5)),
            ])]),
        });
        let part = FieldValue::Struct(vec![
            ("type".into(), FieldValue::Text("text".into())),
            ("text".into(), FieldValue::Text("b".into())),
        ]);
        let expected = [
            Turn::new(USER, "a"),
            calls,
            Turn::new(ASSISTANT, Content::Parts(vec![part])),
        ];
        assert_eq!(turns, expected);
    }

    #[test]
    fn other_texts() {
        for text in [
            "",
            "[",
            "[]",
            "[1, 2]",
            "{\"role\": \"user\", \"content\": \"a\"}",
            "[{\"role\": \"user\"}]",
            "[{\"role\": 1, \"content\": \"a\"}]",
            "[{\"role\": \"user\", \"content\": \"a\"}] and more",
            "[{'role': 'user', 'content': 'a'}]",
        ] {
            assert!(json_messages(text).is_none(), "{text}");
        }
        for (text, reason) in [
            (r#"[{"role": "user", "content": 1}]"#, "neither a string"),
            (r#"[{"role": "user", "content": null}]"#, "null 'content'"),
            (r#"[{"role": "user", "content": ["a"]}]"#, "no struct"),
            (
                r#"[{"role": "user", "content": [{"type": "image", "url": "x"}]}]"#,
                "has the type 'image'",
            ),
        ] {
            let error = json_messages(text).unwrap().unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
