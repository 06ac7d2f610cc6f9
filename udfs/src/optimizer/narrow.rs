//! Asking of each call only for what is read of it, through subqueries, views and CTEs.
//!
//! A struct of scores that an inner query makes is often read by a few fields in an outer one. From
//! the root of the plan down, this follows which fields of each column are read, to the call that
//! makes the column. A field that is also one of the call's own is read from the call, so that a
//! condition on it asks for it alone.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, lit};

use super::call_sites::{field_of_call, hidden_function};
use crate::calls::{
    call_needs, field_name, field_needs, is_own_field, is_scoring_function, reads_field,
};
use crate::scorer::Needs;

/// Whether a call whose `error` is read has to find what only the model finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errors {
    /// All that the call needs, the model too.
    OfAll,
    /// What is found before the model runs.
    BeforeModel,
}

/// What is read of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Read {
    Fields(BTreeSet<String>),
    All,
}

impl Read {
    fn nothing() -> Self {
        Self::Fields(BTreeSet::new())
    }

    fn field(name: String) -> Self {
        Self::Fields(BTreeSet::from([name]))
    }

    fn add(&mut self, more: &Self) {
        match (&mut *self, more) {
            (Self::Fields(known), Self::Fields(more)) => known.extend(more.iter().cloned()),
            _ => *self = Self::All,
        }
    }
}

/// What is read of each column of a node's inputs.
struct Inputs(Vec<(DFSchemaRef, Vec<Read>)>);

impl Inputs {
    /// Of which nothing is read but what subqueries may read, wherever they stand.
    fn unread(plan: &LogicalPlan, outer: &[Column]) -> Self {
        let inputs = plan.inputs().into_iter().map(|input| {
            let columns = input.schema().fields().len();
            (input.schema().clone(), vec![Read::nothing(); columns])
        });
        let mut inputs = Self(inputs.collect());
        for column in outer {
            inputs.find(column, &Read::All);
        }
        inputs
    }

    /// Adds to a column, if it is one of these.
    fn find(&mut self, column: &Column, read: &Read) -> bool {
        let mut is_found = false;
        for (schema, reads) in &mut self.0 {
            if let Some(at) = schema.maybe_index_of_column(column) {
                reads[at].add(read);
                is_found = true;
            }
        }
        is_found
    }

    fn add(&mut self, column: &Column, read: &Read) {
        if !self.find(column, read) {
            self.add_all();
        }
    }

    fn add_all(&mut self) {
        let reads = self.0.iter_mut().flat_map(|(_, reads)| reads);
        reads.for_each(|of_column| *of_column = Read::All);
    }

    /// Adds what is read of the columns of an input that are the first ones of the node's own.
    fn add_first(&mut self, input: usize, reads: &[Read]) {
        if let Some((_, of_input)) = self.0.get_mut(input) {
            for (of_column, read) in of_input.iter_mut().zip(reads) {
                of_column.add(read);
            }
        }
    }

    /// Adds what is read of the columns that a node passes on.
    fn add_passed_on(&mut self, plan: &LogicalPlan, reads: &[Read]) {
        match plan {
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => {}
            LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Window(_) => self.add_first(0, reads),
            LogicalPlan::Union(_) => {
                (0..self.0.len()).for_each(|input| self.add_first(input, reads));
            }
            LogicalPlan::Join(join) => match join.join_type {
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                    let of_left = self.0.first().map_or(0, |(_, of_left)| of_left.len());
                    let (left, right) = reads.split_at(of_left.min(reads.len()));
                    self.add_first(0, left);
                    self.add_first(1, right);
                }
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                    self.add_first(0, reads);
                }
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    self.add_first(1, reads);
                }
            },
            _ => self.add_all(),
        }
    }
}

/// A plan whose calls ask only for what it reads of them.
pub(super) fn narrow(plan: LogicalPlan, errors: Errors) -> Result<LogicalPlan> {
    let narrow = Narrow {
        errors,
        outer: outer_columns(&plan)?,
    };
    narrow.whole(plan)
}

