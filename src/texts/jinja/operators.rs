//! Python's operators.

use std::cmp::Ordering;

use super::ast::{Comparison, Operator};
use super::error::{Error, Result, type_error};
use super::fuel::Fuel;
use super::markup::escaped;
use super::printf;
use super::value::{Value, View, check_hashable, defined, is_equal};

fn unsupported<T>(sign: &str, a: &Value, b: &Value) -> Result<T> {
    type_error(format!(
        "'{sign}' of a {} and a {}",
        a.type_name(),
        b.type_name()
    ))
}

/// A number as a float; of large integers only those that are one.
///
/// # Errors
/// When it would be rounded.
fn float_of(value: &Value) -> Result<Option<f64>> {
    match value {
        Value::Float(value) => Ok(Some(*value)),
        _ => match value.as_int() {
            None => Ok(None),
            Some(int) if int.abs() <= 1 << 53 => Ok(Some(int as f64)),
            Some(int) => type_error(format!(
                "the integer {int} in an operation of floats; accepted: up to 2**53"
            )),
        },
    }
}

fn too_large<T>(result: Option<T>) -> Result<T> {
    result.ok_or_else(|| Error::new("an integer of more than 127 bits; not supported"))
}

/// An operator of two values.
///
/// # Errors
/// When Python has none for their types, and for numbers that are too large.
pub(super) fn binary(operator: Operator, a: &Value, b: &Value, fuel: &Fuel) -> Result<Value> {
    defined(a)?;
    if !matches!((operator, a), (Operator::Remainder, Value::Str(_))) {
        defined(b)?;
    }
    let sign = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
    };
    match operator {
        Operator::Add => match (a, b) {
            (Value::Str(a), Value::Str(b)) => {
                fuel.write(a.len() + b.len())?;
                return Ok(Value::str(format!("{a}{b}")));
            }
            (Value::Markup(_) | Value::Str(_), Value::Markup(_) | Value::Str(_)) => {
                let text = format!("{}{}", escaped(a)?, escaped(b)?);
                fuel.write(text.len())?;
                return Ok(Value::Markup(text.into()));
            }
            (Value::List(a), Value::List(b)) => {
                fuel.spend(a.len() + b.len())?;
                return Ok(Value::list([&a[..], &b[..]].concat()));
            }
            (Value::Tuple(a), Value::Tuple(b)) => {
                fuel.spend(a.len() + b.len())?;
                return Ok(Value::tuple([&a[..], &b[..]].concat()));
            }
            _ => {}
        },
        Operator::Multiply => {
            let counted = match (a.as_int(), b.as_int()) {
                (None, Some(times)) => Some((a, times)),
                (Some(times), None) => Some((b, times)),
                _ => None,
            };
            if let Some((of, times)) = counted {
                let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
                match of {
                    Value::Str(text) | Value::Markup(text) => {
                        fuel.repeat(text.len(), times)?;
                        let repeated = text.repeat(times);
                        return Ok(match of {
                            Value::Str(_) => Value::str(repeated),
                            _ => Value::Markup(repeated.into()),
                        });
                    }
                    Value::List(items) => {
                        fuel.repeat(items.len(), times)?;
                        return Ok(Value::list(repeated(items, times)));
                    }
                    Value::Tuple(items) => {
                        fuel.repeat(items.len(), times)?;
                        return Ok(Value::tuple(repeated(items, times)));
                    }
                    _ => {}
                }
            }
        }
        Operator::Remainder => match a {
            Value::Str(format) => return printf::percent(format, b, fuel).map(Value::str),
            Value::Markup(_) => {
                return type_error("'%' of markup (after 'safe' or 'escape'); not supported");
            }
            _ => {}
        },
        _ => {}
    }
    match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => integers(operator, a, b),
        _ => match (float_of(a)?, float_of(b)?) {
            (Some(a), Some(b)) => floats(operator, a, b).map(Value::Float),
            _ => unsupported(sign, a, b),
        },
    }
}

