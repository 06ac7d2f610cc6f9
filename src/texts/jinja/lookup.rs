//! How jinja2 looks attributes, items and slices up, and which attributes Python's types have.

use std::rc::Rc;

use super::error::{Result, type_error};
use super::text::str_of;
use super::value::{Missing, Value, check_hashable, defined};

const OF_STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const OF_LIST: [&str; 2] = ["count", "index"];
/// What changes a list, which the sandbox hides.
const CHANGES_LIST: [&str; 9] = [
    "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", "copy",
];
const OF_DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
/// What changes a dictionary.
const CHANGES_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const OF_INT: [&str; 6] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "from_bytes",
    "to_bytes",
];
const OF_FLOAT: [&str; 5] = [
    "as_integer_ratio",
    "conjugate",
    "fromhex",
    "hex",
    "is_integer",
];
const PARTS: [&str; 4] = ["real", "imag", "numerator", "denominator"];

/// The name of an attribute that a value's type has, and whether the sandbox hides it.
pub(super) fn of_type(value: &Value, name: &str) -> Option<(&'static str, bool)> {
    let find = |names: &[&'static str]| names.iter().find(|known| **known == name).copied();
    let shown = |names: &[&'static str]| find(names).map(|name| (name, false));
    let hidden = |names: &[&'static str]| find(names).map(|name| (name, true));
    match value {
        Value::Str(_) | Value::Markup(_) => shown(&OF_STR),
        Value::List(_) if name == "copy" => Some(("copy", false)),
        Value::List(_) => shown(&OF_LIST).or_else(|| hidden(&CHANGES_LIST)),
        Value::Tuple(_) => shown(&OF_LIST),
        Value::Range(_) => shown(&OF_LIST).or_else(|| shown(&["start", "stop", "step"])),
        Value::Dict(_) => shown(&OF_DICT).or_else(|| hidden(&CHANGES_DICT)),
        Value::Int(_) | Value::Bool(_) => shown(&OF_INT).or_else(|| shown(&PARTS)),
        Value::Float(_) => shown(&OF_FLOAT).or_else(|| shown(&PARTS[..2])),
        _ => None,
    }
}

/// The value of an attribute that is no method.
pub(super) fn plain_attribute(value: &Value, name: &str) -> Option<Value> {
    match (value, name) {
        (Value::Range(range), "start") => Some(Value::Int(range.start)),
        (Value::Range(range), "stop") => Some(Value::Int(range.stop)),
        (Value::Range(range), "step") => Some(Value::Int(range.step)),
        (Value::Float(float), "real") => Some(Value::Float(*float)),
        (Value::Float(_), "imag") => Some(Value::Float(0.0)),
        _ => match (value.as_int()?, name) {
            (int, "real" | "numerator") => Some(Value::Int(int)),
            (_, "imag") => Some(Value::Int(0)),
            (_, "denominator") => Some(Value::Int(1)),
            _ => None,
        },
    }
}

/// `object.name`, as `Environment.getattr` finds it: an attribute first, then an item.
///
/// # Errors
/// When the object is undefined.
pub(super) fn attribute(object: &Value, name: &str) -> Result<Value> {
    defined(object)?;
    if let Some(found) = own_attribute(object, name)? {
        return Ok(found);
    }
    Ok(match object {
        Value::Dict(dict) => match dict.get_str(name) {
            Some(found) => found.clone(),
            None => undefined_part(object, name),
        },
        _ => undefined_part(object, name),
    })
}

fn undefined_part(object: &Value, name: &str) -> Value {
    let missing = Missing::Attribute(object.type_name(), name.to_owned());
    Value::Undefined(Rc::new(missing))
}

/// An attribute that Python's type has.
fn own_attribute(object: &Value, name: &str) -> Result<Option<Value>> {
    if let Value::Object(of) = object {
        return Ok(of.attribute(name));
    }
    let Some((found, is_hidden)) = of_type(object, name) else {
        return Ok(None);
    };
    if is_hidden {
        let missing = Missing::Hidden(object.type_name(), name.to_owned());
        return Ok(Some(Value::Undefined(Rc::new(missing))));
    }
    match plain_attribute(object, name) {
        Some(value) => Ok(Some(value)),
        None => Ok(Some(Value::Method(Rc::new(object.clone()), found))),
    }
}

/// `object[key]`, as `Environment.getitem` finds it: an item first, then an attribute.
///
/// # Errors
/// When the object is undefined.
pub(super) fn item(object: &Value, key: &Value) -> Result<Value> {
    defined(object)?;
    if let Some(found) = own_item(object, key)? {
        return Ok(found);
    }
    if let Some(name) = key.as_str()
        && let Some(found) = own_attribute(object, name)?
    {
        return Ok(found);
    }
    let shown = str_of(key).unwrap_or_default();
    Ok(undefined_part(object, &shown))
}

/// An item, if it is there.
pub(super) fn own_item(object: &Value, key: &Value) -> Result<Option<Value>> {
    let place = |length: usize| {
        let at = key.as_int()?;
        let at = if at < 0 { at + length as i128 } else { at };
        usize::try_from(at).ok().filter(|at| *at < length)
    };
    Ok(match object {
        Value::Dict(dict) => match check_hashable(key) {
            Ok(()) => dict.get(key).cloned(),
            Err(_) => None,
        },
        Value::List(items) | Value::Tuple(items) => place(items.len()).map(|at| items[at].clone()),
        Value::Str(text) | Value::Markup(text) => {
            let Some(at) = key.as_int() else {
                return Ok(None);
            };
            let found = match at < 0 {
                true => usize::try_from(-(at + 1))
                    .ok()
                    .and_then(|at| text.chars().rev().nth(at)),
                false => usize::try_from(at).ok().and_then(|at| text.chars().nth(at)),
            };
            found.map(|c| match object {
                Value::Str(_) => Value::str(c.to_string()),
                _ => Value::Markup(c.to_string().into()),
            })
        }
        Value::Range(range) => place(range.len()).map(|at| range.get(at)),
        Value::Object(of) => {
            let items = of.items();
            items.and_then(|items| place(items.len()).map(|at| items[at].clone()))
        }
        _ => None,
    })
}

/// `object[start:stop:step]`; undefined where the object has no parts, or not by such bounds.
///
/// # Errors
/// When something is undefined, and by a step of 0.
pub(super) fn slice(object: &Value, bounds: [Value; 3]) -> Result<Value> {
    defined(object)?;
    bounds.iter().try_for_each(defined)?;
    let is_bound = |value: &Value| matches!(value, Value::None) || value.as_int().is_some();
    if !bounds.iter().all(is_bound) {
        return Ok(Value::missing("a slice by what is no integer"));
    }
    let [start, stop, step] = bounds.map(|bound| bound.as_int());
    let step = step.unwrap_or(1);
    if step == 0 {
        return type_error("a slice by a step of 0");
    }
    let length = match object {
        Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
            object.length()? as i128
        }
        Value::View(..) | Value::Object(_) => {
            return type_error(format!("a slice of a {}", object.type_name()));
        }
        _ => {
            return Ok(Value::missing(format!(
                "a slice of a {}",
                object.type_name()
            )));
        }
    };
    // As `PySlice_AdjustIndices`.
    let (lowest, highest) = if step < 0 {
        (-1, length - 1)
    } else {
        (0, length)
    };
    let place = |at: Option<i128>, absent: i128| match at {
        None => absent,
        Some(at) if at < 0 => (at + length).max(lowest),
        Some(at) => at.min(highest),
    };
    let (start, stop) = match step < 0 {
        true => (place(start, highest), place(stop, lowest)),
        false => (place(start, lowest), place(stop, highest)),
    };
    let mut places = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        places.push(at as usize);
        let Some(next) = at.checked_add(step) else {
            break;
        };
        at = next;
    }
    Ok(match object {
        Value::Str(text) | Value::Markup(text) => {
            let part: String = match step {
                1 => {
                    let characters = text.chars().skip(start.max(0) as usize);
                    characters.take(places.len()).collect()
                }
                _ => {
                    let characters: Vec<char> = text.chars().collect();
                    places.into_iter().map(|at| characters[at]).collect()
                }
            };
            match object {
                Value::Str(_) => Value::str(part),
                _ => Value::Markup(part.into()),
            }
        }
        Value::List(items) => Value::list(places.into_iter().map(|at| items[at].clone()).collect()),
        Value::Tuple(items) => {
            Value::tuple(places.into_iter().map(|at| items[at].clone()).collect())
        }
        Value::Range(range) => {
            let by = range.step * step;
            Value::Range(super::value::Range {
                start: range.start + range.step * start,
                stop: range.start + range.step * stop,
                step: by,
            })
        }
        _ => return type_error("a slice of what has none"),
    })
}
