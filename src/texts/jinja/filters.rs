//! The filters, after `jinja2/filters.py` without autoescaping.

use std::rc::Rc;

use regex::Regex;
use std::sync::LazyLock;

use super::arguments::{Given, integer, required, text};
use super::ast::Operator;
use super::checks;
use super::error::{Error, Result, type_error};
use super::fuel::Fuel;
use super::json::to_json;
use super::lexer::is_space;
use super::markup::{escape, escaped};
use super::methods;
use super::names;
use super::operators::{attribute, binary, is_less, item};
use super::printf;
use super::text::{lower, repr, split_at_character, split_lines, str_of, upper};
use super::value::{Object, Value, View, check_hashable, is_equal};

/// Applies a filter.
///
/// # Errors
/// When the arguments do not fit it, or there is none of that name.
pub fn apply(name: &str, value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
    fuel.spend(1)?;
    match name {
        "abs" => {
            let [] = given.bind(name, [])?;
            match (value, value.as_int()) {
                (Value::Float(value), _) => Ok(Value::Float(value.abs())),
                (_, Some(int)) if int != i128::MIN => Ok(Value::Int(int.abs())),
                _ => wrong(name, value),
            }
        }
        "attr" => {
            let [attr] = given.bind(name, ["name"])?;
            let attr = required(name, attr)?;
            attr_filter(value, text(name, &attr)?)
        }
        "batch" => {
            let [size, fill] = given.bind(name, ["linecount", "fill_with"])?;
            let size = integer(name, &required(name, size)?)?;
            batch(value, size, fill, fuel)
        }
        "capitalize" => {
            let [] = given.bind(name, [])?;
            of_text(value, methods::capitalize)
        }
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            let width = width.map_or(Ok(80), |width| integer(name, &width))?;
            of_text(value, |text| methods::center(text, width, ' ', fuel))
        }
        "count" | "length" => {
            let [] = given.bind(name, [])?;
            Ok(Value::Int(value.length()? as i128))
        }
        "d" | "default" => {
            let [absent, boolean] = given.bind(name, ["default_value", "boolean"])?;
            let boolean = boolean.is_some_and(|value| value.is_true());
            Ok(
                match value.is_undefined() || (boolean && !value.is_true()) {
                    true => absent.unwrap_or_else(|| Value::str("")),
                    false => value.clone(),
                },
            )
        }
        "dictsort" => dict_sort(value, given, fuel),
        "e" | "escape" => {
            let [] = given.bind(name, [])?;
            Ok(Value::Markup(escaped(value)?.into()))
        }
        "forceescape" => {
            let [] = given.bind(name, [])?;
            Ok(Value::Markup(escape(&str_of(value)?).into()))
        }
        "safe" => {
            let [] = given.bind(name, [])?;
            Ok(Value::Markup(str_of(value)?.into()))
        }
        "filesizeformat" => {
            let [binary] = given.bind(name, ["binary"])?;
            file_size(value, binary.is_some_and(|value| value.is_true()))
        }
        "first" => {
            let [] = given.bind(name, [])?;
            let first = value.first()?;
            Ok(first.unwrap_or_else(|| Value::missing("there is no first item")))
        }
        "last" => {
            let [] = given.bind(name, [])?;
            let last = reversible(name, value)?.pop();
            Ok(last.unwrap_or_else(|| Value::missing("there is no last item")))
        }
        "float" => {
            let [absent] = given.bind(name, ["default"])?;
            Ok(match to_float(value)? {
                Some(value) => Value::Float(value),
                None => absent.unwrap_or(Value::Float(0.0)),
            })
        }
        "int" => to_int(value, given),
        "format" => {
            let format = soft_text(value)?;
            let has_both = !given.positional.is_empty() && !given.keywords.is_empty();
            if has_both {
                return type_error("the filter 'format' takes arguments by place or by name");
            }
            let values = match given.keywords.is_empty() {
                false => Value::dict(given.keywords),
                true => Value::tuple(given.positional),
            };
            printf::percent(&format, &values, fuel).map(Value::str)
        }
        "groupby" => group_by(value, given, fuel),
        "indent" => indent(value, given, fuel),
        "items" => {
            let [] = given.bind(name, [])?;
            match value {
                Value::Undefined(_) => Ok(Value::iterator(Vec::new())),
                Value::Dict(dict) => Ok(Value::iterator(
                    Value::View(View::Items, dict.clone()).items()?,
                )),
                _ => wrong(name, value),
            }
        }
        "join" => {
            let [between, attribute] = given.bind(name, ["d", "attribute"])?;
            let between = between.map_or(Ok(String::new()), |d| str_of(&d))?;
            let key = Key::of(attribute, false, None)?;
            let mut result = String::new();
            for (at, item) in value.items()?.iter().enumerate() {
                if at > 0 {
                    result.push_str(&between);
                }
                let text = str_of(&key.get(item)?)?;
                fuel.write(text.len() + between.len())?;
                result.push_str(&text);
            }
            Ok(Value::str(result))
        }
        "list" => {
            let [] = given.bind(name, [])?;
            let items = value.items()?;
            fuel.spend(items.len())?;
            Ok(Value::list(items))
        }
        "lower" => {
            let [] = given.bind(name, [])?;
            of_text(value, |text| Ok(lower(text)))
        }
        "upper" => {
            let [] = given.bind(name, [])?;
            of_text(value, |text| Ok(upper(text)))
        }
        "map" => map(value, given, fuel),
        "max" | "min" => {
            let [case_sensitive, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
            let folds = !case_sensitive.is_some_and(|value| value.is_true());
            extreme(
                value,
                &Key::of(attribute, folds, None)?,
                name == "max",
                fuel,
            )
        }
        "reject" | "rejectattr" | "select" | "selectattr" => select(name, value, given, fuel),
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (old, new) = (required(name, old)?, required(name, new)?);
            let count = match count {
                None | Some(Value::None) => -1,
                Some(count) => integer(name, &count)?,
            };
            let [this, old, new] = [value, &old, &new].map(str_of);
            methods::replace(&this?, &old?, &new?, count, fuel).map(Value::str)
        }
        "reverse" => {
            let [] = given.bind(name, [])?;
            match value {
                Value::Str(text) => Ok(Value::str(text.chars().rev().collect::<String>())),
                Value::Markup(_) => wrong(name, value),
                _ => {
                    let mut items = value.items()?;
                    items.reverse();
                    Ok(match value {
                        // What cannot be read from its end is made a list.
                        Value::Iterator(_) => Value::list(items),
                        _ => Value::iterator(items),
                    })
                }
            }
        }
        "round" => round(value, given),
        "slice" => {
            let [count, fill] = given.bind(name, ["slices", "fill_with"])?;
            let count = integer(name, &required(name, count)?)?;
            slices(value, count, fill, fuel)
        }
        "sort" => {
            let [reverse, case_sensitive, attribute] =
                given.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let folds = !case_sensitive.is_some_and(|value| value.is_true());
            let keys = match attribute {
                // Several, with commas between them.
                Some(Value::Str(names)) => {
                    let names = names.split(',').map(Value::str);
                    let keys = names.map(|name| Key::of(Some(name), folds, None));
                    keys.collect::<Result<Vec<_>>>()?
                }
                other => vec![Key::of(other, folds, None)?],
            };
            let mut items = Vec::new();
            for item in value.items()? {
                let keys = keys.iter().map(|key| key.get(&item));
                let keys = keys.collect::<Result<Vec<_>>>()?;
                items.push((Value::list(keys), item));
            }
            let reverse = reverse.is_some_and(|value| value.is_true());
            sorted(items, reverse, fuel).map(Value::list)
        }
        "string" => {
            let [] = given.bind(name, [])?;
            match value {
                Value::Markup(_) => Ok(value.clone()),
                _ => str_of(value).map(Value::str),
            }
        }
        "sum" => {
            let [attribute, start] = given.bind(name, ["attribute", "start"])?;
            let key = Key::of(attribute, false, None)?;
            let mut sum = start.unwrap_or(Value::Int(0));
            if sum.as_str().is_some() {
                return wrong(name, &sum);
            }
            let is_of_floats = |value: &Value| matches!(value, Value::Float(_));
            let mut floats = 0;
            for item in value.items()? {
                let item = key.get(&item)?;
                floats += usize::from(is_of_floats(&item) || is_of_floats(&sum));
                sum = binary(Operator::Add, &sum, &item, fuel)?;
            }
            // Since 3.12 Python corrects what adding several floats rounds.
            match floats {
                0..=2 => Ok(sum),
                _ => type_error("the sum of more than two floats is not supported"),
            }
        }
        "title" => {
            let [] = given.bind(name, [])?;
            of_text(value, title)
        }
        "tojson" => to_json(value, given, fuel),
        "trim" => {
            let [characters] = given.bind(name, ["chars"])?;
            of_text(value, |text| methods::strip(text, characters))
        }
        "truncate" => truncate(value, given),
        "unique" => {
            let [case_sensitive, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
            let folds = !case_sensitive.is_some_and(|value| value.is_true());
            let key = Key::of(attribute, folds, None)?;
            let mut seen: Vec<Value> = Vec::new();
            let mut items = Vec::new();
            for item in value.items()? {
                let of_item = key.get(&item)?;
                check_hashable(&of_item)?;
                fuel.spend(seen.len() + 1)?;
                if !seen.iter().any(|other| is_equal(other, &of_item)) {
                    seen.push(of_item);
                    items.push(item);
                }
            }
            Ok(Value::iterator(items))
        }
        "urlencode" => {
            let [] = given.bind(name, [])?;
            url_encode(value)
        }
        "wordcount" => {
            let [] = given.bind(name, [])?;
            static WORD: LazyLock<Regex> =
                LazyLock::new(|| Regex::new(r"\w+").expect("a pattern of this file"));
            let text = soft_text(value)?;
            if !text.is_ascii() {
                return type_error("wordcount of letters outside ASCII is not supported");
            }
            Ok(Value::Int(WORD.find_iter(&text).count() as i128))
        }
        _ => match names::refused_filter(name) {
            Some(reason) => type_error(format!("the filter '{name}': {reason}")),
            None => type_error(format!("there is no filter '{name}'")),
        },
    }
}

