//! Macros as values.

use std::any::Any;
use std::sync::Arc;

use super::scope::Scope;
use crate::texts::jinja::ast::Macro;
use crate::texts::jinja::value::{Object, Value};

/// A macro with the scope that it was defined in.
pub(super) struct Closure {
    pub(super) definition: Arc<Macro>,
    pub(super) scope: Scope,
}

impl std::fmt::Debug for Closure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closure")
            .field("name", &self.definition.name)
            .finish_non_exhaustive()
    }
}

impl Object for Closure {
    fn type_name(&self) -> &'static str {
        "macro"
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let definition = &self.definition;
        Some(match name {
            "name" => definition.name.as_deref().map_or(Value::None, Value::str),
            "arguments" => {
                let names = definition
                    .parameters
                    .iter()
                    .map(|(name, _)| Value::str(name));
                Value::tuple(names.collect())
            }
            "catch_kwargs" => Value::Bool(definition.takes.kwargs),
            "catch_varargs" => Value::Bool(definition.takes.varargs),
            "caller" => Value::Bool(definition.takes.caller),
            _ => return None,
        })
    }

    fn text(&self) -> Option<String> {
        Some(match &self.definition.name {
            Some(name) => format!("<Macro '{name}'>"),
            None => "<Macro anonymous>".into(),
        })
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
