//! The values of a template: Python's, as far as templates meet them.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::rc::Rc;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::{Error, Result, type_error};

/// A value. All but namespaces, iterators and loops never change.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    /// Text that the filters `safe` and `escape` marked (`markupsafe.Markup`).
    Markup(Rc<str>),
    List(Rc<[Value]>),
    Tuple(Rc<[Value]>),
    Dict(Rc<Dict>),
    Range(Range),
    /// `keys()`, `values()` and `items()` of a dictionary.
    View(View, Rc<Dict>),
    /// An iterator, read once.
    Iterator(Rc<RefCell<VecDeque<Value>>>),
    /// A method of a value.
    Method(Rc<Value>, &'static str),
    /// A function of the environment.
    Function(&'static str),
    Object(Rc<dyn Object>),
}

/// A view of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

/// What an undefined value stands for.
#[derive(Debug)]
pub(crate) enum Missing {
    /// A variable.
    Name(String),
    /// An attribute or item of a value of this type.
    Attribute(&'static str, String),
    /// An attribute that the sandbox hides.
    Hidden(&'static str, String),
    /// Anything else, described.
    Other(String),
}

impl Missing {
    /// What using it says.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Name(name) => format!("'{name}' is undefined"),
            Self::Attribute(of, name) => format!("a {of} has no attribute or item '{name}'"),
            Self::Hidden(of, name) => format!(
                "the attribute '{name}' of a {of} is not accessible: transformers runs templates in \
                 a sandbox where nothing is changed"
            ),
            Self::Other(reason) => reason.clone(),
        }
    }
}

/// What only a few values can do.
pub(crate) trait Object: Debug {
    /// The name of its type.
    fn type_name(&self) -> &'static str;

    /// An attribute.
    fn attribute(&self, _name: &str) -> Option<Value> {
        None
    }

    /// How it is printed; none where that has an address in it.
    fn text(&self) -> Option<String> {
        None
    }

    /// Whether it can be called.
    fn is_callable(&self) -> bool {
        false
    }

    /// Whether it is of a type that can be iterated over.
    fn is_iterable(&self) -> bool {
        self.items().is_some()
    }

    /// What iterating over it gives, where that changes nothing.
    fn items(&self) -> Option<Vec<Value>> {
        None
    }

    /// How many it is of.
    fn length(&self) -> Option<usize> {
        None
    }

    /// The object itself.
    fn as_any(&self) -> &dyn Any;
}

/// `range(start, stop, step)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
}

impl Range {
    /// How many numbers it has.
    pub(crate) fn len(self) -> usize {
        let distance = match self.step > 0 {
            true => self.stop - self.start,
            false => self.start - self.stop,
        };
        let step = self.step.abs();
        usize::try_from((distance + step - 1) / step).unwrap_or(0)
    }

    /// A number of it.
    pub(crate) fn get(self, at: usize) -> Value {
        Value::Int(self.start + self.step * at as i128)
    }

    /// Whether a number is one of its.
    pub(crate) fn contains(self, number: i128) -> bool {
        let is_inside = match self.step > 0 {
            true => (self.start..self.stop).contains(&number),
            false => number <= self.start && number > self.stop,
        };
        is_inside && (number - self.start) % self.step == 0
    }
}

/// A dictionary, in order of insertion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dict {
    entries: Vec<(Value, Value)>,
}

impl Dict {
    /// The entries in order.
    pub(crate) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &Value) -> Option<&Value> {
        let found = self.entries.iter().find(|(other, _)| is_equal(other, key));
        found.map(|(_, value)| value)
    }

    /// The value of a text.
    pub(crate) fn get_str(&self, key: &str) -> Option<&Value> {
        let has_name = |other: &Value| other.as_str() == Some(key);
        let found = self.entries.iter().find(|(other, _)| has_name(other));
        found.map(|(_, value)| value)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the key is of a type that no key may be of.
    pub(crate) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        check_hashable(&key)?;
        match self
            .entries
            .iter_mut()
            .find(|(other, _)| is_equal(other, &key))
        {
            Some((_, place)) => *place = value,
            None => self.entries.push((key, value)),
        }
        Ok(())
    }
}