fn wrong<T>(name: &str, value: &Value) -> Result<T> {
    type_error(format!("the filter '{name}' of a {}", value.type_name()))
}

/// `soft_str(value)` where it is no markup.
fn soft_text(value: &Value) -> Result<String> {
    match value {
        Value::Markup(_) => {
            type_error("a filter that changes markup (after 'safe' or 'escape'); not supported")
        }
        _ => str_of(value),
    }
}

fn of_text(value: &Value, change: impl FnOnce(&str) -> Result<String>) -> Result<Value> {
    change(&soft_text(value)?).map(Value::str)
}

/// `getattr` of Python, without items.
fn attr_filter(value: &Value, name: &str) -> Result<Value> {
    if let Value::Undefined(_) = value {
        return attribute(value, name);
    }
    let without_items = match value {
        Value::Dict(_) if methods::of_type(value, name).is_none() => {
            return Ok(Value::missing(format!("a dict has no attribute '{name}'")));
        }
        _ => value,
    };
    attribute(without_items, name)
}

/// What a value is sorted, grouped or chosen by: a path of attributes and items.
struct Key {
    path: Vec<Value>,
    folds_case: bool,
    absent: Option<Value>,
}

impl Key {
    fn of(attribute: Option<Value>, folds_case: bool, absent: Option<Value>) -> Result<Self> {
        let path = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(path)) => {
                let part = |part: &str| match part.parse::<u32>() {
                    Ok(at) if part.chars().all(|c| c.is_ascii_digit()) => Value::Int(at.into()),
                    _ => Value::str(part),
                };
                path.split('.').map(part).collect()
            }
            Some(other) => vec![Value::Int(integer("an attribute", &other)?)],
        };
        Ok(Self {
            path,
            folds_case,
            absent,
        })
    }

    fn get(&self, of: &Value) -> Result<Value> {
        let mut value = of.clone();
        for part in &self.path {
            value = item(&value, part)?;
            if value.is_undefined()
                && let Some(absent) = &self.absent
            {
                value = absent.clone();
            }
        }
        Ok(match &value {
            Value::Str(text) if self.folds_case => Value::str(lower(text)),
            _ => value,
        })
    }
}

