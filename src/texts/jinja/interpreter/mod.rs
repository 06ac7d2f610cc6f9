//! Runs a template's syntax tree.

mod closure;
mod loop_state;
mod scope;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Given;
use super::ast::{
    Arguments, Comparison, Const, Expr, ExprKind, For, Macro, Statement, StatementKind, Target,
};
use super::error::{Error, Result, type_error};
use super::fuel::Fuel;
use super::globals::{self, Cycler, Joiner, Namespace};
use super::text::str_of;
use super::value::{Dict, Missing, Object, Value};
use super::{checks, filters, lookup, methods, operators};
use closure::Closure;
use loop_state::Loop;
use scope::Scope;

/// How deep macros and recursive loops may call one another.
const MOST_CALLS: usize = 200;

/// Steps that a new list, tuple or dictionary takes besides its items, for the memory that it keeps.
const OF_LIST: usize = 8;

/// Renders statements with the variables of a context.
///
/// # Errors
/// What the template raises, or does not succeed in, with its line.
pub(super) fn render(statements: &[Statement], variables: Vec<(String, Value)>) -> Result<String> {
    let interpreter = Interpreter {
        fuel: Fuel::full(),
        calls: Cell::new(0),
    };
    let scope = Scope::root(variables).inner();
    let mut text = String::new();
    interpreter.statements(statements, &scope, &mut text)?;
    Ok(text)
}

/// What comes after a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Interpreter {
    fuel: Fuel,
    calls: Cell<usize>,
}

