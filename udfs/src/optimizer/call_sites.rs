//! Finding scoring calls in expressions, and the conditions under which they are evaluated.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::utils::{conjunction, split_binary};
use datafusion::logical_expr::{Expr, Operator, ScalarUDF, lit};

use crate::calls::{
    call_needs, field_name, field_needs, is_own_field, is_scoring_function, reads_field,
};
use crate::scorer::Needs;

/// A call of a hidden function, whatever is needed of it.
///
/// One that takes no forward pass (token counts, edit distances) is another call than one of the
/// same texts that does, so that a condition on the first keeps rows from the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    function: Arc<ScalarUDF>,
    runs_model: bool,
    /// The rows that are scored; all of them if none.
    guard: Option<Expr>,
    texts: Vec<Expr>,
}

impl Call {
    /// The call that an expression is, and what is needed of it, if only a field is read.
    fn of(expr: &Expr, field: Option<&Expr>) -> Option<(Self, Needs)> {
        let function = scoring_call(expr)?;
        let mut needs = call_needs(&function.args)?;
        if let Some(of_field) = field.and_then(|f| field_needs(function.func.name(), f)) {
            needs &= of_field;
        }
        let [_, guard, texts @ ..] = &function.args[..] else {
            return None;
        };
        let guard = (*guard != lit(true)).then(|| guard.clone());
        let text = |text: &Expr| match &guard {
            Some(guard) => under_guard(text, guard).unwrap_or(text).clone(),
            None => text.clone(),
        };
        let call = Self {
            function: Arc::clone(&function.func),
            runs_model: needs.intersects(Needs::MODEL),
            texts: texts.iter().map(text).collect(),
            guard,
        };
        Some((call, needs))
    }

    pub(super) fn expr(&self, needs: Needs) -> Expr {
        self.by(&self.function, needs)
    }

    /// The call by another function of the same arguments.
    pub(super) fn by(&self, function: &Arc<ScalarUDF>, needs: Needs) -> Expr {
        let guard = self.guard.clone().unwrap_or_else(|| lit(true));
        let mut args = vec![lit(needs.to_string()), guard];
        // What is computed may fail where the guard does not hold.
        args.extend(self.texts.iter().map(|text| match &self.guard {
            Some(guard) if !matches!(text, Expr::Column(_) | Expr::Literal(..)) => {
                let when_then = vec![(Box::new(guard.clone()), Box::new(text.clone()))];
                Expr::Case(Case::new(None, when_then, None))
            }
            _ => text.clone(),
        }));
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args))
    }

    /// The same call for fewer rows: those where `guard` is true.
    pub(super) fn guarded(mut self, guard: Expr) -> Self {
        self.guard = match self.guard {
            Some(known) if known != guard => {
                Some(all(vec![Guard::when(guard), Guard::when(known)]))
            }
            _ => Some(guard),
        };
        self
    }

    /// Whether a row whose columns are all NULL has no scores, as an outer join makes them.
    pub(super) fn is_null_of_nulls(&self) -> bool {
        self.texts
            .iter()
            .any(|text| matches!(text, Expr::Column(_)))
    }

    /// The expressions that it reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = &Expr> {
        self.texts.iter().chain(&self.guard)
    }

    /// The same call, reading other expressions.
    pub(super) fn map(self, map: impl Fn(Expr) -> Result<Expr>) -> Result<Self> {
        Ok(Self {
            function: self.function,
            runs_model: self.runs_model,
            guard: self.guard.map(&map).transpose()?,
            texts: self.texts.into_iter().map(map).collect::<Result<_>>()?,
        })
    }

    /// Whether what this call gives can be had from `other`.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        (!self.runs_model || other.runs_model)
            && self.function == other.function
            && self.guard == other.guard
            && self.texts == other.texts
    }

    pub(super) fn runs_model(&self) -> bool {
        self.runs_model
    }

    pub(super) fn function_name(&self) -> &str {
        self.function.name()
    }
}

/// The text of `CASE WHEN guard THEN text END`.
fn under_guard<'a>(text: &'a Expr, guard: &Expr) -> Option<&'a Expr> {
    match text {
        Expr::Case(case) if case.expr.is_none() && case.else_expr.is_none() => {
            match &case.when_then_expr[..] {
                [(when, then)] if **when == *guard => Some(then),
                _ => None,
            }
        }
        _ => None,
    }
}

fn scoring_call(expr: &Expr) -> Option<&ScalarFunction> {
    match expr {
        Expr::ScalarFunction(function) if is_scoring_function(&function.func) => Some(function),
        _ => None,
    }
}