/// A stable sort by keys, as Python's: with `reverse`, equal ones keep their order.
fn sorted(items: Vec<(Value, Value)>, reverse: bool, fuel: &Fuel) -> Result<Vec<Value>> {
    let mut failed = None;
    let mut less = |a: &Value, b: &Value| {
        let less = fuel.spend(1).and_then(|()| is_less(a, b));
        less.unwrap_or_else(|error| {
            failed.get_or_insert(error);
            false
        })
    };
    let mut order = |a: &Value, b: &Value| {
        if less(a, b) {
            std::cmp::Ordering::Less
        } else if less(b, a) {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    };
    let has_nan = |value: &Value| matches!(value, Value::Float(float) if float.is_nan());
    let of_nan = items.iter().any(|(key, _)| match key {
        Value::List(keys) => keys.iter().any(has_nan),
        key => has_nan(key),
    });
    if of_nan {
        return type_error("a sort of what is no number (nan)");
    }
    let mut items = items;
    items.sort_by(|(a, _), (b, _)| match reverse {
        false => order(a, b),
        true => order(b, a),
    });
    match failed {
        None => Ok(items.into_iter().map(|(_, item)| item).collect()),
        Some(error) => Err(error),
    }
}

fn dict_sort(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
    let [case_sensitive, by, reverse] =
        given.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = value else {
        return wrong("dictsort", value);
    };
    let at = match by {
        None => 0,
        Some(by) => match by.as_str() {
            Some("key") => 0,
            Some("value") => 1,
            _ => return type_error("the filter 'dictsort' sorts by 'key' or by 'value'"),
        },
    };
    let folds = !case_sensitive.is_some_and(|value| value.is_true());
    let key = Key::of(Some(Value::Int(at)), folds, None)?;
    let items = Value::View(View::Items, dict.clone()).items()?;
    let items = items.into_iter().map(|item| Ok((key.get(&item)?, item)));
    let items = items.collect::<Result<Vec<_>>>()?;
    let reverse = reverse.is_some_and(|value| value.is_true());
    sorted(items, reverse, fuel).map(Value::list)
}

fn extreme(value: &Value, key: &Key, is_largest: bool, fuel: &Fuel) -> Result<Value> {
    let mut best: Option<(Value, Value)> = None;
    for item in value.items()? {
        fuel.spend(1)?;
        let of_item = key.get(&item)?;
        let is_better = match &best {
            None => true,
            Some((of_best, _)) if is_largest => is_less(of_best, &of_item)?,
            Some((of_best, _)) => is_less(&of_item, of_best)?,
        };
        if is_better {
            best = Some((of_item, item));
        }
    }
    Ok(match best {
        Some((_, item)) => item,
        None => Value::missing("there is no item to choose from"),
    })
}

/// What `reversed` takes.
fn reversible(name: &str, value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Iterator(_) | Value::Object(_) => wrong(name, value),
        _ => value.items(),
    }
}

