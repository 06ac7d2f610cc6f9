//! The functions that templates find without a definition: jinja2's and transformers'.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;

use chrono::NaiveDate;

use super::arguments::{Given, integer, required, text};
use super::error::{Error, Result, type_error};
use super::text::{repr, str_of};
use super::value::{Dict, Object, Range, Value};

/// What `strftime_now` takes for now, so that scores do not depend on the day: midnight of
/// 2024-07-26, the date that the templates of Llama 3.1 fall back to.
const NOW: (i32, u32, u32) = (2024, 7, 26);

/// The letters of `strftime` that are the same everywhere, in C's locale.
const DATE_PARTS: &str = "aAbBdeHIjmMpSyYFTDR%";

/// The longest `range` that the sandbox makes.
const MOST_NUMBERS: usize = 100_000;

/// The names of the functions.
const FUNCTIONS: [&str; 7] = [
    "cycler",
    "dict",
    "joiner",
    "namespace",
    "raise_exception",
    "range",
    "strftime_now",
];

/// A function by its name.
pub(super) fn function(name: &str) -> Option<Value> {
    let found = FUNCTIONS.iter().find(|known| **known == name);
    found.map(|name| Value::Function(name))
}

/// Calls a function.
///
/// # Errors
/// When the arguments do not fit it; and what `raise_exception` says.
pub(super) fn call(name: &'static str, given: Given) -> Result<Value> {
    match name {
        "range" => range(given),
        "dict" => dict_of("dict", given).map(|dict| Value::Dict(Rc::new(dict))),
        "namespace" => {
            let dict = dict_of("namespace", given)?;
            let mut fields = Vec::new();
            for (key, value) in dict.entries() {
                fields.push((own_name(&str_of(key)?)?.to_owned(), value.clone()));
            }
            let fields = RefCell::new(fields);
            Ok(Value::Object(Rc::new(Namespace { fields })))
        }
        "cycler" => {
            if !given.keywords.is_empty() || given.positional.is_empty() {
                return type_error("cycler takes the values that it goes through");
            }
            Ok(Value::Object(Rc::new(Cycler {
                values: given.positional,
                at: Cell::new(0),
            })))
        }
        "joiner" => {
            let [between] = given.bind("joiner", ["sep"])?;
            Ok(Value::Object(Rc::new(Joiner {
                between: between.unwrap_or_else(|| Value::str(", ")),
                is_used: Cell::new(false),
            })))
        }
        "raise_exception" => {
            let [message] = given.bind("raise_exception", ["message"])?;
            Err(Error::new(str_of(&required("raise_exception", message)?)?))
        }
        _ => {
            let [format] = given.bind("strftime_now", ["format"])?;
            let format = required("strftime_now", format)?;
            strftime_now(text("strftime_now", &format)?).map(Value::str)
        }
    }
}

fn range(given: Given) -> Result<Value> {
    let count = given.positional.len();
    let bounds: [Option<Value>; 3] = given.positional("range")?;
    let bound = |value: &Option<Value>| match value {
        Some(value) => integer("range", value),
        None => Ok(1),
    };
    let [first, second, step] = [bound(&bounds[0])?, bound(&bounds[1])?, bound(&bounds[2])?];
    let range = match count {
        0 => return type_error("range lacks an argument"),
        1 => Range {
            start: 0,
            stop: first,
            step: 1,
        },
        _ => Range {
            start: first,
            stop: second,
            step,
        },
    };
    let is_far = |bound: i128| bound.unsigned_abs() > 1 << 64;
    if step == 0
        || [range.start, range.stop, range.step]
            .into_iter()
            .any(is_far)
    {
        return type_error("range by 0, or with bounds that are too large");
    }
    if range.len() > MOST_NUMBERS {
        return type_error(format!(
            "a range of {} numbers; accepted: up to {MOST_NUMBERS}",
            range.len()
        ));
    }
    Ok(Value::Range(range))
}