/// The columns that subqueries anywhere in a plan read of the queries that they stand in.
fn outer_columns(plan: &LogicalPlan) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr: &Expr| {
            expr.apply(|expr| {
                if let Expr::OuterReferenceColumn(_, column) = expr {
                    columns.push(column.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(columns)
}

struct Narrow {
    errors: Errors,
    outer: Vec<Column>,
}

impl Narrow {
    /// A plan of which everything is read.
    fn whole(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let all = vec![Read::All; plan.schema().fields().len()];
        self.node(plan, &all)
    }

    fn node(&self, plan: LogicalPlan, reads: &[Read]) -> Result<LogicalPlan> {
        let mut inputs = Inputs::unread(&plan, &self.outer);
        inputs.add_passed_on(&plan, reads);
        let plan = plan.map_subqueries(|query| Ok(Transformed::yes(self.whole(query)?)))?;
        let is_projection = matches!(plan.data, LogicalPlan::Projection(_));
        let names = NamePreserver::new(&plan.data);
        let mut at = 0;
        let plan = plan.data.map_expressions(|expr| {
            let read = match is_projection {
                true => reads.get(at).cloned().unwrap_or(Read::All),
                false => Read::All,
            };
            at += 1;
            // Has no name to be kept.
            if matches!(expr, Expr::GroupingSet(_)) {
                self.expr(expr.clone(), &read, &mut inputs)?;
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            let expr = self.expr(expr, &read, &mut inputs)?;
            Ok(Transformed::yes(name.restore(expr)))
        })?;
        let mut of_inputs = inputs.0.into_iter();
        let plan = plan.data.map_children(|input| {
            let plan = match of_inputs.next() {
                Some((_, reads)) => self.node(input, &reads)?,
                None => self.whole(input)?,
            };
            Ok(Transformed::yes(plan))
        })?;
        Ok(plan.data)
    }

    /// An expression of whose value so much is read. What it reads of columns is added to `inputs`.
    fn expr(&self, expr: Expr, read: &Read, inputs: &mut Inputs) -> Result<Expr> {
        let mut part = |part: Expr, read: &Read| self.expr(part, read, inputs);
        Ok(match expr {
            Expr::Column(column) => {
                inputs.add(&column, read);
                Expr::Column(column)
            }
            Expr::Alias(mut alias) => {
                *alias.expr = part(std::mem::take(&mut *alias.expr), read)?;
                Expr::Alias(alias)
            }
            Expr::Case(case) => {
                let mut condition = |expr: Box<Expr>| part(*expr, &Read::All).map(Box::new);
                let base = case.expr.map(&mut condition).transpose()?;
                let mut when_then = Vec::with_capacity(case.when_then_expr.len());
                for (when, then) in case.when_then_expr {
                    let when = Box::new(part(*when, &Read::All)?);
                    when_then.push((when, Box::new(part(*then, read)?)));
                }
                let otherwise = case.else_expr.map(|expr| part(*expr, read).map(Box::new));
                Expr::Case(Case::new(base, when_then, otherwise.transpose()?))
            }
            Expr::ScalarFunction(access) if reads_field(&access) => {
                let mut access = field_of_call(access);
                let field = field_name(&access.args[1]);
                let whole = std::mem::take(&mut access.args[0]);
                let of_whole = match (read, hidden_function(&whole)) {
                    (Read::Fields(fields), Some(function))
                        if fields.iter().all(|of| is_own_field(function, &field, of)) =>
                    {
                        read.clone()
                    }
                    _ => Read::field(field),
                };
                access.args[0] = part(whole, &of_whole)?;
                Expr::ScalarFunction(access)
            }
            Expr::ScalarFunction(mut call) if is_scoring_function(&call.func) => {
                if let (Read::Fields(fields), Some(stated)) = (read, call_needs(&call.args)) {
                    let of_field = |field: &String| match (field.as_str(), self.errors) {
                        ("error", Errors::BeforeModel) => stated - Needs::MODEL,
                        (field, _) => field_needs(call.func.name(), &lit(field)).unwrap_or(stated),
                    };
                    let needs = fields.iter().map(of_field);
                    let needs = stated & needs.fold(Needs::empty(), Needs::union);
                    call.args[0] = lit(needs.to_string());
                }
                call.args = std::mem::take(&mut call.args)
                    .into_iter()
                    .map(|arg| part(arg, &Read::All))
                    .collect::<Result<_>>()?;
                Expr::ScalarFunction(call)
            }
            other => {
                let mapped =
                    other.map_children(|child| Ok(Transformed::yes(part(child, &Read::All)?)));
                mapped?.data
            }
        })
    }
}
