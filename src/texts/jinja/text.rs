//! How Python writes values, and what it knows of characters.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

use super::error::{Result, type_error};
use super::value::{Value, View};

/// `str(value)`.
///
/// # Errors
/// When Python would write an address, or the value has such a one in it.
pub(super) fn str_of(value: &Value) -> Result<String> {
    match value {
        Value::Undefined(_) => Ok(String::new()),
        Value::Str(text) | Value::Markup(text) => Ok(text.to_string()),
        _ => repr(value),
    }
}

/// `repr(value)`.
///
/// # Errors
/// As [`str_of`].
pub(crate) fn repr(value: &Value) -> Result<String> {
    let mut text = String::new();
    write_repr(value, &mut text)?;
    Ok(text)
}

fn write_repr(value: &Value, to: &mut String) -> Result<()> {
    match value {
        Value::Undefined(_) => to.push_str("Undefined"),
        Value::None => to.push_str("None"),
        Value::Bool(true) => to.push_str("True"),
        Value::Bool(false) => to.push_str("False"),
        Value::Int(value) => write_shown(to, value),
        Value::Float(value) => to.push_str(&float(*value)),
        Value::Str(text) => quote(text, to),
        Value::Markup(text) => {
            to.push_str("Markup(");
            quote(text, to);
            to.push(')');
        }
        Value::List(items) => write_items("[", items, "]", to)?,
        Value::Tuple(items) => {
            let end = if items.len() == 1 { ",)" } else { ")" };
            write_items("(", items, end, to)?;
        }
        Value::Dict(dict) => {
            to.push('{');
            for (at, (key, value)) in dict.entries().iter().enumerate() {
                if at > 0 {
                    to.push_str(", ");
                }
                write_repr(key, to)?;
                to.push_str(": ");
                write_repr(value, to)?;
            }
            to.push('}');
        }
        Value::Range(range) => {
            write_shown(to, format!("range({}, {}", range.start, range.stop));
            if range.step != 1 {
                write_shown(to, format!(", {}", range.step));
            }
            to.push(')');
        }
        Value::View(kind, _) => {
            to.push_str(match kind {
                View::Keys => "dict_keys(",
                View::Values => "dict_values(",
                View::Items => "dict_items(",
            });
            write_items("[", &value.items()?, "])", to)?;
        }
        Value::Object(object) if object.text().is_some() => {
            to.push_str(&object.text().unwrap_or_default());
        }
        _ => {
            return type_error(format!(
                "a {} is written, which Python does with its address",
                value.type_name()
            ));
        }
    }
    Ok(())
}

fn write_shown(to: &mut String, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(to, "{value}");
}

fn write_items(start: &str, items: &[Value], end: &str, to: &mut String) -> Result<()> {
    to.push_str(start);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            to.push_str(", ");
        }
        write_repr(item, to)?;
    }
    to.push_str(end);
    Ok(())
}

/// `repr` of a text.
fn quote(text: &str, to: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    to.push(quote);
    for c in text.chars() {
        match c {
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            _ if c == quote => {
                to.push('\\');
                to.push(c);
            }
            _ if is_printable(c) => to.push(c),
            _ => write_shown(
                to,
                match u32::from(c) {
                    code @ ..=0xff => format!("\\x{code:02x}"),
                    code @ ..=0xffff => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                },
            ),
        }
    }
    to.push(quote);
}

/// `repr` of a float: the shortest digits that are read back as it.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let text = format!("{value}");
        return match text.contains('.') {
            true => text,
            false => text + ".0",
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn class(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file")
}

/// `str.isprintable` of one character.
pub(super) fn is_printable(c: char) -> bool {
    static HIDDEN: LazyLock<Regex> = LazyLock::new(|| class(r"^[\p{C}\p{Z}]$"));
    match c.is_ascii() {
        true => (' '..='~').contains(&c),
        false => !has_class(&HIDDEN, c),
    }
}

/// `str.isalpha` of one character.
pub(super) fn is_letter(c: char) -> bool {
    static LETTERS: LazyLock<Regex> = LazyLock::new(|| class(r"^\p{L}$"));
    match c.is_ascii() {
        true => c.is_ascii_alphabetic(),
        false => has_class(&LETTERS, c),
    }
}

/// `str.isdecimal` of one character.
pub(super) fn is_decimal(c: char) -> bool {
    static DECIMALS: LazyLock<Regex> = LazyLock::new(|| class(r"^\p{Nd}$"));
    match c.is_ascii() {
        true => c.is_ascii_digit(),
        false => has_class(&DECIMALS, c),
    }
}

/// Whether a character is a number other than a decimal digit: which of Python's three kinds it is,
/// no table here says.
pub(super) fn is_other_number(c: char) -> bool {
    static NUMBERS: LazyLock<Regex> = LazyLock::new(|| class(r"^[\p{Nl}\p{No}]$"));
    !c.is_ascii() && has_class(&NUMBERS, c)
}

fn has_class(class: &Regex, c: char) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4]))
}

/// The text of one character with its first letter in title case, for `title` and `capitalize`.
///
/// # Errors
/// Where that is not known to be what its upper case is.
pub(super) fn title_case(c: char) -> Result<String> {
    let upper: String = c.to_uppercase().collect();
    // Digraphs, Georgian, and what becomes several characters.
    let has_own = matches!(
        u32::from(c),
        0x1c4..=0x1cc | 0x1f1..=0x1f3 | 0x10d0..=0x10ff | 0x1f80..=0x1fff
    );
    match c {
        'ß' => Ok("Ss".into()),
        _ if has_own || upper.chars().count() > 1 => {
            type_error(format!("the title case of '{c}' is not supported"))
        }
        _ => Ok(upper),
    }
}

/// `str.lower`.
pub(super) fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// `str.upper`.
pub(super) fn upper(text: &str) -> String {
    text.to_uppercase()
}

/// `str.casefold`.
///
/// # Errors
/// Where letters outside ASCII are in the text.
pub(super) fn casefold(text: &str) -> Result<String> {
    match text.is_ascii() {
        true => Ok(text.to_ascii_lowercase()),
        false => type_error("casefold of letters outside ASCII is not supported"),
    }
}

/// `str.splitlines`: the lines, each with its end if `keeps_ends`.
pub(super) fn split_lines(text: &str, keeps_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let end = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keeps_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// The first of these many characters of a text, and the rest.
pub(super) fn split_at_character(text: &str, characters: usize) -> (&str, &str) {
    let at = text.char_indices().nth(characters);
    text.split_at(at.map_or(text.len(), |(at, _)| at))
}