impl Value {
    /// A text.
    pub(crate) fn str(text: impl AsRef<str>) -> Self {
        Self::Str(text.as_ref().into())
    }

    /// A list.
    pub(crate) fn list(items: Vec<Value>) -> Self {
        Self::List(items.into())
    }

    /// A tuple.
    pub(crate) fn tuple(items: Vec<Value>) -> Self {
        Self::Tuple(items.into())
    }

    /// An iterator over these values.
    pub(crate) fn iterator(items: Vec<Value>) -> Self {
        Self::Iterator(Rc::new(RefCell::new(items.into())))
    }

    /// A dictionary of texts.
    pub(crate) fn dict<K: AsRef<str>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        let entries = entries.into_iter();
        let entries = entries
            .map(|(key, value)| (Value::str(key), value))
            .collect();
        Self::Dict(Rc::new(Dict { entries }))
    }

    /// The names and values of a dictionary whose keys are texts.
    pub(crate) fn into_fields(self) -> Option<Vec<(String, Value)>> {
        let Self::Dict(dict) = self else {
            return None;
        };
        let field = |(key, value): &(Value, Value)| Some((key.as_str()?.to_owned(), value.clone()));
        dict.entries().iter().map(field).collect()
    }

    /// An undefined value that stands for what is described.
    pub(crate) fn missing(reason: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Missing::Other(reason.into())))
    }

    /// The text of a value that is one.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The number of a value that is a whole one; Python's booleans are.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// Whether it is undefined.
    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The name of its type, as Python has it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined value",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Range(_) => "range",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Iterator(_) => "iterator",
            Self::Method(..) => "method",
            Self::Function(_) => "function",
            Self::Object(object) => object.type_name(),
        }
    }

    /// Whether it counts as true.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Iterator(_) | Self::Method(..) | Self::Function(_) => true,
            Self::Object(object) => object.length() != Some(0),
            _ => self.length().is_ok_and(|length| length > 0),
        }
    }

    /// `len(value)`.
    ///
    /// # Errors
    /// When it has no length.
    pub(crate) fn length(&self) -> Result<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) | Self::Markup(text) => text.chars().count(),
            Self::List(items) | Self::Tuple(items) => items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len(),
            Self::Range(range) => range.len(),
            Self::Object(object) if object.length().is_some() => {
                object.length().unwrap_or_default()
            }
            _ => return type_error(format!("a {} has no length", self.type_name())),
        })
    }

    /// Whether it can be iterated over.
    pub(crate) fn is_iterable(&self) -> bool {
        match self {
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) => false,
            Self::Method(..) | Self::Function(_) => false,
            Self::Object(object) => object.is_iterable(),
            _ => true,
        }
    }

    /// What iterating over it gives. Of an iterator nothing is left then.
    ///
    /// # Errors
    /// When it cannot be iterated over.
    pub(crate) fn items(&self) -> Result<Vec<Value>> {
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) | Self::Markup(text) => {
                text.chars().map(|c| Self::str(c.to_string())).collect()
            }
            Self::List(items) | Self::Tuple(items) => items.to_vec(),
            Self::Dict(dict) => view(View::Keys, dict),
            Self::View(kind, dict) => view(*kind, dict),
            Self::Range(range) => (0..range.len()).map(|at| range.get(at)).collect(),
            Self::Iterator(left) => left.borrow_mut().drain(..).collect(),
            Self::Object(object) if object.items().is_some() => object.items().unwrap_or_default(),
            _ => return type_error(format!("a {} cannot be iterated over", self.type_name())),
        })
    }

    /// The next of its values: of an iterator that is taken from it.
    ///
    /// # Errors
    /// When it cannot be iterated over.
    pub(crate) fn first(&self) -> Result<Option<Value>> {
        match self {
            Self::Iterator(left) => Ok(left.borrow_mut().pop_front()),
            Self::List(items) | Self::Tuple(items) => Ok(items.first().cloned()),
            _ => Ok(self.items()?.into_iter().next()),
        }
    }
}

