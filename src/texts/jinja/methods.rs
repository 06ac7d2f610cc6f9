//! The methods of Python's types.

use super::arguments::{Given, integer, required, text};
use super::error::{Result, type_error};
use super::fuel::Fuel;
use super::lexer::is_space;
use super::printf;
use super::text::{
    casefold, is_decimal, is_letter, is_other_number, is_printable, lower, split_lines, title_case,
    upper,
};
use super::value::{Value, View, is_equal};

/// Calls a method.
///
/// # Errors
/// When the arguments do not fit it, or it is not supported.
pub(super) fn call(of: &Value, name: &'static str, given: Given, fuel: &Fuel) -> Result<Value> {
    match of {
        Value::Str(this) => of_str(this, name, given, fuel),
        Value::Markup(_) => type_error(format!(
            "the method '{name}' of markup (after 'safe' or 'escape'); not supported"
        )),
        Value::Dict(dict) => match name {
            "get" => {
                let [key, absent] = given.positional("get")?;
                let key = required("get", key)?;
                super::value::check_hashable(&key)?;
                Ok(dict.get(&key).cloned().or(absent).unwrap_or(Value::None))
            }
            "keys" | "values" | "items" => {
                let [] = given.positional(name)?;
                let view = match name {
                    "keys" => View::Keys,
                    "values" => View::Values,
                    _ => View::Items,
                };
                Ok(Value::View(view, dict.clone()))
            }
            "copy" => {
                let [] = given.positional("copy")?;
                Ok(of.clone())
            }
            _ => unsupported(of, name),
        },
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => of_sequence(of, name, given),
        Value::Int(_) | Value::Bool(_) => of_int(of, name, given),
        Value::Float(value) => match name {
            "is_integer" => {
                let [] = given.positional("is_integer")?;
                Ok(Value::Bool(value.fract() == 0.0))
            }
            "conjugate" => {
                let [] = given.positional("conjugate")?;
                Ok(Value::Float(*value))
            }
            _ => unsupported(of, name),
        },
        _ => unsupported(of, name),
    }
}

fn unsupported<T>(of: &Value, name: &str) -> Result<T> {
    type_error(format!(
        "the method '{name}' of a {} is not supported",
        of.type_name()
    ))
}

fn of_sequence(of: &Value, name: &'static str, given: Given) -> Result<Value> {
    match name {
        "copy" => {
            let [] = given.positional("copy")?;
            Ok(of.clone())
        }
        "count" => {
            let [of_what] = given.positional("count")?;
            let of_what = required("count", of_what)?;
            let items = of.items()?;
            let count = items.iter().filter(|item| is_equal(item, &of_what)).count();
            Ok(Value::Int(count as i128))
        }
        "index" => {
            let [of_what, start, stop] = given.positional("index")?;
            let of_what = required("index", of_what)?;
            let items = of.items()?;
            let [start, stop] = bounds(items.len(), [start, stop])?;
            let found = (start..stop.max(start)).find(|at| is_equal(&items[*at], &of_what));
            match found {
                Some(at) => Ok(Value::Int(at as i128)),
                None => type_error("index of what is not there"),
            }
        }
        _ => unsupported(of, name),
    }
}

/// Bounds as slices take them, within a length.
fn bounds(length: usize, given: [Option<Value>; 2]) -> Result<[usize; 2]> {
    let absent = [0, length as i128];
    let mut found = [0; 2];
    for (at, value) in given.into_iter().enumerate() {
        let bound = match value {
            None | Some(Value::None) => absent[at],
            Some(value) => integer("a bound", &value)?,
        };
        let bound = if bound < 0 {
            (bound + length as i128).max(0)
        } else {
            bound
        };
        found[at] = usize::try_from(bound).unwrap_or(usize::MAX).min(length);
    }
    Ok(found)
}

fn of_int(of: &Value, name: &'static str, given: Given) -> Result<Value> {
    let value = of.as_int().unwrap_or_default();
    let [] = given.positional(name)?;
    Ok(match name {
        "bit_length" => Value::Int(i128::from(128 - value.unsigned_abs().leading_zeros())),
        "bit_count" => Value::Int(i128::from(value.unsigned_abs().count_ones())),
        "conjugate" => Value::Int(value),
        "as_integer_ratio" => Value::tuple(vec![Value::Int(value), Value::Int(1)]),
        _ => return unsupported(of, name),
    })
}

fn whole(value: usize) -> Value {
    Value::Int(value as i128)
}

/// The characters that a method takes off: of no argument or `None`, the spaces.
fn is_stripped(what: &str, characters: Option<Value>) -> Result<Box<dyn Fn(char) -> bool>> {
    Ok(match characters {
        None | Some(Value::None) => Box::new(is_space),
        Some(characters) => {
            let characters = text(what, &characters)?.to_owned();
            Box::new(move |c| characters.contains(c))
        }
    })
}

