//! Text that is marked as safe, and what is escaped beside it (`markupsafe`).

use super::error::Result;
use super::text::str_of;
use super::value::Value;

/// The text of a value beside marked text: escaped unless it is marked itself.
///
/// # Errors
/// When the value has no text.
pub(super) fn escaped(value: &Value) -> Result<String> {
    match value {
        Value::Markup(text) => Ok(text.to_string()),
        _ => str_of(value).map(|text| escape(&text)),
    }
}

/// `markupsafe.escape` of a text.
pub(super) fn escape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&#34;"),
            '\'' => result.push_str("&#39;"),
            _ => result.push(c),
        }
    }
    result
}
