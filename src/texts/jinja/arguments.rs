//! The arguments of a call, and how a function of Python binds them.

use super::error::{Result, type_error};
use super::value::Value;

/// Arguments as they are given.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub positional: Vec<Value>,
    pub keywords: Vec<(String, Value)>,
}

impl Given {
    /// The arguments of a function with these parameters, each if it is given.
    ///
    /// # Errors
    /// When there are too many, one is given twice, or has another name.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return type_error(format!(
                "{what} takes {N} arguments and got {}",
                self.positional.len()
            ));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.keywords {
            match names.iter().position(|known| *known == name) {
                Some(at) if bound[at].is_some() => {
                    return type_error(format!("{what} got its argument '{name}' twice"));
                }
                Some(at) => bound[at] = Some(value),
                None => {
                    return type_error(format!("{what} has no argument '{name}'"));
                }
            }
        }
        Ok(bound)
    }

    /// The same of a function that takes no argument by its name.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub(super) fn positional<const N: usize>(self, what: &str) -> Result<[Option<Value>; N]> {
        if let Some((name, _)) = self.keywords.first() {
            return type_error(format!("{what} takes no argument by name and got '{name}'"));
        }
        self.bind(what, [""; N])
    }
}

/// An argument that must be given.
///
/// # Errors
/// When it is not.
pub(super) fn required(what: &str, argument: Option<Value>) -> Result<Value> {
    match argument {
        Some(value) => Ok(value),
        None => type_error(format!("{what} lacks an argument")),
    }
}

/// A whole number.
///
/// # Errors
/// When it is another value.
pub(super) fn integer(what: &str, value: &Value) -> Result<i128> {
    match value.as_int() {
        Some(int) => Ok(int),
        None => type_error(format!(
            "{what} takes an integer and got a {}",
            value.type_name()
        )),
    }
}

/// A text.
///
/// # Errors
/// When it is another value.
pub(super) fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str> {
    match value {
        Value::Str(text) => Ok(text),
        _ => type_error(format!(
            "{what} takes a str and got a {}",
            value.type_name()
        )),
    }
}
