//! Filters of lists and dictionaries.

use std::rc::Rc;

use super::texts::wrong;
use crate::texts::jinja::arguments::{Given, integer, required};
use crate::texts::jinja::error::{Result, type_error};
use crate::texts::jinja::fuel::Fuel;
use crate::texts::jinja::lookup::item;
use crate::texts::jinja::operators::is_less;
use crate::texts::jinja::text::{lower, repr};
use crate::texts::jinja::value::{Object, Value, View, is_equal};

/// What a value is sorted, grouped or chosen by: a path of attributes and items.
pub(super) struct Key {
    path: Vec<Value>,
    folds_case: bool,
    absent: Option<Value>,
}

impl Key {
    pub(super) fn of(
        attribute: Option<Value>,
        folds_case: bool,
        absent: Option<Value>,
    ) -> Result<Self> {
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

    pub(super) fn get(&self, of: &Value) -> Result<Value> {
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
pub(super) fn sorted(items: Vec<(Value, Value)>, reverse: bool, fuel: &Fuel) -> Result<Vec<Value>> {
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

pub(super) fn dict_sort(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
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

pub(super) fn extreme(value: &Value, key: &Key, is_largest: bool, fuel: &Fuel) -> Result<Value> {
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
pub(super) fn reversible(name: &str, value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Iterator(_) | Value::Object(_) => wrong(name, value),
        _ => value.items(),
    }
}

pub(super) fn batch(value: &Value, size: i128, fill: Option<Value>, fuel: &Fuel) -> Result<Value> {
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

pub(super) fn slices(
    value: &Value,
    count: i128,
    fill: Option<Value>,
    fuel: &Fuel,
) -> Result<Value> {
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

/// A group of `groupby`: a tuple with two named parts.
#[derive(Debug)]
pub(super) struct GroupOf(Value, Value);

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

pub(super) fn group_by(value: &Value, given: Given, fuel: &Fuel) -> Result<Value> {
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