/// The name of the hidden function that an expression is a call of.
pub(super) fn hidden_function(expr: &Expr) -> Option<&str> {
    scoring_call(expr).map(|call| call.func.name())
}

/// The access of a field: of a field that a call has itself, also within a struct of its, from the call.
pub(super) fn field_of_call(mut access: ScalarFunction) -> ScalarFunction {
    let field = field_name(&access.args[1]);
    let Expr::ScalarFunction(whole) = &mut access.args[0] else {
        return access;
    };
    if !reads_field(whole) {
        return access;
    }
    let of_whole = field_name(&whole.args[1]);
    let is_own = hidden_function(&whole.args[0])
        .is_some_and(|function| is_own_field(function, &of_whole, &field));
    if is_own {
        let call = std::mem::take(&mut whole.args[0]);
        access.func = Arc::clone(&whole.func);
        access.args[0] = call;
    }
    access
}

/// The call that an expression is, if it is one.
pub(super) fn call_of(expr: &Expr) -> Option<Call> {
    Call::of(expr, None).map(|(call, _)| call)
}

/// Whether an expression holds a scoring call; subqueries are expressions of other plans.
pub(super) fn has_calls(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(scoring_call(expr).is_some()))
        .unwrap_or(true)
}

/// Whether an expression holds a call that takes a forward pass.
pub(super) fn runs_model(expr: &Expr) -> bool {
    let runs_model = |expr: &Expr| {
        let needs = scoring_call(expr).and_then(|call| call_needs(&call.args));
        needs.is_some_and(|needs| needs.intersects(Needs::MODEL))
    };
    expr.exists(|expr| Ok(runs_model(expr))).unwrap_or(true)
}

/// Whether a condition may be evaluated in a second place too.
fn can_be_repeated(condition: &Expr) -> bool {
    let holds_query = |expr: &Expr| {
        matches!(
            expr,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
                | Expr::OuterReferenceColumn(..)
        )
    };
    !condition.is_volatile()
        && !condition
            .exists(|expr| Ok(holds_query(expr)))
            .unwrap_or(true)
}

/// What is needed of one distinct call, and when.
#[derive(Debug)]
pub(super) struct Wanted {
    pub call: Call,
    pub needs: Needs,
    /// The rows that need it; all of them if none.
    pub guard: Option<Expr>,
}

/// The distinct calls in `exprs` that can be made now: those whose texts and guards hold no
/// other calls.
pub(super) fn wanted(exprs: &[Expr]) -> Vec<Wanted> {
    let mut found = Vec::new();
    for expr in exprs {
        visit(expr, &mut Vec::new(), &mut found);
    }
    let mut calls: Vec<(Call, Needs, Vec<Guards>)> = Vec::new();
    for Occurrence {
        call,
        needs,
        guards,
    } in found
    {
        // A call is not kept from itself.
        let guards = without(guards, |expr| holds(expr, &call));
        match calls.iter_mut().find(|(known, ..)| *known == call) {
            Some((_, known_needs, alternatives)) => {
                *known_needs |= needs;
                alternatives.push(guards);
            }
            None => calls.push((call, needs, vec![guards])),
        }
    }
    for (_, _, alternatives) in &mut calls {
        if alternatives.iter().any(Vec::is_empty) {
            *alternatives = vec![Vec::new()];
        }
    }
    let is_ready = |alternatives: &Vec<Guards>| {
        let mut guards = alternatives.iter().flatten();
        !guards.any(|guard| guard.conditions().any(has_calls))
    };
    if !calls.iter().any(|(_, _, guards)| is_ready(guards)) {
        // Calls that wait for each other: one of them waits no longer.
        if let Some((_, _, alternatives)) = calls.first_mut() {
            let given_up = std::mem::take(alternatives).into_iter();
            *alternatives = given_up.map(|guards| without(guards, has_calls)).collect();
        }
    }
    let ready = calls
        .into_iter()
        .filter(|(_, _, alternatives)| is_ready(alternatives))
        .map(|(call, needs, alternatives)| Wanted {
            call,
            needs,
            guard: any(alternatives),
        });
    // What a forward pass over the same rows gives too is no call of its own.
    let (mut merged, others): (Vec<_>, Vec<_>) = ready.partition(|wanted| wanted.call.runs_model);
    for wanted in others {
        let of_all = |other: &&mut Wanted| other.guard.is_none() && wanted.call.is_in(&other.call);
        match merged.iter_mut().find(of_all) {
            Some(other) => other.needs |= wanted.needs,
            None => merged.push(wanted),
        }
    }
    merged
}

