//! The variable `loop`.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::scope::Scope;
use crate::texts::jinja::arguments::Given;
use crate::texts::jinja::ast::For;
use crate::texts::jinja::error::{Result, type_error};
use crate::texts::jinja::value::{Object, Value, is_equal};

/// The variable `loop`.
pub(super) struct Loop {
    pub(super) items: Vec<Value>,
    pub(super) at: Cell<usize>,
    pub(super) depth: usize,
    /// What `changed` was last called with.
    pub(super) changed: RefCell<Option<Vec<Value>>>,
    /// What a recursive loop runs again.
    pub(super) of: Option<(Arc<For>, Scope)>,
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Loop {
    pub(super) fn call(&self, name: &str, given: Given) -> Result<Value> {
        if !given.keywords.is_empty() {
            return type_error(format!("loop.{name} takes no argument by name"));
        }
        match name {
            "cycle" => match given.positional.len() {
                0 => type_error("loop.cycle takes the values that it goes through"),
                count => Ok(given.positional[self.at.get() % count].clone()),
            },
            "changed" => {
                let before = self.changed.replace(Some(given.positional.clone()));
                let is_same = before.is_some_and(|before| {
                    is_equal(&Value::tuple(before), &Value::tuple(given.positional))
                });
                Ok(Value::Bool(!is_same))
            }
            _ => type_error(format!("a loop has no method '{name}'")),
        }
    }
}

impl Object for Loop {
    fn type_name(&self) -> &'static str {
        "loop"
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let at = self.at.get();
        let length = self.items.len();
        let count = |count: usize| Value::Int(count as i128);
        let neighbour = |at: Option<usize>, what: &str| {
            let found = at.and_then(|at| self.items.get(at)).cloned();
            found.unwrap_or_else(|| Value::missing(format!("there is no {what} item")))
        };
        Some(match name {
            "index" => count(at + 1),
            "index0" => count(at),
            "revindex" => count(length - at),
            "revindex0" => count(length - at - 1),
            "first" => Value::Bool(at == 0),
            "last" => Value::Bool(at + 1 == length),
            "length" => count(length),
            "depth" => count(self.depth + 1),
            "depth0" => count(self.depth),
            "previtem" => neighbour(at.checked_sub(1), "previous"),
            "nextitem" => neighbour(Some(at + 1), "next"),
            _ => return None,
        })
    }

    fn text(&self) -> Option<String> {
        Some(format!(
            "<LoopContext {}/{}>",
            self.at.get() + 1,
            self.items.len()
        ))
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn is_iterable(&self) -> bool {
        true
    }

    fn length(&self) -> Option<usize> {
        Some(self.items.len())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
