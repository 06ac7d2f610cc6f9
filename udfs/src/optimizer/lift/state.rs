//! What travels up a plan: columns that are not computed yet, and calls that were made.

use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::expressions::{columns_of, fields_of_calls, resolve, substitute};
use crate::calls::is_null_of_nulls;
use crate::optimizer::call_sites::{Call, has_calls};

/// A plan on its way up, and what its parent expects of it.
pub(super) struct Lifted {
    pub(super) plan: LogicalPlan,
    /// The columns that the parent knows. Those that are pending the plan does not have; it may
    /// have others that the parent does not know.
    pub(super) schema: DFSchemaRef,
    /// Columns of `schema` that are not computed yet, by expressions over columns of `plan`.
    pub(super) pending: Vec<(Column, Expr)>,
    /// Calls over columns of `plan` that are already made.
    pub(super) held: Vec<Held>,
}

/// A call that was made.
pub(super) struct Held {
    pub(super) call: Call,
    /// Which column of the plan has the result.
    pub(super) column: Column,
    /// Which columns have fields of it, or all of it, as it is read.
    pub(super) read: Vec<(Option<Expr>, Column)>,
    /// Which of [`Lifter::needs`] it is.
    pub(super) number: usize,
    /// Whether it is NULL as a whole in rows that an outer join filled: there the call itself gives
    /// structs, and errors.
    pub(super) is_filled: bool,
}

impl Held {
    /// Whether a field of a call, or all of it, can be had here.
    pub(super) fn gives(&self, call: &Call, field: Option<&Expr>) -> bool {
        let is_null_of_nulls = || field.is_some_and(is_null_of_nulls);
        call.is_in(&self.call) && (!self.is_filled || is_null_of_nulls())
    }

    /// The same, where columns have other names. `None` where what it reads or gave is gone.
    pub(super) fn renamed(
        self,
        rename: impl Fn(&Column) -> Option<Column>,
    ) -> Result<Option<Self>> {
        let Some(column) = rename(&self.column) else {
            return Ok(None);
        };
        let has_columns = |expr: &Expr| expr.column_refs().iter().all(|c| rename(c).is_some());
        if !self.call.reads().all(has_columns) {
            return Ok(None);
        }
        let column_of = |column: &Column| rename(column).map(Expr::Column);
        let call = self.call.map(|expr| substitute(expr, column_of))?;
        let read = self.read.into_iter();
        Ok(Some(Self {
            call,
            column,
            read: read
                .filter_map(|(field, column)| Some((field, rename(&column)?)))
                .collect(),
            number: self.number,
            is_filled: self.is_filled,
        }))
    }
}

impl Lifted {
    pub(super) fn of(plan: LogicalPlan) -> Self {
        Self {
            schema: Arc::clone(plan.schema()),
            plan,
            pending: Vec::new(),
            held: Vec::new(),
        }
    }

    pub(super) fn has_exact_columns(&self) -> bool {
        self.plan.schema().columns() == self.schema.columns()
    }

    pub(super) fn has_column(&self, column: &Column) -> bool {
        self.plan.schema().columns().contains(column)
    }

    pub(super) fn has_columns_of(&self, expr: &Expr) -> bool {
        expr.column_refs().into_iter().all(|c| self.has_column(c))
    }

    /// Whether an expression of the parent will read something else than it says.
    pub(super) fn touches(&self, expr: &Expr) -> bool {
        has_calls(expr) || self.reads_pending(expr)
    }

    pub(super) fn reads_pending(&self, expr: &Expr) -> bool {
        let is_pending = |column: &&Column| {
            resolve(&self.schema, column)
                .is_some_and(|column| self.pending.iter().any(|(known, _)| *known == column))
        };
        expr.column_refs().iter().any(is_pending)
    }

    /// An expression of the parent, over the columns that the plan has.
    pub(super) fn read(&self, expr: Expr) -> Result<Expr> {
        let expr = substitute(expr, |column| {
            let column = resolve(&self.schema, column)?;
            let pending = self.pending.iter().find(|(known, _)| *known == column);
            Some(match pending {
                Some((_, expr)) => expr.clone(),
                None => Expr::Column(column),
            })
        })?;
        fields_of_calls(expr)
    }

    pub(super) fn read_all(&self, exprs: impl IntoIterator<Item = Expr>) -> Result<Vec<Expr>> {
        exprs.into_iter().map(|expr| self.read(expr)).collect()
    }

    /// Replaces the plan by one that also has `more` columns.
    pub(super) fn project(&mut self, more: Vec<Expr>) -> Result<()> {
        let mut exprs = columns_of(&self.plan);
        exprs.extend(more);
        let input = Arc::new(std::mem::take(&mut self.plan));
        self.plan = LogicalPlan::Projection(Projection::try_new(exprs, input)?);
        Ok(())
    }

    pub(super) fn project_some(&mut self, more: Vec<Expr>) -> Result<()> {
        if more.is_empty() {
            return Ok(());
        }
        self.project(more)
    }

    pub(super) fn map_plan(
        mut self,
        map: impl FnOnce(Arc<LogicalPlan>) -> Result<LogicalPlan>,
    ) -> Result<Self> {
        self.plan = map(Arc::new(self.plan))?;
        Ok(self)
    }
}

pub(super) fn renamed(
    held: Vec<Held>,
    rename: impl Fn(&Column) -> Option<Column>,
) -> Result<Vec<Held>> {
    held.into_iter()
        .filter_map(|held| held.renamed(&rename).transpose())
        .collect()
}