fn view(kind: View, dict: &Dict) -> Vec<Value> {
    let entries = dict.entries().iter();
    let one = |(key, value): &(Value, Value)| match kind {
        View::Keys => key.clone(),
        View::Values => value.clone(),
        View::Items => Value::tuple(vec![key.clone(), value.clone()]),
    };
    entries.map(one).collect()
}

/// Refuses what Python cannot hash.
///
/// # Errors
/// When it is a list, a dictionary, or has one in it.
pub(super) fn check_hashable(value: &Value) -> Result<()> {
    match value {
        Value::List(_) | Value::Dict(_) | Value::View(View::Keys | View::Items, _) => {
            type_error(format!("a {} as a key", value.type_name()))
        }
        Value::Tuple(items) => items.iter().try_for_each(check_hashable),
        _ => Ok(()),
    }
}

/// `a == b`.
pub(super) fn is_equal(a: &Value, b: &Value) -> bool {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return a == b;
    }
    match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| is_equal(a, b))
        }
        (Value::Dict(a), Value::Dict(b)) => {
            let has = |(key, value): &(Value, Value)| {
                b.get(key).is_some_and(|other| is_equal(value, other))
            };
            a.len() == b.len() && a.entries().iter().all(has)
        }
        (Value::Range(a), Value::Range(b)) => {
            let length = a.len();
            length == b.len()
                && (length == 0 || (a.start == b.start && (length == 1 || a.step == b.step)))
        }
        (Value::View(a_kind, a), Value::View(b_kind, b)) => {
            let (a, b) = (view(*a_kind, a), view(*b_kind, b));
            let are_sets = *a_kind != View::Values && *b_kind != View::Values;
            let is_in = |value: &Value| b.iter().any(|other| is_equal(value, other));
            are_sets && a.len() == b.len() && a.iter().all(is_in)
        }
        (Value::Iterator(a), Value::Iterator(b)) => Rc::ptr_eq(a, b),
        (Value::Object(a), Value::Object(b)) => std::ptr::addr_eq(Rc::as_ptr(a), Rc::as_ptr(b)),
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Method(a, a_name), Value::Method(b, b_name)) => a_name == b_name && is_equal(a, b),
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            (Some(int), None) => matches!(b, Value::Float(float) if is_exactly(int, *float)),
            (None, Some(int)) => matches!(a, Value::Float(float) if is_exactly(int, *float)),
            (None, None) => match (a, b) {
                (Value::Float(a), Value::Float(b)) => a == b,
                _ => false,
            },
        },
    }
}

/// Whether a float is this whole number, without rounding it.
fn is_exactly(int: i128, float: f64) -> bool {
    float.fract() == 0.0 && float.abs() < 1e38 && float as i128 == int
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(JsonValue)
    }
}

/// Reads JSON, with the keys of objects in their order.
struct JsonValue;

impl<'de> Visitor<'de> for JsonValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::str(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::list(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<Value, A::Error> {
        let mut dict = Dict::default();
        while let Some((key, value)) = from.next_entry::<String, Value>()? {
            let inserted = dict.insert(Value::str(key), value);
            inserted.map_err(|error: Error| serde::de::Error::custom(error.reason))?;
        }
        Ok(Value::Dict(Rc::new(dict)))
    }
}

/// Refuses an undefined value as an operand.
///
/// # Errors
/// When it is one.
pub(super) fn defined(value: &Value) -> Result<()> {
    match value {
        Value::Undefined(missing) => Err(Error::new(missing.reason())),
        _ => Ok(()),
    }
}
