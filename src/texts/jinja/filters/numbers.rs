//! Filters of numbers.

use super::texts::wrong;
use crate::texts::jinja::arguments::{Given, integer};
use crate::texts::jinja::error::{Error, Result, type_error};
use crate::texts::jinja::lexer::is_space;
use crate::texts::jinja::value::Value;

pub(super) fn file_size(value: &Value, is_binary: bool) -> Result<Value> {
    let Some(bytes) = to_float(value)? else {
        return wrong("filesizeformat", value);
    };
    let base = if is_binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::str("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::str(format!("{} Bytes", bytes as i128)));
    }
    let units = match is_binary {
        true => ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"],
        false => ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"],
    };
    let mut unit = base * base;
    for name in &units[..7] {
        if bytes < unit {
            return Ok(Value::str(format!("{:.1} {name}", base * bytes / unit)));
        }
        unit *= base;
    }
    Ok(Value::str(format!(
        "{:.1} {}",
        base * bytes / unit,
        units[7]
    )))
}

pub(super) fn digits_of(text: &str) -> Option<String> {
    let text = text.trim_matches(is_space);
    // Single underscores may stand between digits.
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let mut before = None;
    for (at, c) in text.char_indices() {
        if c == '_' && !(is_digit(before) && is_digit(text[at + 1..].chars().next())) {
            return None;
        }
        before = Some(c);
    }
    Some(text.replace('_', ""))
}

/// `float(value)`, if it succeeds.
pub(super) fn to_float(value: &Value) -> Result<Option<f64>> {
    Ok(match value {
        Value::Undefined(missing) => return Err(Error::new(missing.reason())),
        Value::Float(value) => Some(*value),
        Value::Str(text) | Value::Markup(text) => {
            if !text.is_ascii() && text.chars().any(|c| !c.is_ascii() && !is_space(c)) {
                return type_error("a number written with characters outside ASCII");
            }
            digits_of(text).and_then(|digits| digits.parse().ok())
        }
        _ => value.as_int().map(|int| int as f64),
    })
}

/// `int(value)`, of a float in a text too, otherwise the default.
pub(super) fn to_int(value: &Value, given: Given) -> Result<Value> {
    let [absent, base] = given.bind("int", ["default", "base"])?;
    let absent = absent.unwrap_or(Value::Int(0));
    let base = base.map_or(Ok(10), |base| integer("int", &base))?;
    if let Value::Undefined(missing) = value {
        return Err(Error::new(missing.reason()));
    }
    if let Some(int) = value.as_int() {
        return Ok(Value::Int(int));
    }
    if let Some(text) = value.as_str() {
        if !text.is_ascii() && text.chars().any(|c| !c.is_ascii() && !is_space(c)) {
            return type_error("a number written with characters outside ASCII");
        }
        if let Some(int) = integer_of(text, base)? {
            return Ok(Value::Int(int));
        }
    }
    match to_float(value)? {
        Some(float) if float.is_finite() && float.abs() < 1e38 => Ok(Value::Int(float as i128)),
        Some(float) if float.is_finite() => type_error("an integer of more than 127 bits"),
        Some(float) if float.is_infinite() && matches!(value, Value::Float(_)) => {
            type_error("an infinite number as an integer")
        }
        _ => Ok(absent),
    }
}

/// `int(text, base)`, if it succeeds.
pub(super) fn integer_of(text: &str, base: i128) -> Result<Option<i128>> {
    let Some(digits) = digits_of(text) else {
        return Ok(None);
    };
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefix = [("0x", 16), ("0o", 8), ("0b", 2)];
    let written = prefix.iter().find(|(mark, _)| lower.starts_with(mark));
    let (digits, radix) = match (written, base) {
        (Some((mark, radix)), 0) => (&lower[mark.len()..], *radix),
        (Some((mark, radix)), base) if base == i128::from(*radix) => (&lower[mark.len()..], *radix),
        (None, 0) if lower.starts_with('0') && !lower.trim_matches('0').is_empty() => {
            return Ok(None);
        }
        (_, 0) => (&lower[..], 10),
        (_, 2..=36) => (&lower[..], base as u32),
        _ => return Ok(None),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    match i128::from_str_radix(digits, radix) {
        Ok(int) => Ok(Some(sign * int)),
        Err(_) => type_error("an integer of more than 127 bits; not supported"),
    }
}

pub(super) fn round(value: &Value, given: Given) -> Result<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |precision| integer("round", &precision))?;
    let method = method.unwrap_or_else(|| Value::str("common"));
    let method = method.as_str().unwrap_or("");
    if !["common", "ceil", "floor"].contains(&method) {
        return type_error("the filter 'round' has the methods common, ceil and floor");
    }
    if let Value::Undefined(missing) = value {
        return Err(Error::new(missing.reason()));
    }
    match (value, value.as_int()) {
        (_, Some(int)) if method == "common" && precision >= 0 => Ok(Value::Int(int)),
        (Value::Float(float), _) if method == "common" => match usize::try_from(precision) {
            Ok(places) if places <= 300 && float.is_finite() => {
                // Exact: the nearest decimal number, of two the even one.
                let rounded = format!("{float:.places$}").parse();
                Ok(Value::Float(rounded.unwrap_or(*float)))
            }
            _ => type_error(format!("the filter 'round' to {precision} places")),
        },
        (Value::Float(_) | Value::Int(_) | Value::Bool(_), _) => {
            let number = match value {
                Value::Float(float) => *float,
                _ => value.as_int().unwrap_or_default() as f64,
            };
            if !(0..=15).contains(&precision) || !number.is_finite() {
                return type_error(format!("the filter 'round' to {precision} places"));
            }
            let scale = 10f64.powi(precision as i32);
            let scaled = number * scale;
            let whole = if method == "ceil" {
                scaled.ceil()
            } else {
                scaled.floor()
            };
            Ok(Value::Float(whole / scale))
        }
        _ => wrong("round", value),
    }
}