/// `str.strip`.
///
/// # Errors
/// When `characters` is no text.
pub(super) fn strip(this: &str, characters: Option<Value>) -> Result<String> {
    let stripped = is_stripped("strip", characters)?;
    Ok(this.trim_matches(stripped).to_owned())
}

/// `str.capitalize`.
///
/// # Errors
/// Where the title case of the first letter is not known.
pub(super) fn capitalize(this: &str) -> Result<String> {
    let mut characters = this.chars();
    match characters.next() {
        // A final sigma depends on what precedes it.
        Some(_) if this.contains('Σ') => type_error("capitalize of 'Σ' is not supported"),
        Some(first) => Ok(title_case(first)? + &lower(characters.as_str())),
        None => Ok(String::new()),
    }
}

fn title(this: &str) -> Result<String> {
    if this.contains('Σ') {
        return type_error("title of 'Σ' is not supported");
    }
    let mut result = String::new();
    let mut follows_letter = false;
    for c in this.chars() {
        let is_cased = c.is_lowercase() || c.is_uppercase();
        match follows_letter {
            true => result.extend(c.to_lowercase()),
            false => result.push_str(&title_case(c)?),
        }
        follows_letter = is_cased;
    }
    Ok(result)
}

/// `str.center`.
///
/// # Errors
/// When it becomes too long.
pub(super) fn center(this: &str, width: i128, fill: char, fuel: &Fuel) -> Result<String> {
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(this.chars().count());
    fuel.repeat(fill.len_utf8(), missing)?;
    // CPython puts the odd one on the left where the width is odd.
    let left = missing / 2 + (missing & width & 1);
    let fill = fill.to_string();
    Ok(format!(
        "{}{this}{}",
        fill.repeat(left),
        fill.repeat(missing - left)
    ))
}

/// `str.split` with a separator, from the left.
fn split<'a>(this: &'a str, by: &str, most: usize) -> Vec<&'a str> {
    this.splitn(most.saturating_add(1), by).collect()
}

/// `str.rsplit` with a separator: from the right.
pub(super) fn rsplit<'a>(this: &'a str, by: &str, most: usize) -> Vec<&'a str> {
    let mut parts: Vec<&str> = this.rsplitn(most.saturating_add(1), by).collect();
    parts.reverse();
    parts
}