/// `dict(pairs, key=value)`.
fn dict_of(what: &str, given: Given) -> Result<Dict> {
    let mut dict = match given.positional.first() {
        None => Dict::default(),
        Some(Value::Dict(dict)) => (**dict).clone(),
        Some(Value::Undefined(missing)) => return Err(Error::new(missing.reason())),
        Some(pairs) => {
            let mut dict = Dict::default();
            for pair in pairs.items()? {
                match &pair.items()?[..] {
                    [key, value] => dict.insert(key.clone(), value.clone())?,
                    _ => return type_error(format!("{what} of what is no pair")),
                }
            }
            dict
        }
    };
    if given.positional.len() > 1 {
        return type_error(format!("{what} takes one argument, and others by name"));
    }
    for (name, value) in given.keywords {
        dict.insert(Value::str(name), value)?;
    }
    Ok(dict)
}

fn strftime_now(format: &str) -> Result<String> {
    let (year, month, day) = NOW;
    let refuse = || {
        Error::new(format!(
            "strftime_now does not know the format '{format}'; accepted: % with one of {DATE_PARTS}"
        ))
    };
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter == '%' && !letters.next().is_some_and(|part| DATE_PARTS.contains(part)) {
            return Err(refuse());
        }
    }
    let now = NaiveDate::from_ymd_opt(year, month, day).and_then(|day| day.and_hms_opt(0, 0, 0));
    let now = now.ok_or_else(refuse)?;
    let mut text = String::new();
    write!(text, "{}", now.format(format)).map_err(|_| refuse())?;
    Ok(text)
}

/// A name that the sandbox lets a template set.
fn own_name(name: &str) -> Result<&str> {
    match name.starts_with('_') {
        true => type_error(format!(
            "the attribute '{name}' of a namespace begins with '_'"
        )),
        false => Ok(name),
    }
}

/// What templates keep across scopes.
#[derive(Debug)]
pub(super) struct Namespace {
    fields: RefCell<Vec<(String, Value)>>,
}

impl Namespace {
    /// Sets a field.
    ///
    /// # Errors
    /// When the sandbox does not let templates set it.
    pub(super) fn set(&self, name: &str, value: Value) -> Result<()> {
        let name = own_name(name)?;
        let mut fields = self.fields.borrow_mut();
        match fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, place)) => *place = value,
            None => fields.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

impl Object for Namespace {
    fn type_name(&self) -> &'static str {
        "namespace"
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let fields = self.fields.borrow();
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.clone())
    }

    fn text(&self) -> Option<String> {
        let entries: Vec<_> = self.fields.borrow().clone();
        let dict = repr(&Value::dict(entries)).ok()?;
        Some(format!("<Namespace {dict}>"))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `cycler(values)`.
#[derive(Debug)]
pub(super) struct Cycler {
    values: Vec<Value>,
    at: Cell<usize>,
}

impl Object for Cycler {
    fn type_name(&self) -> &'static str {
        "cycler"
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        match name {
            "current" => Some(self.values[self.at.get()].clone()),
            "items" => Some(Value::tuple(self.values.clone())),
            "pos" => Some(Value::Int(self.at.get() as i128)),
            _ => None,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Cycler {
    /// A method of it, `next` or `reset`.
    ///
    /// # Errors
    /// When there is none of that name, or arguments are given.
    pub(super) fn call(&self, name: &str, given: Given) -> Result<Value> {
        let [] = given.positional(name)?;
        let at = self.at.get();
        match name {
            "next" => {
                self.at.set((at + 1) % self.values.len());
                Ok(self.values[at].clone())
            }
            "reset" => {
                self.at.set(0);
                Ok(Value::None)
            }
            _ => type_error(format!("a cycler has no method '{name}'")),
        }
    }
}

/// `joiner(between)`: empty the first time it is called.
#[derive(Debug)]
pub(super) struct Joiner {
    between: Value,
    is_used: Cell<bool>,
}

impl Joiner {
    /// What comes before the next item.
    pub(super) fn next(&self) -> Value {
        match self.is_used.replace(true) {
            true => self.between.clone(),
            false => Value::str(""),
        }
    }
}

impl Object for Joiner {
    fn type_name(&self) -> &'static str {
        "joiner"
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
