//! Window functions: keys and arguments are computed below.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::Window;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Lifter;
use super::state::Lifted;

impl Lifter<'_> {
    pub(super) fn window(&mut self, window: Window) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(window.input))?;
        let names = NamePreserver::new_for_projection();
        let saved: Vec<_> = window.window_expr.iter().map(|e| names.save(e)).collect();
        let is_touched: Vec<_> = window
            .window_expr
            .iter()
            .map(|e| input.touches(e))
            .collect();
        let mut exprs = input.read_all(window.window_expr)?;
        self.make(&mut input, &mut exprs)?;
        let mut columns = Vec::new();
        let exprs = exprs
            .into_iter()
            .zip(is_touched)
            .zip(saved)
            .map(|((expr, is_touched), name)| {
                let expr = self.window_keys(expr, is_touched, &mut columns)?;
                Ok(name.restore(self.block(expr)?))
            })
            .collect::<Result<_>>()?;
        input.project_some(columns)?;
        let mut lifted =
            input.map_plan(|input| Ok(LogicalPlan::Window(Window::try_new(exprs, input)?)))?;
        lifted.schema = window.schema;
        Ok(lifted)
    }

    pub(super) fn window_keys(
        &mut self,
        expr: Expr,
        is_touched: bool,
        columns: &mut Vec<Expr>,
    ) -> Result<Expr> {
        let keyed = expr.transform_down(|expr| {
            let Expr::WindowFunction(mut function) = expr else {
                return Ok(Transformed::no(expr));
            };
            for key in &mut function.params.partition_by {
                *key = self.key(std::mem::take(key), is_touched, columns)?;
            }
            for key in &mut function.params.order_by {
                key.expr = self.key(std::mem::take(&mut key.expr), is_touched, columns)?;
            }
            Ok(Transformed::yes(Expr::WindowFunction(function)))
        })?;
        Ok(keyed.data)
    }
}
