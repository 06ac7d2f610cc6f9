//! The tests (`value is …`), after `jinja2/tests.py`.

use std::rc::Rc;

use super::arguments::{Given, required};
use super::ast::{Comparison, Operator};
use super::error::{Result, type_error};
use super::fuel::Fuel;
use super::methods::{is_lower, is_upper};
use super::names;
use super::operators::{binary, compare, contains};
use super::text::str_of;
use super::value::{Value, check_hashable, is_equal};

/// Whether a test holds.
///
/// # Errors
/// When the arguments do not fit it, or there is none of that name.
pub(super) fn check(name: &str, value: &Value, given: Given) -> Result<bool> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessOrEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterOrEqual),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let [other] = given.positional(name)?;
        return compare(comparison, value, &required(name, other)?);
    }
    match name {
        "divisibleby" => {
            let [by] = given.bind(name, ["num"])?;
            return is_remainder(value, &required(name, by)?, 0);
        }
        "in" => {
            let [whole] = given.bind(name, ["seq"])?;
            return contains(&required(name, whole)?, value);
        }
        "sameas" => {
            let [other] = given.bind(name, ["other"])?;
            return is_same(value, &required(name, other)?);
        }
        _ => {}
    }
    let [] = given.bind(name, [])?;
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => match value {
            // jinja2's undefined values have a method for it, which fails.
            Value::Undefined(_) | Value::Method(..) | Value::Function(_) => true,
            Value::Object(object) => object.is_callable(),
            _ => false,
        },
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "escaped" => matches!(value, Value::Markup(_)),
        "even" => is_remainder(value, &Value::Int(2), 0)?,
        "odd" => is_remainder(value, &Value::Int(2), 1)?,
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "filter" => names_one(value, |name| {
            names::is_filter(name) || names::refused_filter(name).is_some()
        })?,
        "test" => names_one(value, names::is_test)?,
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "iterable" => value.is_iterable(),
        "lower" => is_lower(&str_of(value)?),
        "upper" => is_upper(&str_of(value)?),
        "mapping" => matches!(value, Value::Dict(_)),
        "none" => matches!(value, Value::None),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "string" => value.as_str().is_some(),
        _ => return type_error(format!("there is no test '{name}'")),
    })
}

fn names_one(value: &Value, is_one: impl Fn(&str) -> bool) -> Result<bool> {
    check_hashable(value)?;
    Ok(value.as_str().is_some_and(is_one))
}

fn is_remainder(value: &Value, by: &Value, rest: i128) -> Result<bool> {
    let remainder = binary(Operator::Remainder, value, by, &Fuel::full())?;
    Ok(is_equal(&remainder, &Value::Int(rest)))
}

/// `value is other`, where that does not depend on how Python was built.
fn is_same(value: &Value, other: &Value) -> Result<bool> {
    Ok(match (value, other) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) if (-5..=256).contains(a) => a == b,
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Object(_), Value::Object(_)) => is_equal(value, other),
        _ if value.type_name() != other.type_name() => false,
        _ => {
            return type_error(format!(
                "the test 'sameas' of two values of type {}",
                value.type_name()
            ));
        }
    })
}