fn split_spaces(this: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = this.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn rsplit_spaces(this: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = this.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let last = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let start = last.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

fn texts(parts: Vec<&str>) -> Value {
    Value::list(parts.into_iter().map(Value::str).collect())
}

/// `str.replace`.
///
/// # Errors
/// When it becomes too long.
pub(super) fn replace(
    this: &str,
    old: &str,
    new: &str,
    count: i128,
    fuel: &Fuel,
) -> Result<String> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = this.matches(old).take(most).count();
    let grown = found.saturating_mul(new.len()).saturating_add(this.len());
    fuel.write(grown)?;
    // An empty text is found before every character, and at the end.
    Ok(this.replacen(old, new, most))
}

/// The part of a text between two bounds in characters, and where it begins; none if they cross.
fn between(this: &str, given: [Option<Value>; 2]) -> Result<Option<(&str, usize)>> {
    let length = this.chars().count();
    let start_is_beyond = match &given[0] {
        Some(value) => value.as_int().is_some_and(|start| start > length as i128),
        None => false,
    };
    let [start, stop] = bounds(length, given)?;
    if start > stop || start_is_beyond {
        return Ok(None);
    }
    let place = |at: usize| {
        let found = this.char_indices().nth(at);
        found.map_or(this.len(), |(at, _)| at)
    };
    Ok(Some((&this[place(start)..place(stop)], start)))
}

/// The texts that `startswith` and `endswith` try.
fn affixes(what: &str, value: Value) -> Result<Vec<String>> {
    match &value {
        Value::Tuple(items) => {
            let one = |item: &Value| text(what, item).map(str::to_owned);
            items.iter().map(one).collect()
        }
        _ => Ok(vec![text(what, &value)?.to_owned()]),
    }
}

fn of_str(this: &str, name: &'static str, given: Given, fuel: &Fuel) -> Result<Value> {
    fuel.write(this.len())?;
    let all =
        |holds: &dyn Fn(char) -> bool| Value::Bool(!this.is_empty() && this.chars().all(holds));
    let none = |given: Given| given.positional::<0>(name).map(|_| ());
    match name {
        "upper" => none(given).map(|()| Value::str(upper(this))),
        "lower" => none(given).map(|()| Value::str(lower(this))),
        "casefold" => {
            none(given)?;
            casefold(this).map(Value::str)
        }
        "capitalize" => {
            none(given)?;
            capitalize(this).map(Value::str)
        }
        "title" => {
            none(given)?;
            title(this).map(Value::str)
        }
        "swapcase" => {
            none(given)?;
            let swapped = |c: char| -> String {
                match c.is_uppercase() {
                    true => c.to_lowercase().collect(),
                    false => c.to_uppercase().collect(),
                }
            };
            match this.contains('Σ') {
                true => type_error("swapcase of 'Σ' is not supported"),
                false => Ok(Value::str(this.chars().map(swapped).collect::<String>())),
            }
        }
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = given.positional(name)?;
            let stripped = is_stripped(name, characters)?;
            let stripped = |c: char| stripped(c);
            Ok(Value::str(match name {
                "strip" => this.trim_matches(stripped),
                "lstrip" => this.trim_start_matches(stripped),
                _ => this.trim_end_matches(stripped),
            }))
        }
        "split" | "rsplit" => {
            let [by, most] = given.bind(name, ["sep", "maxsplit"])?;
            let most = match most {
                Some(most) => usize::try_from(integer(name, &most)?).unwrap_or(usize::MAX),
                None => usize::MAX,
            };
            let parts = match by {
                None | Some(Value::None) if name == "split" => split_spaces(this, most),
                None | Some(Value::None) => rsplit_spaces(this, most),
                Some(by) => match text(name, &by)? {
                    "" => return type_error(format!("{name} by an empty text")),
                    by if name == "split" => split(this, by, most),
                    by => rsplit(this, by, most),
                },
            };
            Ok(texts(parts))
        }
        "splitlines" => {
            let [keeps_ends] = given.bind(name, ["keepends"])?;
            let keeps_ends = keeps_ends.is_some_and(|value| value.is_true());
            Ok(texts(split_lines(this, keeps_ends)))
        }
        "partition" | "rpartition" => {
            let [by] = given.positional(name)?;
            let by = required(name, by)?;
            let by = text(name, &by)?;
            if by.is_empty() {
                return type_error(format!("{name} by an empty text"));
            }
            let found = match name {
                "partition" => this.split_once(by),
                _ => this.rsplit_once(by),
            };
            let parts = match found {
                Some((before, after)) => [before, by, after],
                None if name == "partition" => [this, "", ""],
                None => ["", "", this],
            };
            Ok(Value::tuple(parts.map(Value::str).into()))
        }
        "removeprefix" | "removesuffix" => {
            let [part] = given.positional(name)?;
            let part = required(name, part)?;
            let part = text(name, &part)?;
            let rest = match name {
                "removeprefix" => this.strip_prefix(part),
                _ => this.strip_suffix(part),
            };
            Ok(Value::str(rest.unwrap_or(this)))
        }
        "replace" => {
            let [old, new, count] = given.positional(name)?;
            let (old, new) = (required(name, old)?, required(name, new)?);
            let count = count.map_or(Ok(-1), |count| integer(name, &count))?;
            replace(this, text(name, &old)?, text(name, &new)?, count, fuel).map(Value::str)
        }
        "startswith" | "endswith" => {
            let [parts, start, stop] = given.positional(name)?;
            let parts = affixes(name, required(name, parts)?)?;
            let Some((this, _)) = between(this, [start, stop])? else {
                return Ok(Value::Bool(false));
            };
            let has = |part: &String| match name {
                "startswith" => this.starts_with(&part[..]),
                _ => this.ends_with(&part[..]),
            };
            Ok(Value::Bool(parts.iter().any(has)))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [part, start, stop] = given.positional(name)?;
            let part = required(name, part)?;
            let part = text(name, &part)?;
            let within = between(this, [start, stop])?;
            if name == "count" {
                return Ok(whole(
                    within.map_or(0, |(this, _)| this.matches(part).count()),
                ));
            }
            let found = within.and_then(|(this, start)| {
                let at = match name.starts_with('r') {
                    true => this.rfind(part),
                    false => this.find(part),
                };
                at.map(|at| start + this[..at].chars().count())
            });
            match found {
                Some(at) => Ok(whole(at)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => type_error("index of a text that is not there"),
            }
        }
        "join" => {
            let [items] = given.positional(name)?;
            let items = required(name, items)?.items()?;
            let items: Result<Vec<&str>> = items.iter().map(|item| text(name, item)).collect();
            let items = items?;
            let bytes = items.iter().map(|item| item.len() + this.len()).sum();
            fuel.write(bytes)?;
            Ok(Value::str(items.join(this)))
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = given.positional(name)?;
            let width = integer(name, &required(name, width)?)?;
            let fill = fill.unwrap_or_else(|| Value::str(" "));
            let mut characters = text(name, &fill)?.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return type_error(format!("{name} takes one character to fill with"));
            };
            if name == "center" {
                return center(this, width, fill, fuel).map(Value::str);
            }
            let width = usize::try_from(width).unwrap_or(0);
            let missing = width.saturating_sub(this.chars().count());
            fuel.repeat(fill.len_utf8(), missing)?;
            let fill = fill.to_string().repeat(missing);
            Ok(Value::str(match name {
                "ljust" => format!("{this}{fill}"),
                _ => format!("{fill}{this}"),
            }))
        }
        "zfill" => {
            let [width] = given.positional(name)?;
            let width = integer(name, &required(name, width)?)?;
            let width = usize::try_from(width).unwrap_or(0);
            let missing = width.saturating_sub(this.chars().count());
            fuel.repeat(1, missing)?;
            let (sign, digits) = this.split_at(usize::from(this.starts_with(['+', '-'])));
            Ok(Value::str(format!("{sign}{}{digits}", "0".repeat(missing))))
        }
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"])?;
            let size = size.map_or(Ok(8), |size| integer(name, &size))?;
            let size = usize::try_from(size).unwrap_or(0);
            expand_tabs(this, size, fuel).map(Value::str)
        }
        "format" => {
            let Given {
                positional,
                keywords,
            } = given;
            printf::format(this, &positional, &keywords, fuel).map(Value::str)
        }
        "format_map" => {
            let [map] = given.positional(name)?;
            let Value::Dict(dict) = required(name, map)? else {
                return type_error("format_map takes a dict");
            };
            let entries = dict.entries().iter();
            let keywords =
                entries.filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.clone())));
            let keywords: Vec<_> = keywords.collect();
            printf::format(this, &[], &keywords, fuel).map(Value::str)
        }
        "isascii" => none(given).map(|()| Value::Bool(this.is_ascii())),
        "isspace" => none(given).map(|()| all(&is_space)),
        "isalpha" => none(given).map(|()| all(&is_letter)),
        "isdecimal" => none(given).map(|()| all(&is_decimal)),
        "isprintable" => none(given).map(|()| Value::Bool(this.chars().all(is_printable))),
        "isdigit" | "isnumeric" | "isalnum" => {
            none(given)?;
            if this.chars().any(is_other_number) {
                return type_error(format!("{name} of numbers that are no decimal digits"));
            }
            Ok(match name {
                "isalnum" => all(&|c| is_letter(c) || is_decimal(c)),
                _ => all(&is_decimal),
            })
        }
        "islower" | "isupper" => {
            none(given)?;
            Ok(Value::Bool(match name {
                "islower" => is_lower(this),
                _ => is_upper(this),
            }))
        }
        "istitle" => {
            none(given)?;
            if this.chars().any(|c| {
                matches!(
                    u32::from(c),
                    0x1c5 | 0x1c8 | 0x1cb | 0x1f2 | 0x1f80..=0x1fff
                )
            }) {
                return type_error("istitle of letters that have a title case of their own");
            }
            let mut follows_cased = false;
            let mut has_cased = false;
            for c in this.chars() {
                let is_right = match (c.is_uppercase(), c.is_lowercase()) {
                    (true, _) => !follows_cased,
                    (_, true) => follows_cased,
                    _ => true,
                };
                if !is_right {
                    return Ok(Value::Bool(false));
                }
                follows_cased = c.is_uppercase() || c.is_lowercase();
                has_cased |= follows_cased;
            }
            Ok(Value::Bool(has_cased))
        }
        "isidentifier" => {
            none(given)?;
            if !this.is_ascii() {
                return type_error("isidentifier of letters outside ASCII is not supported");
            }
            let starts = this.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
            let is_part = |c: char| c == '_' || c.is_ascii_alphanumeric();
            Ok(Value::Bool(starts && this.chars().all(is_part)))
        }
        _ => unsupported(&Value::str(this), name),
    }
}

/// `str.islower`.
pub(super) fn is_lower(this: &str) -> bool {
    let cased = |c: &char| c.is_lowercase() || c.is_uppercase();
    this.chars().any(|c| c.is_lowercase()) && this.chars().filter(cased).all(|c| c.is_lowercase())
}

/// `str.isupper`.
pub(super) fn is_upper(this: &str) -> bool {
    let cased = |c: &char| c.is_lowercase() || c.is_uppercase();
    this.chars().any(|c| c.is_uppercase()) && this.chars().filter(cased).all(|c| c.is_uppercase())
}

fn expand_tabs(this: &str, size: usize, fuel: &Fuel) -> Result<String> {
    let mut result = String::new();
    let mut column = 0;
    for c in this.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                fuel.repeat(1, spaces)?;
                result.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            '\n' | '\r' => {
                result.push(c);
                column = 0;
            }
            _ => {
                result.push(c);
                column += 1;
            }
        }
    }
    Ok(result)
}