impl Interpreter {
    fn statements(&self, statements: &[Statement], scope: &Scope, to: &mut String) -> Result<Flow> {
        for statement in statements {
            let flow = self.statement(&statement.kind, scope, to);
            match flow.map_err(|error| error.or_at(statement.line))? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, kind: &StatementKind, scope: &Scope, to: &mut String) -> Result<Flow> {
        self.fuel.spend(1)?;
        match kind {
            StatementKind::Text(text) => self.write(text, to)?,
            StatementKind::Print(expression) => {
                let value = self.value(expression, scope)?;
                match value.as_str() {
                    Some(text) => self.write(text, to)?,
                    None => self.write(&str_of(&value)?, to)?,
                }
            }
            StatementKind::If {
                test,
                then,
                otherwise,
            } => {
                let branch = match self.value(test, scope)?.is_true() {
                    true => then,
                    false => otherwise,
                };
                return self.statements(branch, scope, to);
            }
            StatementKind::For(of) => {
                let values = self.value(&of.values, scope)?;
                return self.run_loop(of, values, 0, scope, to);
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
            StatementKind::Set(target, expression) => {
                let value = self.value(expression, scope)?;
                self.assign(target, value, scope)?;
            }
            StatementKind::SetBlock {
                target,
                filter,
                body,
            } => {
                let mut text = String::new();
                let flow = self.statements(body, &scope.inner(), &mut text)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.filtered(filter.as_ref(), text, scope)?;
                self.assign(target, value, scope)?;
            }
            StatementKind::With { names, body } => {
                let inner = scope.inner();
                for (target, expression) in names {
                    self.assign(target, self.value(expression, scope)?, &inner)?;
                }
                return self.statements(body, &inner, to);
            }
            StatementKind::Macro(definition) => {
                let name = definition.name.clone().unwrap_or_default();
                scope.set(&name, self.closure(definition, scope));
            }
            StatementKind::CallBlock { call, caller } => {
                let caller = self.closure(caller, scope);
                let value = self.call(call, Some(caller), scope)?;
                self.write_text(&value, to)?;
            }
            StatementKind::FilterBlock { filter, body } => {
                let inner = scope.inner();
                let mut text = String::new();
                let flow = self.statements(body, &inner, &mut text)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.filtered(Some(filter), text, &inner)?;
                self.write_text(&value, to)?;
            }
            StatementKind::Generation(body) => {
                let inner = scope.inner();
                inner.set("caller", Value::missing("there is no caller"));
                self.statements(body, &inner, to)?;
            }
        }
        Ok(Flow::Next)
    }

    fn write(&self, text: &str, to: &mut String) -> Result<()> {
        self.fuel.write(text.len())?;
        to.push_str(text);
        Ok(())
    }

    /// What a block gives must be text.
    fn write_text(&self, value: &Value, to: &mut String) -> Result<()> {
        match value.as_str() {
            Some(text) => self.write(text, to),
            None => type_error(format!("a block that gives a {}", value.type_name())),
        }
    }

    fn filtered(&self, filter: Option<&Expr>, text: String, scope: &Scope) -> Result<Value> {
        match filter {
            Some(filter) => self.filter(filter, Some(Value::str(text)), scope),
            None => Ok(Value::str(text)),
        }
    }

    fn assign(&self, target: &Target, value: Value, scope: &Scope) -> Result<()> {
        match target {
            Target::Name(name) => {
                scope.set(name, value);
                Ok(())
            }
            Target::Tuple(targets) => {
                let values = value.items()?;
                if values.len() != targets.len() {
                    return type_error(format!(
                        "{} values for {} names",
                        values.len(),
                        targets.len()
                    ));
                }
                let mut pairs = targets.iter().zip(values);
                pairs.try_for_each(|(target, value)| self.assign(target, value, scope))
            }
            Target::Attribute(object, name) => match self.variable(object, scope) {
                Value::Object(object) if object.as_any().is::<Namespace>() => {
                    if let Some(namespace) = object.as_any().downcast_ref::<Namespace>() {
                        namespace.set(name, value)?;
                    }
                    Ok(())
                }
                other => type_error(format!(
                    "an assignment to an attribute of a {}; accepted: of a namespace",
                    other.type_name()
                )),
            },
        }
    }

    fn variable(&self, name: &str, scope: &Scope) -> Value {
        let found = scope.get(name).or_else(|| globals::function(name));
        found.unwrap_or_else(|| Value::Undefined(Rc::new(Missing::Name(name.to_owned()))))
    }

    // ------------------------------------------------------------ loops

    fn run_loop(
        &self,
        of: &Arc<For>,
        values: Value,
        depth: usize,
        scope: &Scope,
        to: &mut String,
    ) -> Result<Flow> {
        let mut items = values.items()?;
        if let Some(test) = &of.test {
            let mut kept = Vec::new();
            for item in items {
                let inner = scope.inner();
                let hidden = "the variable 'loop' in a loop's own condition is undefined";
                inner.set("loop", Value::missing(hidden));
                self.assign(&of.target, item.clone(), &inner)?;
                if self.value(test, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        // jinja2 renders `else` where no round came to its end, by `break` or `continue`, too.
        let mut is_finished = false;
        let state = Rc::new(Loop {
            items,
            at: Cell::new(0),
            depth,
            changed: RefCell::default(),
            of: of.is_recursive.then(|| (Arc::clone(of), scope.clone())),
        });
        for (at, item) in state.items.iter().enumerate() {
            self.fuel.spend(1)?;
            state.at.set(at);
            let inner = scope.inner();
            let shown: Rc<dyn Object> = Rc::clone(&state) as Rc<dyn Object>;
            inner.set("loop", Value::Object(shown));
            self.assign(&of.target, item.clone(), &inner)?;
            match self.statements(&of.body, &inner, to)? {
                Flow::Next => is_finished = true,
                Flow::Break => break,
                Flow::Continue => {}
            }
        }
        match is_finished {
            true => Ok(Flow::Next),
            false => self.statements(&of.otherwise, &scope.inner(), to),
        }
    }

    // ------------------------------------------------------------ macros

    fn closure(&self, definition: &Arc<Macro>, scope: &Scope) -> Value {
        Value::Object(Rc::new(Closure {
            definition: Arc::clone(definition),
            scope: scope.clone(),
        }))
    }

    /// Goes a call deeper.
    fn deeper<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.calls.get() >= MOST_CALLS {
            return type_error(format!("more than {MOST_CALLS} calls in one another"));
        }
        self.calls.set(self.calls.get() + 1);
        let result = work();
        self.calls.set(self.calls.get() - 1);
        result
    }

    fn call_closure(&self, closure: &Closure, mut given: Given) -> Result<Value> {
        let definition = &closure.definition;
        let name = definition.name.as_deref().unwrap_or("caller");
        let scope = closure.scope.inner();
        let parameters = &definition.parameters;
        let mut more = Vec::new();
        if given.positional.len() > parameters.len() {
            more = given.positional.split_off(parameters.len());
        }
        let mut bound: Vec<Option<Value>> = given.positional.into_iter().map(Some).collect();
        bound.resize(parameters.len(), None);
        let mut others = Vec::new();
        let mut caller = None;
        for (key, value) in given.keywords {
            let at = parameters
                .iter()
                .position(|(parameter, _)| *parameter == key);
            match at {
                Some(at) if bound[at].is_some() => {
                    return type_error(format!("the macro '{name}' got '{key}' twice"));
                }
                Some(at) => bound[at] = Some(value),
                None if key == "caller" && definition.takes.caller => caller = Some(value),
                None => others.push((key, value)),
            }
        }
        for ((parameter, default), value) in parameters.iter().zip(bound) {
            let value = match (value, default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.value(default, &scope)?,
                (None, None) => {
                    Value::missing(format!("the parameter '{parameter}' was not given"))
                }
            };
            scope.set(parameter, value);
        }
        if definition.takes.caller {
            let none = || Value::missing("there is no caller");
            scope.set("caller", caller.unwrap_or_else(none));
        }
        if definition.takes.kwargs {
            scope.set("kwargs", Value::dict(others));
        } else if let Some((key, _)) = others.first() {
            return type_error(format!("the macro '{name}' has no argument '{key}'"));
        }
        if definition.takes.varargs {
            scope.set("varargs", Value::tuple(more));
        } else if !more.is_empty() {
            return type_error(format!(
                "the macro '{name}' takes {} arguments and got {}",
                parameters.len(),
                parameters.len() + more.len()
            ));
        }
        self.deeper(|| {
            let mut text = String::new();
            self.statements(&definition.body, &scope, &mut text)?;
            Ok(Value::str(text))
        })
    }

    // ------------------------------------------------------------ expressions

    fn value(&self, expression: &Expr, scope: &Scope) -> Result<Value> {
        let value = self.unplaced_value(expression, scope);
        value.map_err(|error| error.or_at(expression.line))
    }

    fn values(&self, expressions: &[Expr], scope: &Scope) -> Result<Vec<Value>> {
        expressions
            .iter()
            .map(|one| self.value(one, scope))
            .collect()
    }

    fn unplaced_value(&self, expression: &Expr, scope: &Scope) -> Result<Value> {
        self.fuel.spend(1)?;
        let line = expression.line;
        Ok(match &expression.kind {
            ExprKind::Const(Const::None) => Value::None,
            ExprKind::Const(Const::Bool(value)) => Value::Bool(*value),
            ExprKind::Const(Const::Int(value)) => Value::Int(*value),
            ExprKind::Const(Const::Float(value)) => Value::Float(*value),
            ExprKind::Const(Const::Str(text)) => Value::str(text),
            ExprKind::Name(name) => self.variable(name, scope),
            ExprKind::List(items) => {
                self.fuel.spend(OF_LIST)?;
                Value::list(self.values(items, scope)?)
            }
            ExprKind::Tuple(items) => {
                self.fuel.spend(OF_LIST)?;
                Value::tuple(self.values(items, scope)?)
            }
            ExprKind::Dict(entries) => {
                self.fuel.spend(OF_LIST)?;
                let mut dict = Dict::default();
                for (key, value) in entries {
                    let (key, value) = (self.value(key, scope)?, self.value(value, scope)?);
                    dict.insert(key, value)?;
                }
                Value::Dict(Rc::new(dict))
            }
            ExprKind::Attribute(of, name) => lookup::attribute(&self.value(of, scope)?, name)?,
            ExprKind::Item(of, key) => {
                let of = self.value(of, scope)?;
                match &key.kind {
                    ExprKind::Slice(bounds) => {
                        let bound = |bound: &Option<Box<Expr>>| match bound {
                            Some(bound) => self.value(bound, scope),
                            None => Ok(Value::None),
                        };
                        let [start, stop, step] = bounds;
                        let bounds = [bound(start)?, bound(stop)?, bound(step)?];
                        lookup::slice(&of, bounds)?
                    }
                    _ => lookup::item(&of, &self.value(key, scope)?)?,
                }
            }
            ExprKind::Slice(_) => return type_error("a slice of nothing"),
            ExprKind::Call(..) => self.call(expression, None, scope)?,
            ExprKind::Filter(..) => self.filter(expression, None, scope)?,
            ExprKind::Test(of, name, arguments) => {
                let of = self.value(of, scope)?;
                let given = self.given(arguments, scope)?;
                let holds = checks::check(name, &of, given);
                Value::Bool(holds.map_err(|error| error.or_at(line))?)
            }
            ExprKind::Not(of) => Value::Bool(!self.value(of, scope)?.is_true()),
            ExprKind::Negative(of) => operators::signed(&self.value(of, scope)?, true)?,
            ExprKind::Positive(of) => operators::signed(&self.value(of, scope)?, false)?,
            ExprKind::Binary(operator, a, b) => {
                let (a, b) = (self.value(a, scope)?, self.value(b, scope)?);
                operators::binary(*operator, &a, &b, &self.fuel)?
            }
            ExprKind::Concat(items) => {
                let mut text = String::new();
                for item in items {
                    self.write(&str_of(&self.value(item, scope)?)?, &mut text)?;
                }
                Value::str(text)
            }
            ExprKind::And(a, b) => match self.value(a, scope)? {
                a if a.is_true() => self.value(b, scope)?,
                a => a,
            },
            ExprKind::Or(a, b) => match self.value(a, scope)? {
                a if a.is_true() => a,
                _ => self.value(b, scope)?,
            },
            ExprKind::Compare(first, others) => Value::Bool(self.compare(first, others, scope)?),
            ExprKind::Condition(test, value, other) => {
                match (self.value(test, scope)?.is_true(), other) {
                    (true, _) => self.value(value, scope)?,
                    (false, Some(other)) => self.value(other, scope)?,
                    (false, None) => Value::missing("a condition without 'else' does not hold"),
                }
            }
        })
    }

    fn compare(&self, first: &Expr, others: &[(Comparison, Expr)], scope: &Scope) -> Result<bool> {
        let mut left = self.value(first, scope)?;
        for (comparison, right) in others {
            let right = self.value(right, scope)?;
            if let (Some(text), Some(part)) = (right.as_str(), left.as_str()) {
                self.fuel.write(text.len().max(part.len()))?;
            }
            if !operators::compare(*comparison, &left, &right)? {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    fn given(&self, arguments: &Arguments, scope: &Scope) -> Result<Given> {
        let mut given = Given {
            positional: self.values(&arguments.positional, scope)?,
            keywords: Vec::new(),
        };
        for (name, value) in &arguments.keywords {
            given
                .keywords
                .push((name.clone(), self.value(value, scope)?));
        }
        if let Some(more) = &arguments.more_positional {
            given.positional.extend(self.value(more, scope)?.items()?);
        }
        if let Some(more) = &arguments.more_keywords {
            let Value::Dict(more) = self.value(more, scope)? else {
                return type_error("'**' of what is no dict");
            };
            for (name, value) in more.entries() {
                let Some(name) = name.as_str() else {
                    return type_error("'**' of a dict with keys that are no texts");
                };
                if given.keywords.iter().any(|(other, _)| other == name) {
                    return type_error(format!("the argument '{name}' is given twice"));
                }
                given.keywords.push((name.to_owned(), value.clone()));
            }
        }
        Ok(given)
    }

    /// A filter, or several in a row; the first of a block's filters is of `block`.
    fn filter(&self, expression: &Expr, block: Option<Value>, scope: &Scope) -> Result<Value> {
        let ExprKind::Filter(of, name, arguments) = &expression.kind else {
            return self.value(expression, scope);
        };
        let value = match (of, block) {
            (Some(of), block) => self.filter(of, block, scope)?,
            (None, Some(block)) => block,
            (None, None) => return type_error("a filter of nothing"),
        };
        let given = self.given(arguments, scope)?;
        let filtered = filters::apply(name, &value, given, &self.fuel);
        filtered.map_err(|error| error.or_at(expression.line))
    }

    fn call(&self, call: &Expr, caller: Option<Value>, scope: &Scope) -> Result<Value> {
        let ExprKind::Call(of, arguments) = &call.kind else {
            return self.value(call, scope);
        };
        // A cycler and a loop have methods of their own.
        if let ExprKind::Attribute(object, name) = &of.kind {
            let object = self.value(object, scope)?;
            let given = self.given(arguments, scope)?;
            return self.call_method(&object, name, given, caller);
        }
        let of = self.value(of, scope)?;
        let given = self.given(arguments, scope)?;
        self.call_value(&of, given, caller)
    }

    fn call_method(
        &self,
        object: &Value,
        name: &str,
        given: Given,
        caller: Option<Value>,
    ) -> Result<Value> {
        if let Value::Object(of) = object
            && of.attribute(name).is_none()
        {
            if let Some(cycler) = of.as_any().downcast_ref::<Cycler>() {
                return cycler.call(name, given);
            }
            if let Some(state) = of.as_any().downcast_ref::<Loop>() {
                return state.call(name, given);
            }
        }
        let method = lookup::attribute(object, name)?;
        self.call_value(&method, given, caller)
    }

    fn call_value(&self, of: &Value, mut given: Given, caller: Option<Value>) -> Result<Value> {
        if let Some(caller) = caller {
            given.keywords.push(("caller".to_owned(), caller));
        }
        match of {
            Value::Undefined(missing) => Err(Error::new(missing.reason())),
            Value::Function(name) => globals::call(name, given),
            Value::Method(of, name) => methods::call(of, name, given, &self.fuel),
            Value::Object(object) => {
                let object = object.as_any();
                if let Some(closure) = object.downcast_ref::<Closure>() {
                    self.call_closure(closure, given)
                } else if let Some(joiner) = object.downcast_ref::<Joiner>() {
                    let [] = given.positional("a joiner")?;
                    Ok(joiner.next())
                } else if let Some(state) = object.downcast_ref::<Loop>() {
                    self.call_loop(state, given)
                } else {
                    type_error(format!("a {} cannot be called", of.type_name()))
                }
            }
            _ => type_error(format!("a {} cannot be called", of.type_name())),
        }
    }

    fn call_loop(&self, state: &Loop, given: Given) -> Result<Value> {
        let [Some(values)] = given.bind("loop", ["iterable"])? else {
            return type_error("loop takes what it goes on with");
        };
        let Some((of, scope)) = &state.of else {
            return type_error("a loop calls itself that is not said to be recursive");
        };
        self.deeper(|| {
            let mut text = String::new();
            self.run_loop(of, values, state.depth + 1, scope, &mut text)?;
            Ok(Value::str(text))
        })
    }
}