fn batch(value: &Value, size: i128, fill: Option<Value>, fuel: &Fuel) -> Result<Value> {
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let size = match usize::try_from(size) {
        Ok(size) if size > 0 => size,
        _ => return type_error(format!("the filter 'batch' by {size}; accepted: from 1")),
    };
    let items = value.items()?;
    let batches = items.chunks(size).map(|batch| {
        let mut batch = batch.to_vec();
        if let Some(fill) = &fill {
            fuel.repeat(1, size - batch.len())?;
            batch.resize(size, fill.clone());
        }
        Ok(Value::list(batch))
    });
    batches.collect::<Result<_>>().map(Value::iterator)
}

fn slices(value: &Value, count: i128, fill: Option<Value>, fuel: &Fuel) -> Result<Value> {
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let items = value.items()?;
    let count = match usize::try_from(count) {
        Ok(count) if count > 0 => count,
        _ => return type_error(format!("the filter 'slice' into {count}; accepted: from 1")),
    };
    fuel.repeat(1, count)?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut rest = &items[..];
    let slice = |at: usize| {
        let (slice, after) = rest.split_at(each + usize::from(at < longer));
        rest = after;
        let mut slice = slice.to_vec();
        if at >= longer {
            slice.extend(fill.clone());
        }
        Value::list(slice)
    };
    Ok(Value::iterator((0..count).map(slice).collect()))
}