/// A condition under which a part of an expression is evaluated: that none of `earlier` is true,
/// and `own` is.
#[derive(Debug, Clone, PartialEq)]
struct Guard {
    earlier: Vec<Expr>,
    own: Option<Expr>,
}

/// Conditions that all hold, the outermost first.
type Guards = Vec<Guard>;

impl Guard {
    fn when(own: Expr) -> Self {
        Self {
            earlier: Vec::new(),
            own: Some(own),
        }
    }

    fn conditions(&self) -> impl Iterator<Item = &Expr> {
        self.earlier.iter().chain(&self.own)
    }
}

/// Whether the first of the conditions that holds has `true`; none counts as `otherwise`.
///
/// Conditions after that one are not evaluated. DataFusion makes a `CASE` of truth values one of
/// `AND` and `OR`, which evaluate all; so this is one of numbers.
fn first_true(conditions: Vec<(Expr, bool)>, otherwise: bool) -> Expr {
    let number = |truth: bool| Box::new(lit(i64::from(truth)));
    let when_then = conditions
        .into_iter()
        .map(|(when, truth)| (Box::new(when), number(truth)));
    let case = Case::new(None, when_then.collect(), Some(number(otherwise)));
    Expr::Case(case).gt(lit(0_i64))
}

/// Wider guards: without the conditions that `is_in_the_way`.
fn without(guards: Guards, is_in_the_way: impl Fn(&Expr) -> bool) -> Guards {
    let guards = guards.into_iter().map(|guard| Guard {
        earlier: guard
            .earlier
            .into_iter()
            .filter(|when| !is_in_the_way(when))
            .collect(),
        own: guard.own.filter(|when| !is_in_the_way(when)),
    });
    let says_something = |guard: &Guard| guard.conditions().next().is_some();
    guards.filter(says_something).collect()
}

/// That all guards hold, as lazy as the expression that they come from: a condition may fail
/// where one before it decides.
fn all(guards: Guards) -> Expr {
    let mut conditions = Vec::new();
    let mut only = None;
    for guard in guards {
        only = match (conditions.is_empty(), guard.earlier.is_empty()) {
            (true, true) => guard.own.clone(),
            _ => None,
        };
        conditions.extend(guard.earlier.into_iter().map(|when| (when, false)));
        conditions.extend(guard.own.map(|own| (own.is_not_true(), false)));
    }
    only.unwrap_or_else(|| first_true(conditions, true))
}

/// That one of the alternatives holds; `None` where one always does.
fn any(alternatives: Vec<Guards>) -> Option<Expr> {
    let mut distinct: Vec<Expr> = Vec::with_capacity(alternatives.len());
    for guards in alternatives {
        if guards.is_empty() {
            return None;
        }
        let expr = all(guards);
        if !distinct.contains(&expr) {
            distinct.push(expr);
        }
    }
    match distinct.len() {
        0 => None,
        1 => distinct.pop(),
        _ => {
            let conditions = distinct.into_iter().map(|when| (when, true));
            Some(first_true(conditions.collect(), false))
        }
    }
}

/// Whether an expression is a call, or a field of one, that reads no other call.
fn is_call_now(expr: &Expr) -> bool {
    let call = match expr {
        Expr::ScalarFunction(access) if reads_field(access) => &access.args[0],
        other => other,
    };
    scoring_call(call).is_some_and(|call| !call.args.iter().any(has_calls))
}

/// The call that an expression is, or is a field of, and what is needed of it.
fn call_or_field(expr: &Expr) -> Option<(Call, Needs)> {
    match expr {
        Expr::ScalarFunction(access) if reads_field(access) => {
            Call::of(&access.args[0], Some(&access.args[1]))
        }
        other => Call::of(other, None),
    }
}

/// Whether `call` stands in an expression.
fn holds(expr: &Expr, call: &Call) -> bool {
    expr.exists(|expr| Ok(call_or_field(expr).is_some_and(|(found, _)| found == *call)))
        .unwrap_or(true)
}

struct Occurrence {
    call: Call,
    needs: Needs,
    guards: Guards,
}

