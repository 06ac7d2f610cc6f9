//! The variables that a statement sees.

use std::cell::RefCell;
use std::rc::Rc;

use crate::texts::jinja::value::Value;

/// Variables, and the scope around them.
#[derive(Clone)]
pub(super) struct Scope(Rc<ScopeParts>);

struct ScopeParts {
    variables: RefCell<Vec<(String, Value)>>,
    outer: Option<Scope>,
}

impl Scope {
    pub(super) fn root(variables: Vec<(String, Value)>) -> Self {
        Self(Rc::new(ScopeParts {
            variables: RefCell::new(variables),
            outer: None,
        }))
    }

    pub(super) fn inner(&self) -> Self {
        Self(Rc::new(ScopeParts {
            variables: RefCell::default(),
            outer: Some(self.clone()),
        }))
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            let variables = scope.0.variables.borrow();
            if let Some((_, value)) = variables.iter().find(|(variable, _)| variable == name) {
                return Some(value.clone());
            }
            scope = scope.0.outer.as_ref()?;
        }
    }

    pub(super) fn set(&self, name: &str, value: Value) {
        let mut variables = self.0.variables.borrow_mut();
        match variables.iter_mut().find(|(variable, _)| variable == name) {
            Some((_, place)) => *place = value,
            None => variables.push((name.to_owned(), value)),
        }
    }
}