fn file_size(value: &Value, is_binary: bool) -> Result<Value> {
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

fn digits_of(text: &str) -> Option<String> {
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
fn to_float(value: &Value) -> Result<Option<f64>> {
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
fn to_int(value: &Value, given: Given) -> Result<Value> {
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
fn integer_of(text: &str, base: i128) -> Result<Option<i128>> {
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

fn indent(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
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

/// What `map` does to each item.
fn map(value: &Value, mut given: Given, fuel: &Fuel) -> Result<Value> {
    if !value.is_true() {
        return Ok(Value::iterator(Vec::new()));
    }
    let items = value.items()?;
    let named = |given: &mut Given, name: &str| {
        let at = given.keywords.iter().position(|(key, _)| key == name)?;
        Some(given.keywords.remove(at).1)
    };
    let mut mapped = Vec::with_capacity(items.len());
    if given.positional.is_empty()
        && let Some(attribute) = named(&mut given, "attribute")
    {
        let absent = named(&mut given, "default").filter(|absent| !matches!(absent, Value::None));
        if let Some((name, _)) = given.keywords.first() {
            return type_error(format!("the filter 'map' has no argument '{name}'"));
        }
        let key = Key::of(Some(attribute), false, absent)?;
        for item in items {
            fuel.spend(1)?;
            mapped.push(key.get(&item)?);
        }
        return Ok(Value::iterator(mapped));
    }
    if given.positional.is_empty() {
        return type_error("the filter 'map' takes a filter's name or an attribute");
    }
    let name = given.positional.remove(0);
    let name = text("map", &name)?;
    for item in items {
        mapped.push(apply(name, &item, given.clone(), fuel)?);
    }
    Ok(Value::iterator(mapped))
}

fn select(filter: &str, value: &Value, mut given: Given, fuel: &Fuel) -> Result<Value> {
    if !value.is_true() {
        return Ok(Value::iterator(Vec::new()));
    }
    let of_attribute = filter.ends_with("attr");
    let rejects = filter.starts_with("reject");
    let mut take = |what: &str| match given.positional.is_empty() {
        true => type_error(format!("the filter '{filter}' lacks {what}")),
        false => Ok(given.positional.remove(0)),
    };
    let key = match of_attribute {
        true => Key::of(Some(take("an attribute")?), false, None)?,
        false => Key::of(None, false, None)?,
    };
    let test = take("a test").ok();
    let mut selected = Vec::new();
    for item in value.items()? {
        fuel.spend(1)?;
        let of_item = key.get(&item)?;
        let holds = match &test {
            Some(test) => checks::check(text(filter, test)?, &of_item, given.clone())?,
            None => of_item.is_true(),
        };
        if holds != rejects {
            selected.push(item);
        }
    }
    Ok(Value::iterator(selected))
}

fn round(value: &Value, given: Given) -> Result<Value> {
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

/// Words in title case, of which `-`, spaces and opening brackets are the beginnings.
fn title(this: &str) -> Result<String> {
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

fn truncate(value: &Value, given: Given) -> Result<Value> {
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

fn url_encode(value: &Value) -> Result<Value> {
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

fn url_quote(value: &Value, is_query: bool) -> Result<String> {
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

/// A group of `groupby`: a tuple with two named parts.
#[derive(Debug)]
struct GroupOf(Value, Value);

impl Object for GroupOf {
    fn type_name(&self) -> &'static str {
        "group"
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        match name {
            "grouper" => Some(self.0.clone()),
            "list" => Some(self.1.clone()),
            _ => None,
        }
    }

    fn text(&self) -> Option<String> {
        repr(&Value::tuple(vec![self.0.clone(), self.1.clone()])).ok()
    }

    fn items(&self) -> Option<Vec<Value>> {
        Some(vec![self.0.clone(), self.1.clone()])
    }

    fn length(&self) -> Option<usize> {
        Some(2)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn group_by(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
    let [attribute, absent, case_sensitive] =
        given.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = required("groupby", attribute)?;
    let folds = !case_sensitive.is_some_and(|value| value.is_true());
    let absent = absent.filter(|absent| !matches!(absent, Value::None));
    let key = Key::of(Some(attribute.clone()), folds, absent.clone())?;
    let shown = Key::of(Some(attribute), false, absent)?;
    let items = value
        .items()?
        .into_iter()
        .map(|item| Ok((key.get(&item)?, item)));
    let items = sorted(items.collect::<Result<_>>()?, false, fuel)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in items {
        let of_item = key.get(&item)?;
        match groups.last_mut() {
            Some((last, group)) if is_equal(last, &of_item) => group.push(item),
            _ => groups.push((of_item, vec![item])),
        }
    }
    let group = |(_, items): (Value, Vec<Value>)| {
        let name = shown.get(&items[0])?;
        Ok(Value::Object(Rc::new(GroupOf(name, Value::list(items)))))
    };
    groups
        .into_iter()
        .map(group)
        .collect::<Result<_>>()
        .map(Value::list)
}