fn repeated(items: &[Value], times: usize) -> Vec<Value> {
    let all = std::iter::repeat_n(items, times).flatten();
    all.cloned().collect()
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Value> {
    if b == 0
        && matches!(
            operator,
            Operator::Divide | Operator::FloorDivide | Operator::Remainder
        )
    {
        return type_error("a division by zero");
    }
    Ok(Value::Int(match operator {
        Operator::Add => too_large(a.checked_add(b))?,
        Operator::Subtract => too_large(a.checked_sub(b))?,
        Operator::Multiply => too_large(a.checked_mul(b))?,
        Operator::FloorDivide => {
            let quotient = too_large(a.checked_div(b))?;
            quotient - i128::from(a % b != 0 && (a < 0) != (b < 0))
        }
        Operator::Remainder => {
            let rest = too_large(a.checked_rem(b))?;
            if rest != 0 && (rest < 0) != (b < 0) {
                rest + b
            } else {
                rest
            }
        }
        Operator::Power if b >= 0 => {
            let times = u32::try_from(b).ok();
            match a {
                0 | 1 => a.pow(u32::from(b != 0)),
                -1 if b % 2 == 0 => 1,
                -1 => -1,
                _ => too_large(times.and_then(|times| a.checked_pow(times)))?,
            }
        }
        Operator::Divide | Operator::Power => {
            let [a, b] = [Value::Int(a), Value::Int(b)].map(|value| float_of(&value));
            match (a?, b?) {
                (Some(a), Some(b)) => return floats(operator, a, b).map(Value::Float),
                _ => return type_error("a division of no numbers"),
            }
        }
    }))
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<f64> {
    if b == 0.0
        && matches!(
            operator,
            Operator::Divide | Operator::FloorDivide | Operator::Remainder
        )
    {
        return type_error("a division by zero");
    }
    // As `float_rem` and `float_floor_div` of CPython.
    let remainder = || {
        let rest = a % b;
        if rest == 0.0 {
            0.0f64.copysign(b)
        } else if (b < 0.0) != (rest < 0.0) {
            rest + b
        } else {
            rest
        }
    };
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::Remainder => remainder(),
        Operator::FloorDivide => {
            let quotient = (a - remainder()) / b;
            if quotient == 0.0 {
                0.0f64.copysign(a / b)
            } else {
                let floor = quotient.floor();
                if quotient - floor > 0.5 {
                    floor + 1.0
                } else {
                    floor
                }
            }
        }
        Operator::Power => {
            if a == 0.0 && b < 0.0 {
                return type_error("zero to a negative power");
            }
            if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
                return type_error("a root of a negative number");
            }
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return type_error("a power that is too large for a float");
            }
            power
        }
    })
}

/// `-value` and `+value`.
///
/// # Errors
/// When it is no number.
pub(super) fn signed(value: &Value, is_negative: bool) -> Result<Value> {
    defined(value)?;
    let sign = if is_negative { '-' } else { '+' };
    match (value, value.as_int()) {
        (_, Some(int)) if is_negative => too_large(int.checked_neg()).map(Value::Int),
        (_, Some(int)) => Ok(Value::Int(int)),
        (Value::Float(float), _) if is_negative => Ok(Value::Float(-float)),
        (Value::Float(float), _) => Ok(Value::Float(*float)),
        _ => type_error(format!("'{sign}' of a {}", value.type_name())),
    }
}

/// A comparison of two values.
///
/// # Errors
/// When Python does not compare values of their types.
pub(super) fn compare(comparison: Comparison, a: &Value, b: &Value) -> Result<bool> {
    Ok(match comparison {
        Comparison::Equal => is_equal(a, b),
        Comparison::NotEqual => !is_equal(a, b),
        Comparison::In => contains(b, a)?,
        Comparison::NotIn => !contains(b, a)?,
        Comparison::Less => order("<", a, b)? == Some(Ordering::Less),
        Comparison::LessOrEqual => {
            matches!(order("<=", a, b)?, Some(Ordering::Less | Ordering::Equal))
        }
        Comparison::Greater => order(">", a, b)? == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => {
            matches!(
                order(">=", a, b)?,
                Some(Ordering::Greater | Ordering::Equal)
            )
        }
    })
}

/// How two values are ordered; not at all where one is no number.
fn order(sign: &str, a: &Value, b: &Value) -> Result<Option<Ordering>> {
    defined(a)?;
    defined(b)?;
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    match (a, b) {
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            match x.iter().zip(y.iter()).find(|(x, y)| !is_equal(x, y)) {
                Some((x, y)) => order(sign, x, y),
                None => Ok(Some(x.len().cmp(&y.len()))),
            }
        }
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => Ok(Some(a.cmp(&b))),
            _ => match (float_of(a)?, float_of(b)?) {
                (Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
                _ => unsupported(sign, a, b),
            },
        },
    }
}

/// The order that `sorted` puts values in: by `<` alone.
///
/// # Errors
/// As [`compare`].
pub(super) fn is_less(a: &Value, b: &Value) -> Result<bool> {
    Ok(order("<", a, b)? == Some(Ordering::Less))
}

/// `part in whole`.
///
/// # Errors
/// When `whole` holds nothing, or cannot hold such a part.
pub(super) fn contains(whole: &Value, part: &Value) -> Result<bool> {
    match whole {
        Value::Str(text) | Value::Markup(text) => match part.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => type_error(format!(
                "'in' of a {} in a str; accepted: a str",
                part.type_name()
            )),
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => {
            check_hashable(part)?;
            Ok(dict.get(part).is_some())
        }
        Value::Range(range) => Ok(match part.as_int() {
            Some(number) => range.contains(number),
            None => whole.items()?.iter().any(|item| is_equal(item, part)),
        }),
        Value::Iterator(left) => {
            // What is passed by is gone.
            while let Some(item) = { left.borrow_mut().pop_front() } {
                if is_equal(&item, part) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ if whole.is_iterable() => Ok(whole.items()?.iter().any(|item| is_equal(item, part))),
        _ => type_error(format!("'in' of a {}", whole.type_name())),
    }
}
