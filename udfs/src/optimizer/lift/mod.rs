//! Moving scoring calls up a plan, node by node.
//!
//! [`state`] is what travels up; each kind of node that does something with it has a file of its own, and
//! [`make`] turns calls into columns.

mod aggregate;
mod expressions;
mod filter;
mod join;
mod make;
mod names;
mod projection;
mod sort;
mod state;
mod subquery_alias;
mod table_scan;
mod values;
mod window;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{DmlStatement, Projection};
use datafusion::logical_expr::{Expr, LogicalPlan, WriteOp, lit};

use super::HoistScores;
use super::call_sites::{call_of, has_calls, has_nested_calls};
use crate::scorer::Needs;
use expressions::{named, without_alias};
use names::{CALL_PREFIX, first_free_number};
use state::Lifted;

/// Rewrites one plan.
pub(super) struct Lifter<'a> {
    rule: &'a HoistScores,
    /// Keys and values of the metadata of scores.
    provenance: Vec<Expr>,
    /// What is needed of each call that was made.
    needs: Vec<Needs>,
    /// Numbers in names below this were given by an earlier run of the rule.
    first_number: usize,
    carried: usize,
}

impl<'a> Lifter<'a> {
    pub(super) fn new(rule: &'a HoistScores, provenance: &[(String, String)]) -> Self {
        let provenance = provenance.iter().flat_map(|(key, value)| [key, value]);
        Self {
            rule,
            provenance: provenance.map(|text| lit(text.as_str())).collect(),
            needs: Vec::new(),
            first_number: 0,
            carried: 0,
        }
    }

    pub(super) fn run(mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        self.first_number = first_free_number(&plan)?;
        let plan = self.whole(plan)?;
        self.state_needs(plan)
    }

    /// Takes apart what another rule put together: a call within a call of one projection.
    pub(super) fn run_nested(mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        self.first_number = first_free_number(&plan)?;
        let plan = plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::Projection(mut projection) = node else {
                return Ok(Transformed::no(node));
            };
            if !projection.expr.iter().any(has_nested_calls) {
                return Ok(Transformed::no(LogicalPlan::Projection(projection)));
            }
            let columns = projection.schema.columns();
            let mut input = Lifted::of(Arc::unwrap_or_clone(projection.input));
            let exprs = projection.expr.into_iter().map(without_alias);
            projection.expr = exprs.collect();
            self.make(&mut input, &mut projection.expr)?;
            let exprs = projection.expr.into_iter().zip(&columns);
            let exprs = exprs.map(|(expr, column)| named(expr, column)).collect();
            let plan = Projection::try_new(exprs, Arc::new(input.plan))?;
            Ok(Transformed::yes(LogicalPlan::Projection(plan)))
        })?;
        self.state_needs(plan.data)
    }

    /// A plan with exactly its own columns.
    fn whole(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let lifted = self.lift(plan)?;
        self.finish(lifted)
    }

    fn finish(&mut self, mut lifted: Lifted) -> Result<LogicalPlan> {
        self.make_pending(&mut lifted)?;
        if lifted.has_exact_columns() {
            return Ok(lifted.plan);
        }
        let exprs = lifted.schema.columns().into_iter().map(|column| {
            let pending = lifted.pending.iter().find(|(known, _)| *known == column);
            match pending {
                Some((_, expr)) => named(expr.clone(), &column),
                None => Expr::Column(column),
            }
        });
        let exprs = exprs.collect();
        let plan = Projection::try_new(exprs, Arc::new(lifted.plan))?;
        Ok(LogicalPlan::Projection(plan))
    }

    /// Writes into every call what is needed of it, which is known only now.
    fn state_needs(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let stated = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Projection(_) => node.map_expressions(|expr| {
                let Expr::Alias(mut alias) = expr else {
                    return Ok(Transformed::no(expr));
                };
                let number = alias.name.strip_prefix(CALL_PREFIX);
                let needs = number
                    .and_then(|number| number.parse::<usize>().ok())
                    .and_then(|number| self.needs.get(number.checked_sub(self.first_number)?));
                if let (Some(needs), Some(call)) = (needs, call_of(&alias.expr)) {
                    *alias.expr = call.expr(*needs);
                }
                Ok(Transformed::yes(Expr::Alias(alias)))
            }),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(stated.data)
    }

    fn lift(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        let plan = plan
            .map_subqueries(|query| Ok(Transformed::yes(self.whole(query)?)))?
            .data;
        match plan {
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::SubqueryAlias(alias) => self.subquery_alias(alias),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::TableScan(scan) => self.table_scan(scan),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::Dml(DmlStatement {
                op: WriteOp::Delete | WriteOp::Update,
                ..
            }) => self.without_columns(plan),
            other => self.as_it_is(other),
        }
    }

    /// A plan with exactly its own columns, also without what their metadata would say.
    fn bare(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let plan = self.whole(plan)?;
        let fields = plan.schema().fields().iter().zip(schema.fields());
        let says_more: Vec<bool> = fields
            .map(|(f, of)| f.metadata() != of.metadata())
            .collect();
        if !says_more.contains(&true) {
            return Ok(plan);
        }
        let columns = schema.columns().into_iter().zip(says_more);
        let exprs = columns.map(|(column, says_more)| {
            let value = Expr::Column(column.clone());
            if !says_more {
                return value;
            }
            named(self.bare_value(value), &column)
        });
        let exprs = exprs.collect();
        Ok(LogicalPlan::Projection(Projection::try_new(
            exprs,
            Arc::new(plan),
        )?))
    }

    /// A node that neither carries columns nor holds calls that could become one.
    fn as_it_is(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        // Nodes with a schema of their own, which another node's metadata would contradict.
        let is_bare = matches!(
            plan,
            LogicalPlan::Union(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::RecursiveQuery(_)
                | LogicalPlan::Extension(_)
        );
        let plan = plan.map_children(|input| {
            Ok(Transformed::yes(if is_bare {
                self.bare(input)?
            } else {
                self.whole(input)?
            }))
        })?;
        let plan = plan.data.map_expressions(|expr| {
            if has_calls(&expr) {
                Ok(Transformed::yes(self.block(expr)?))
            } else {
                Ok(Transformed::no(expr))
            }
        })?;
        Ok(Lifted::of(plan.data))
    }

    /// A plan whose expressions are taken out and evaluated elsewhere.
    fn without_columns(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        let plan = plan.transform_up(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(Transformed::yes(name.restore(self.block(expr)?)))
            })
        })?;
        Ok(Lifted::of(plan.data))
    }
}
