//! Finding scoring calls in expressions, and the conditions under which they are evaluated.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::{conjunction, disjunction, split_binary};
use datafusion::logical_expr::{Expr, Operator, ScalarUDF, lit};

use crate::functions::{call_needs, field_needs, is_scoring_function, reads_field};
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
        let call = Self {
            function: Arc::clone(&function.func),
            runs_model: needs.intersects(Needs::MODEL),
            guard: (*guard != lit(true)).then(|| guard.clone()),
            texts: texts.to_vec(),
        };
        Some((call, needs))
    }

    pub fn expr(&self, needs: Needs) -> Expr {
        self.by(&self.function, needs)
    }

    /// The call by another function of the same arguments.
    pub fn by(&self, function: &Arc<ScalarUDF>, needs: Needs) -> Expr {
        let guard = self.guard.clone().unwrap_or_else(|| lit(true));
        let mut args = vec![lit(needs.to_string()), guard];
        args.extend(self.texts.iter().cloned());
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args))
    }

    /// The same call for fewer rows: those where `guard` is true.
    pub fn guarded(mut self, guard: &Expr) -> Self {
        self.guard = match self.guard {
            Some(known) if known != *guard => Some(known.and(guard.clone())),
            _ => Some(guard.clone()),
        };
        self
    }

    /// The expressions that it reads.
    pub fn reads(&self) -> impl Iterator<Item = &Expr> {
        self.texts.iter().chain(&self.guard)
    }

    /// The same call, reading other expressions.
    pub fn map(self, map: impl Fn(Expr) -> Result<Expr>) -> Result<Self> {
        Ok(Self {
            function: self.function,
            runs_model: self.runs_model,
            guard: self.guard.map(&map).transpose()?,
            texts: self.texts.into_iter().map(map).collect::<Result<_>>()?,
        })
    }

    /// Whether what this call gives can be had from `other`.
    pub fn is_in(&self, other: &Self) -> bool {
        self == other
            || !self.runs_model
                && other.runs_model
                && self.function == other.function
                && self.guard == other.guard
                && self.texts == other.texts
    }

    pub fn runs_model(&self) -> bool {
        self.runs_model
    }

    pub fn function_name(&self) -> &str {
        self.function.name()
    }
}

