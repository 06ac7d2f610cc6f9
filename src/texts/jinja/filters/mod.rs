//! The filters, after `jinja2/filters.py` without autoescaping.

mod numbers;
mod sequences;
mod texts;

use regex::Regex;
use std::sync::LazyLock;

use super::arguments::{Given, integer, required, text};
use super::ast::Operator;
use super::checks;
use super::error::{Result, type_error};
use super::fuel::Fuel;
use super::json::to_json;
use super::lookup::{self, attribute};
use super::markup::{escape, escaped};
use super::methods;
use super::names;
use super::operators::binary;
use super::printf;
use super::text::{lower, str_of, upper};
use super::value::{Value, View, check_hashable, is_equal};
use numbers::{file_size, round, to_float, to_int};
use sequences::{Key, batch, dict_sort, extreme, group_by, reversible, slices, sorted};
use texts::{indent, of_text, soft_text, title, truncate, url_encode, wrong};

/// Applies a filter.
///
/// # Errors
/// When the arguments do not fit it, or there is none of that name.
pub(super) fn apply(name: &str, value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
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

/// `getattr` of Python, without items.
fn attr_filter(value: &Value, name: &str) -> Result<Value> {
    if let Value::Undefined(_) = value {
        return attribute(value, name);
    }
    let without_items = match value {
        Value::Dict(_) if lookup::of_type(value, name).is_none() => {
            return Ok(Value::missing(format!("a dict has no attribute '{name}'")));
        }
        _ => value,
    };
    attribute(without_items, name)
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
