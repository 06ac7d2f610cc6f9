//! Filters of texts.

use crate::texts::jinja::arguments::{Given, integer, text};
use crate::texts::jinja::error::{Error, Result, type_error};
use crate::texts::jinja::fuel::Fuel;
use crate::texts::jinja::lexer::is_space;
use crate::texts::jinja::text::{lower, split_at_character, split_lines, str_of, upper};
use crate::texts::jinja::value::{Value, View};

pub(super) fn wrong<T>(name: &str, value: &Value) -> Result<T> {
    type_error(format!("the filter '{name}' of a {}", value.type_name()))
}

/// `soft_str(value)` where it is no markup.
pub(super) fn soft_text(value: &Value) -> Result<String> {
    match value {
        Value::Markup(_) => {
            type_error("a filter that changes markup (after 'safe' or 'escape'); not supported")
        }
        _ => str_of(value),
    }
}

pub(super) fn of_text(value: &Value, change: impl FnOnce(&str) -> Result<String>) -> Result<Value> {
    change(&soft_text(value)?).map(Value::str)
}

pub(super) fn indent(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
    let indention = match width {
        None => "    ".to_owned(),
        Some(Value::Str(text)) => text.to_string(),
        Some(width) => {
            let width = integer("indent", &width)?;
            let width = usize::try_from(width).unwrap_or(0);
            fuel.repeat(1, width)?;
            " ".repeat(width)
        }
    };
    let [first, blank] = [first, blank].map(|flag| flag.is_some_and(|value| value.is_true()));
    let this = match value {
        Value::Str(text) => format!("{text}\n"),
        Value::Undefined(missing) => return Err(Error::new(missing.reason())),
        _ => return wrong("indent", value),
    };
    let lines = split_lines(&this, false);
    fuel.repeat(indention.len() + 1, lines.len())?;
    let mut result = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            result.push('\n');
            if blank || !line.is_empty() {
                result.push_str(&indention);
            }
        }
        result.push_str(line);
    }
    Ok(Value::str(if first { indention + &result } else { result }))
}

/// Words in title case, of which `-`, spaces and opening brackets are the beginnings.
pub(super) fn title(this: &str) -> Result<String> {
    let begins = |c: char| is_space(c) || "-({[<".contains(c);
    let mut result = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, result: &mut String| {
        let mut characters = word.chars();
        if let Some(first) = characters.next() {
            // jinja2 writes the first letter in upper case, not in title case.
            result.push_str(&upper(&first.to_string()));
            result.push_str(&lower(characters.as_str()));
        }
        word.clear();
    };
    for c in this.chars() {
        match begins(c) {
            true => {
                flush(&mut word, &mut result);
                result.push(c);
            }
            false => word.push(c),
        }
    }
    flush(&mut word, &mut result);
    Ok(result)
}

pub(super) fn truncate(value: &Value, given: Given) -> Result<Value> {
    let [length, kill, end, leeway] =
        given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = length.map_or(Ok(255), |length| integer("truncate", &length))?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => integer("truncate", &leeway)?,
    };
    let end = end.unwrap_or_else(|| Value::str("..."));
    let end = text("truncate", &end)?;
    let kept = length - end.chars().count() as i128;
    if kept < 0 || leeway < 0 {
        return type_error("the filter 'truncate' to less than its end takes");
    }
    let this = text("truncate", value)?;
    if this.chars().count() as i128 <= length + leeway {
        return Ok(value.clone());
    }
    let (kept, _) = split_at_character(this, usize::try_from(kept).unwrap_or(usize::MAX));
    let kept = match kill.is_some_and(|value| value.is_true()) {
        true => kept,
        false => kept.rsplit_once(' ').map_or(kept, |(before, _)| before),
    };
    Ok(Value::str(format!("{kept}{end}")))
}

pub(super) fn url_encode(value: &Value) -> Result<Value> {
    let items = match value {
        Value::Str(_) | Value::Markup(_) => return url_quote(value, false).map(Value::str),
        Value::Dict(dict) => Value::View(View::Items, dict.clone()).items()?,
        _ if value.is_iterable() => value.items()?,
        _ => return url_quote(value, false).map(Value::str),
    };
    let pair = |item: &Value| match &item.items()?[..] {
        [key, value] => Ok(format!(
            "{}={}",
            url_quote(key, true)?,
            url_quote(value, true)?
        )),
        _ => type_error("the filter 'urlencode' of what is no pair"),
    };
    let pairs = items.iter().map(pair).collect::<Result<Vec<_>>>()?;
    Ok(Value::str(pairs.join("&")))
}

pub(super) fn url_quote(value: &Value, is_query: bool) -> Result<String> {
    let text = str_of(value)?;
    let mut result = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "_.-~".contains(c) || (c == '/' && !is_query) {
            result.push(c);
        } else if c == ' ' && is_query {
            result.push('+');
        } else {
            result.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(result)
}