/// Collects the innermost calls of an expression that is evaluated where all `guards` hold.
fn visit(expr: &Expr, guards: &mut Guards, found: &mut Vec<Occurrence>) {
    let mut guarded = |expr: &Expr, guard: Guard, found: &mut Vec<Occurrence>| {
        let before = guards.len();
        guards.extend(without(vec![guard], |when| !can_be_repeated(when)));
        visit(expr, guards, found);
        guards.truncate(before);
    };
    let always = || Guard {
        earlier: Vec::new(),
        own: None,
    };
    match expr {
        _ if !has_calls(expr) => {}
        Expr::Case(case) => {
            let condition = |when: &Expr| match &case.expr {
                Some(base) => base.as_ref().clone().eq(when.clone()),
                None => when.clone(),
            };
            if let Some(base) = &case.expr {
                guarded(base, always(), found);
            }
            let mut guard = always();
            for (when, then) in &case.when_then_expr {
                guarded(when, guard.clone(), found);
                let condition = condition(when);
                guard.own = Some(condition.clone());
                guarded(then, guard.clone(), found);
                guard.own = None;
                guard.earlier.push(condition);
            }
            if let Some(otherwise) = &case.else_expr {
                guarded(otherwise, guard, found);
            }
        }
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
            let operands = split_binary(expr, binary.op);
            let undecided = |operand: &&Expr| match binary.op {
                Operator::And => (*operand).clone().is_not_false(),
                _ => (*operand).clone().is_not_true(),
            };
            let cheap = operands.iter().filter(|operand| !has_calls(operand));
            let cheap = conjunction(cheap.map(undecided)).map_or_else(always, Guard::when);
            for operand in operands {
                guarded(operand, cheap.clone(), found);
            }
        }
        Expr::AggregateFunction(function) => {
            let params = &function.params;
            let filter = params.filter.as_deref();
            filter.inspect(|filter| guarded(filter, always(), found));
            let filter = filter.cloned().map_or_else(always, Guard::when);
            let sorts = params.order_by.iter().map(|sort| &sort.expr);
            for expr in params.args.iter().chain(sorts) {
                guarded(expr, filter.clone(), found);
            }
        }
        Expr::WindowFunction(function) => {
            let params = &function.params;
            let filter = params.filter.as_deref();
            let sorts = params.order_by.iter().map(|sort| &sort.expr);
            for expr in params.partition_by.iter().chain(sorts).chain(filter) {
                guarded(expr, always(), found);
            }
            let filter = filter.cloned().map_or_else(always, Guard::when);
            for expr in &params.args {
                guarded(expr, filter.clone(), found);
            }
        }
        _ if is_call_now(expr) => {
            if let Some((call, needs)) = call_or_field(expr) {
                found.push(Occurrence {
                    call,
                    needs,
                    guards: guards.clone(),
                });
            }
        }
        _ => {
            let children = expr.apply_children(|child| {
                guarded(child, always(), found);
                Ok(TreeNodeRecursion::Continue)
            });
            debug_assert!(children.is_ok());
        }
    }
}

/// What to put in the place of a call, of which so much is needed, and this field if one is read.
pub(super) type By<'a> = dyn FnMut(&Call, Needs, Option<&Expr>) -> Option<Expr> + 'a;

/// Puts what `by` gives in the place of each call, or of each field that is read of one; the
/// innermost first.
pub(super) fn replace(expr: Expr, by: &mut By) -> Result<Expr> {
    let replaced = expr.transform_down(|expr| {
        let Expr::ScalarFunction(mut function) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_access = reads_field(&function) && scoring_call(&function.args[0]).is_some();
        // A call whose field is read is not looked at on its own: its field needs less.
        let call = if is_access {
            match &mut function.args[0] {
                Expr::ScalarFunction(call) => call,
                _ => return Ok(Transformed::no(Expr::ScalarFunction(function))),
            }
        } else if is_scoring_function(&function.func) {
            &mut function
        } else {
            return Ok(Transformed::no(Expr::ScalarFunction(function)));
        };
        call.args = std::mem::take(&mut call.args)
            .into_iter()
            .map(|arg| replace(arg, by))
            .collect::<Result<_>>()?;
        let field = is_access.then(|| function.args[1].clone());
        let expr = Expr::ScalarFunction(function);
        let replaced =
            call_or_field(&expr).and_then(|(call, needs)| by(&call, needs, field.as_ref()));
        let expr = replaced.unwrap_or(expr);
        Ok(Transformed::new(expr, true, TreeNodeRecursion::Jump))
    })?;
    Ok(replaced.data)
}

/// Whether a call reads another one, in one expression.
pub(super) fn has_nested_calls(expr: &Expr) -> bool {
    let is_outer =
        |expr: &Expr| scoring_call(expr).is_some_and(|call| call.args.iter().any(has_calls));
    expr.exists(|expr| Ok(is_outer(expr))).unwrap_or(true)
}
