//! Making calls: each becomes a column of the plan, once, and is read from there.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::ScalarFunction;

use super::Lifter;
use super::expressions::named;
use super::names::CALL_PREFIX;
use super::state::{Held, Lifted};
use crate::calls::{BLOCKING_SUFFIX, field_name};
use crate::optimizer::call_sites::{Call, has_calls, replace, wanted};

impl Lifter<'_> {
    /// Makes the calls that `exprs` need, as columns of the plan, and reads these instead.
    ///
    /// Calls whose columns the plan has not are left.
    pub(super) fn make(&mut self, lifted: &mut Lifted, exprs: &mut Vec<Expr>) -> Result<()> {
        loop {
            self.read_held(lifted, exprs)?;
            let mut columns = Vec::new();
            // Within `exprs` a guarded call is what the call is: each with whether it is guarded.
            let mut made: Vec<(Call, bool, usize)> = Vec::new();
            for mut wanted in wanted(exprs) {
                if !wanted.call.reads().all(|expr| lifted.has_columns_of(expr)) {
                    continue;
                }
                wanted.guard.take_if(|guard| !lifted.has_columns_of(guard));
                let mut at = lifted.held.len();
                let call = match wanted.guard.clone() {
                    Some(guard) => wanted.call.clone().guarded(guard),
                    None => wanted.call.clone(),
                };
                let gives_all = |held: &Held| held.gives(&call, None);
                if let Some(known) = lifted.held.iter().position(gives_all) {
                    at = known;
                } else {
                    let number = self.needs.len();
                    let name = format!("{CALL_PREFIX}{}", self.first_number + number);
                    self.needs.push(wanted.needs);
                    columns.push(call.expr(wanted.needs).alias(&name));
                    lifted.held.push(Held {
                        call,
                        column: Column::new_unqualified(name),
                        read: Vec::new(),
                        number,
                        is_filled: false,
                    });
                }
                made.push((wanted.call, wanted.guard.is_some(), at));
            }
            if made.is_empty() {
                return Ok(());
            }
            lifted.project_some(columns)?;
            let at = |_: &[Held], call: &Call, _: Option<&Expr>| {
                let exact = made.iter().find(|(known, ..)| call == known);
                let is_within = |(known, is_guarded, _): &&(Call, bool, usize)| {
                    !is_guarded && call.is_in(known)
                };
                let within = || made.iter().find(is_within);
                exact.or_else(within).map(|(.., at)| *at)
            };
            self.read(lifted, exprs, at)?;
        }
    }

    /// Reads the results of the calls that were already made.
    pub(super) fn read_held(&mut self, lifted: &mut Lifted, exprs: &mut Vec<Expr>) -> Result<()> {
        self.read(lifted, exprs, |held, call, field| {
            held.iter().position(|held| held.gives(call, field))
        })
    }

    /// Replaces calls by columns of what `find` finds, and fields of them by columns of their
    /// own: to DataFusion a column is a better key of sorts and joins than a function of one.
    pub(super) fn read(
        &mut self,
        lifted: &mut Lifted,
        exprs: &mut Vec<Expr>,
        find: impl Fn(&[Held], &Call, Option<&Expr>) -> Option<usize>,
    ) -> Result<()> {
        if lifted.held.is_empty() {
            return Ok(());
        }
        let mut columns = Vec::new();
        for expr in exprs.iter().filter(|expr| has_calls(expr)) {
            replace(expr.clone(), &mut |call, needs, field| {
                let at = find(&lifted.held, call, field)?;
                let held = &mut lifted.held[at];
                self.needs[held.number] |= needs;
                if !held.read.iter().any(|(known, _)| known.as_ref() == field) {
                    let number = self.first_number + held.number;
                    let name = field.map_or_else(|| "all".into(), field_name);
                    let name = format!("{CALL_PREFIX}{number}_{name}");
                    let result = Expr::Column(held.column.clone());
                    let value = match field {
                        Some(field) => self.pick(result, field),
                        None => result,
                    };
                    columns.push(self.with_provenance(value).alias(&name));
                    held.read
                        .push((field.cloned(), Column::new_unqualified(name)));
                }
                None
            })?;
        }
        lifted.project_some(columns)?;
        *exprs = std::mem::take(exprs)
            .into_iter()
            .map(|expr| {
                replace(expr, &mut |call, _, field| {
                    let held = &lifted.held[find(&lifted.held, call, field)?];
                    let mut read = held.read.iter();
                    let found = read.find(|(known, _)| known.as_ref() == field);
                    found.map(|(_, column)| Expr::Column(column.clone()))
                })
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// A value without what its metadata would say.
    pub(super) fn bare_value(&self, value: Expr) -> Expr {
        self.saying(value, &[])
    }

    pub(super) fn with_provenance(&self, value: Expr) -> Expr {
        if self.provenance.is_empty() {
            return value;
        }
        self.saying(value, &self.provenance)
    }

    /// A value whose metadata says just this.
    pub(super) fn saying(&self, value: Expr, entries: &[Expr]) -> Expr {
        let mut args = vec![value];
        args.extend_from_slice(entries);
        let provenance = Arc::clone(&self.rule.provenance);
        Expr::ScalarFunction(ScalarFunction::new_udf(provenance, args))
    }

    pub(super) fn pick(&self, result: Expr, field: &Expr) -> Expr {
        let args = vec![result, field.clone()];
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.rule.pick), args))
    }

    pub(super) fn make_for_one(&mut self, lifted: &mut Lifted, expr: Expr) -> Result<Expr> {
        let mut exprs = vec![expr];
        self.make(lifted, &mut exprs)?;
        Ok(exprs.swap_remove(0))
    }

    /// Makes the calls that pending columns wait for.
    pub(super) fn make_pending(&mut self, lifted: &mut Lifted) -> Result<()> {
        let (columns, mut exprs): (Vec<_>, Vec<_>) =
            std::mem::take(&mut lifted.pending).into_iter().unzip();
        self.make(lifted, &mut exprs)?;
        lifted.pending = columns.into_iter().zip(exprs).collect();
        Ok(())
    }

    /// Computes every pending column. Those that only have another name in the plan stay so.
    pub(super) fn settle(&mut self, lifted: &mut Lifted) -> Result<()> {
        self.make_pending(lifted)?;
        let (renamed, computed): (Vec<_>, Vec<_>) = std::mem::take(&mut lifted.pending)
            .into_iter()
            .partition(|(_, expr)| matches!(expr, Expr::Column(_)));
        lifted.pending = renamed;
        let columns = computed
            .into_iter()
            .map(|(column, expr)| named(expr, &column));
        lifted.project_some(columns.collect())
    }

    /// Makes calls where they stand, synchronously.
    pub(super) fn block(&self, expr: Expr) -> Result<Expr> {
        replace(expr, &mut |call, needs, field| {
            let twin = self.rule.blocking.iter().find(|twin| {
                twin.name().strip_suffix(BLOCKING_SUFFIX) == Some(call.function_name())
            })?;
            let result = call.by(twin, needs);
            Some(match field {
                Some(field) => self.pick(result, field),
                None => result,
            })
        })
    }
}
