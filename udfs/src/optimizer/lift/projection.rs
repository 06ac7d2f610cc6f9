//! Projections: what is computed of a call waits until somebody reads it.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::logical_expr::{Expr, LogicalPlan};
use std::collections::HashMap;

use super::Lifter;
use super::expressions::{has_outer_references, named, substitute, without_alias};
use super::state::{Lifted, renamed};
use crate::optimizer::call_sites::has_calls;

impl Lifter<'_> {
    pub(super) fn projection(&mut self, projection: Projection) -> Result<Lifted> {
        let schema = Arc::clone(&projection.schema);
        let mut input = self.lift(Arc::unwrap_or_clone(projection.input))?;
        if projection.expr.iter().any(has_outer_references) {
            self.settle(&mut input)?;
        }
        let exprs = projection.expr.into_iter().map(without_alias);
        let mut exprs = input.read_all(exprs)?;
        self.read_held(&mut input, &mut exprs)?;

        // An expression whose rows would be evaluated in another order or number stays here,
        // as does one that reads no column to carry.
        let stays = |expr: &Expr| expr.is_volatile() || expr.column_refs().is_empty();
        let (at, mut now): (Vec<_>, Vec<_>) = exprs
            .iter()
            .enumerate()
            .filter(|(_, expr)| has_calls(expr) && stays(expr))
            .map(|(at, expr)| (at, expr.clone()))
            .unzip();
        self.make(&mut input, &mut now)?;
        for (at, expr) in at.into_iter().zip(now) {
            exprs[at] = expr;
        }

        let mut outputs = Vec::new();
        let mut later = Vec::new();
        // Under which name a column of the input is found above.
        let mut carried: HashMap<Column, Column> = HashMap::new();
        for (expr, column) in exprs.into_iter().zip(schema.columns()) {
            if has_calls(&expr) && input.has_columns_of(&expr) {
                later.push((column, expr));
                continue;
            }
            if let Expr::Column(of_input) = &expr {
                carried
                    .entry(of_input.clone())
                    .or_insert_with(|| column.clone());
            }
            outputs.push(named(expr, &column));
        }
        for (_, expr) in &later {
            for column in expr.column_refs() {
                if !carried.contains_key(column) {
                    let name = self.carry(column);
                    outputs.push(named(Expr::Column(column.clone()), &name));
                    carried.insert(column.clone(), name);
                }
            }
        }
        for held in &input.held {
            let mut columns = held.call.reads().flat_map(Expr::column_refs);
            if columns.all(|column| carried.contains_key(column))
                && !carried.contains_key(&held.column)
            {
                let name = self.carry(&held.column);
                outputs.push(named(Expr::Column(held.column.clone()), &name));
                carried.insert(held.column.clone(), name);
            }
        }
        let above = |column: &Column| carried.get(column).cloned().map(Expr::Column);
        let pending = later
            .into_iter()
            .map(|(column, expr)| Ok((column, substitute(expr, above)?)))
            .collect::<Result<_>>()?;
        let held = renamed(input.held, |column| carried.get(column).cloned())?;
        let plan = Projection::try_new(outputs, Arc::new(input.plan))?;
        Ok(Lifted {
            plan: LogicalPlan::Projection(plan),
            schema,
            pending,
            held,
        })
    }
}