fn scoring_call(expr: &Expr) -> Option<&ScalarFunction> {
    match expr {
        Expr::ScalarFunction(function) if is_scoring_function(&function.func) => Some(function),
        _ => None,
    }
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
/// calls themselves.
pub(super) fn wanted(exprs: &[Expr]) -> Vec<Wanted> {
    let mut found = Vec::new();
    for expr in exprs {
        visit(expr, &mut Vec::new(), &mut found);
    }
    let mut calls: Vec<(Call, Needs, Vec<Option<Expr>>)> = Vec::new();
    for Occurrence { call, needs, guard } in found {
        match calls.iter_mut().find(|(known, ..)| *known == call) {
            Some((_, known_needs, guards)) => {
                *known_needs |= needs;
                guards.push(guard);
            }
            None => calls.push((call, needs, vec![guard])),
        }
    }
    let is_ready = |guards: &[Option<Expr>]| !guards.iter().flatten().any(has_calls);
    let any_ready = calls.iter().any(|(_, _, guards)| is_ready(guards));
    let ready = calls
        .into_iter()
        .filter(|(_, _, guards)| !any_ready || is_ready(guards))
        .map(|(call, needs, guards)| {
            // Guards that wait for each other's calls are given up.
            let guards: Option<Vec<Expr>> = if any_ready {
                guards.into_iter().collect()
            } else {
                None
            };
            let guard = guards.map(distinct).and_then(disjunction);
            Wanted { call, needs, guard }
        });
    // What a forward pass over the same rows gives too is no call of its own.
    let (running, others): (Vec<_>, Vec<_>) = ready.partition(|wanted| wanted.call.runs_model);
    let mut merged: Vec<Wanted> = running;
    for wanted in others {
        let of_all = |other: &&mut Wanted| other.guard.is_none() && wanted.call.is_in(&other.call);
        match merged.iter_mut().find(of_all) {
            Some(other) => other.needs |= wanted.needs,
            None => merged.push(wanted),
        }
    }
    merged
}

fn distinct(exprs: Vec<Expr>) -> Vec<Expr> {
    let mut kept = Vec::with_capacity(exprs.len());
    for expr in exprs {
        if !kept.contains(&expr) {
            kept.push(expr);
        }
    }
    kept
}

/// Whether an expression is a call, or a field of one, that reads no other call.
fn is_call_now(expr: &Expr) -> bool {
    let call = match expr {
        Expr::ScalarFunction(access) if reads_field(access) => &access.args[0],
        other => other,
    };
    scoring_call(call).is_some_and(|call| !call.args.iter().any(has_calls))
}

struct Occurrence {
    call: Call,
    needs: Needs,
    guard: Option<Expr>,
}

/// Collects the innermost calls of an expression that is evaluated where all `guards` hold.
fn visit(expr: &Expr, guards: &mut Vec<Expr>, found: &mut Vec<Occurrence>) {
    let mut guarded = |expr: &Expr, more: Vec<Expr>, found: &mut Vec<Occurrence>| {
        let more = more.into_iter().filter(can_be_repeated);
        let before = guards.len();
        guards.extend(more);
        visit(expr, guards, found);
        guards.truncate(before);
    };
    match expr {
        _ if !has_calls(expr) => {}
        Expr::Case(case) => {
            let condition = |when: &Expr| match &case.expr {
                Some(base) => base.as_ref().clone().eq(when.clone()),
                None => when.clone(),
            };
            let mut earlier = Vec::new();
            if let Some(base) = &case.expr {
                guarded(base, Vec::new(), found);
            }
            for (when, then) in &case.when_then_expr {
                guarded(when, earlier.clone(), found);
                let condition = condition(when);
                let mut here = earlier.clone();
                here.push(condition.clone());
                guarded(then, here, found);
                earlier.push(condition.is_not_true());
            }
            if let Some(otherwise) = &case.else_expr {
                guarded(otherwise, earlier, found);
            }
        }
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
            let operands = split_binary(expr, binary.op);
            let undecided = |operand: &&&Expr| {
                let operand = (**operand).clone();
                match binary.op {
                    Operator::And => operand.is_not_false(),
                    _ => operand.is_not_true(),
                }
            };
            let cheap = operands.iter().filter(|operand| !has_calls(operand));
            let cheap: Vec<Expr> = cheap.map(|operand| undecided(&operand)).collect();
            for operand in operands {
                guarded(operand, cheap.clone(), found);
            }
        }
        Expr::AggregateFunction(function) => {
            let params = &function.params;
            let filter = params.filter.as_deref();
            if let Some(filter) = filter {
                guarded(filter, Vec::new(), found);
            }
            let sorts = params.order_by.iter().map(|sort| &sort.expr);
            for expr in params.args.iter().chain(sorts) {
                guarded(expr, filter.cloned().into_iter().collect(), found);
            }
        }
        Expr::ScalarFunction(function) if is_call_now(expr) => {
            let (call, field) = match reads_field(function) {
                true => (&function.args[0], Some(&function.args[1])),
                false => (expr, None),
            };
            if let Some((call, needs)) = Call::of(call, field) {
                found.push(Occurrence {
                    call,
                    needs,
                    guard: conjunction(guards.iter().cloned()),
                });
            }
        }
        _ => {
            let children = expr.apply_children(|child| {
                guarded(child, Vec::new(), found);
                Ok(TreeNodeRecursion::Continue)
            });
            debug_assert!(children.is_ok());
        }
    }
}

/// Puts what `replace` gives in the place of each call, or of each field that is read of one.
///
/// `replace` is given the call, what is needed of it, and the field if one is read.
pub(super) fn replace(
    expr: Expr,
    mut replace: impl FnMut(&Call, Needs, Option<&Expr>) -> Option<Expr>,
) -> Result<Expr> {
    // Fields first: the call within would otherwise be replaced before them.
    let replaced = expr.transform_up(|expr| {
        let by = match &expr {
            Expr::ScalarFunction(access) if reads_field(access) => {
                let field = Some(&access.args[1]);
                Call::of(&access.args[0], field)
                    .and_then(|(call, needs)| replace(&call, needs, field))
            }
            _ => None,
        };
        Ok(by.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })?;
    let replaced = replaced.data.transform_up(|expr| {
        let by = Call::of(&expr, None).and_then(|(call, needs)| replace(&call, needs, None));
        Ok(by.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })?;
    Ok(replaced.data)
}
