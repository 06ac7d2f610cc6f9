//! The filter `tojson` of transformers: Python's `json.dumps`.

use super::arguments::Given;
use super::error::{Result, type_error};
use super::fuel::Fuel;
use super::text::float;
use super::value::Value;

struct Writer<'a> {
    is_ascii: bool,
    indent: Option<String>,
    between_items: &'a str,
    after_key: &'a str,
    sorts_keys: bool,
    fuel: &'a Fuel,
    text: String,
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
///
/// # Errors
/// When the value is not of JSON's types, or the arguments are not valid.
pub(super) fn to_json(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
    let [is_ascii, indent, separators, sorts_keys] = given.bind(
        "tojson",
        ["ensure_ascii", "indent", "separators", "sort_keys"],
    )?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(other) => match other.as_int() {
            Some(width) => {
                let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                fuel.repeat(1, width)?;
                Some(" ".repeat(width))
            }
            None => return type_error(format!("an indent that is a {}", other.type_name())),
        },
    };
    let separators = match separators {
        None | Some(Value::None) => None,
        Some(pair) => match &pair.items()?[..] {
            [Value::Str(items), Value::Str(key)] => Some((items.clone(), key.clone())),
            _ => return type_error("separators that are not two texts"),
        },
    };
    let between = if indent.is_some() { "," } else { ", " };
    let (between_items, after_key) = match &separators {
        Some((items, key)) => (&items[..], &key[..]),
        None => (between, ": "),
    };
    let mut writer = Writer {
        is_ascii: is_ascii.is_some_and(|value| value.is_true()),
        indent,
        between_items,
        after_key,
        sorts_keys: sorts_keys.is_some_and(|value| value.is_true()),
        fuel,
        text: String::new(),
    };
    writer.value(value, 0)?;
    Ok(Value::str(writer.text))
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        self.fuel.spend(1)?;
        match value {
            Value::None => self.text.push_str("null"),
            Value::Bool(true) => self.text.push_str("true"),
            Value::Bool(false) => self.text.push_str("false"),
            Value::Int(int) => self.text.push_str(&int.to_string()),
            Value::Float(value) => self.text.push_str(&number(*value)),
            Value::Str(text) | Value::Markup(text) => self.string(text)?,
            Value::List(items) | Value::Tuple(items) => {
                self.text.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.separate(at, depth + 1)?;
                    self.value(item, depth + 1)?;
                }
                self.close(items.is_empty(), ']', depth)?;
            }
            Value::Dict(dict) => {
                self.text.push('{');
                let mut entries: Vec<_> = dict.entries().iter().collect();
                if self.sorts_keys {
                    if entries.iter().any(|(key, _)| key.as_str().is_none()) {
                        return type_error("sort_keys of keys that are not texts; not supported");
                    }
                    entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
                }
                for (at, (key, value)) in entries.into_iter().enumerate() {
                    self.separate(at, depth + 1)?;
                    self.key(key)?;
                    self.text.push_str(self.after_key);
                    self.value(value, depth + 1)?;
                }
                self.close(dict.len() == 0, '}', depth)?;
            }
            _ => return type_error(format!("a {} as JSON", value.type_name())),
        }
        Ok(())
    }

    fn key(&mut self, key: &Value) -> Result<()> {
        let text = match key {
            Value::Str(text) | Value::Markup(text) => text.to_string(),
            Value::None => "null".into(),
            Value::Bool(true) => "true".into(),
            Value::Bool(false) => "false".into(),
            Value::Int(int) => int.to_string(),
            Value::Float(value) => number(*value),
            _ => return type_error(format!("a {} as a key of JSON", key.type_name())),
        };
        self.string(&text)
    }

    fn separate(&mut self, at: usize, depth: usize) -> Result<()> {
        if at > 0 {
            self.text.push_str(self.between_items);
        }
        self.new_line(depth)
    }

    fn close(&mut self, is_empty: bool, mark: char, depth: usize) -> Result<()> {
        if !is_empty {
            self.new_line(depth)?;
        }
        self.text.push(mark);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = &self.indent {
            self.fuel.repeat(indent.len(), depth)?;
            self.text.push('\n');
            for _ in 0..depth {
                self.text.push_str(indent);
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.fuel.write(text.len())?;
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '\0'..='\u{1f}' => self.escape(c),
                _ if self.is_ascii && !(' '..='~').contains(&c) => self.escape(c),
                _ => self.text.push(c),
            }
        }
        self.text.push('"');
        Ok(())
    }

    fn escape(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            self.text.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".into(),
        _ if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => float(value),
    }
}
