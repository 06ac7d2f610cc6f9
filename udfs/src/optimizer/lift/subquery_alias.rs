//! Aliases of subqueries: columns get another relation.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::SubqueryAlias;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Lifter;
use super::expressions::substitute;
use super::state::{Lifted, renamed};

impl Lifter<'_> {
    pub(super) fn subquery_alias(&mut self, alias: SubqueryAlias) -> Result<Lifted> {
        let input = self.lift(Arc::unwrap_or_clone(alias.input))?;
        let relation = alias.alias;
        let requalified = |column: &Column| Column::new(Some(relation.clone()), &column.name);
        let pending = input
            .pending
            .into_iter()
            .map(|(column, expr)| {
                let expr = substitute(expr, |column| Some(Expr::Column(requalified(column))))?;
                Ok((requalified(&column), expr))
            })
            .collect::<Result<_>>()?;
        let held = renamed(input.held, |column| Some(requalified(column)))?;
        let plan = SubqueryAlias::try_new(Arc::new(input.plan), relation.clone())?;
        Ok(Lifted {
            plan: LogicalPlan::SubqueryAlias(plan),
            schema: alias.schema,
            pending,
            held,
        })
    }
}
