//! Sorts and limits: what they do not read is computed above them.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::{Limit, Sort};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Lifter;
use super::expressions::{named, without_alias};
use super::state::Lifted;

impl Lifter<'_> {
    pub(super) fn sort(&mut self, mut sort: Sort) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(sort.input))?;
        let keys: Vec<_> = sort.expr.iter().map(|key| key.expr.clone()).collect();
        let is_touched: Vec<_> = keys.iter().map(|key| input.touches(key)).collect();
        let mut keys = input.read_all(keys)?;
        self.make(&mut input, &mut keys)?;
        if sort.fetch.is_none() {
            // As many rows above as below: the texts need not be sorted too.
            self.make_pending(&mut input)?;
        }
        let mut columns = Vec::new();
        for ((key, expr), is_touched) in sort.expr.iter_mut().zip(keys).zip(is_touched) {
            key.expr = self.key(expr, is_touched, &mut columns)?;
        }
        input.project_some(columns)?;
        input.map_plan(|input| {
            Ok(LogicalPlan::Sort(Sort {
                expr: sort.expr,
                input,
                fetch: sort.fetch,
            }))
        })
    }

    /// A sort key as a column, which is added to `columns` if it is none yet. DataFusion loses
    /// the order of expressions whose range it does not know.
    pub(super) fn key(
        &mut self,
        expr: Expr,
        is_touched: bool,
        columns: &mut Vec<Expr>,
    ) -> Result<Expr> {
        let expr = self.block(without_alias(expr))?;
        if !is_touched || matches!(expr, Expr::Column(_)) {
            return Ok(expr);
        }
        let name = self.new_name("key");
        columns.push(named(expr, &name));
        Ok(Expr::Column(name))
    }

    pub(super) fn limit(&mut self, limit: Limit) -> Result<Lifted> {
        let input = self.lift(Arc::unwrap_or_clone(limit.input))?;
        input.map_plan(|input| Ok(LogicalPlan::Limit(Limit { input, ..limit })))
    }
}
