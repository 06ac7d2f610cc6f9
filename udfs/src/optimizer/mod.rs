//! The optimizer rule that lets a score stand wherever an expression may.
//!
//! DataFusion evaluates asynchronous functions in projections, in filters and in the arguments
//! of aggregates; anywhere else they are an error, and where two expressions hold the same call
//! it is made twice. [`HoistScores`] takes every scoring call out of the expression that holds
//! it and makes it a column of a projection, once for each distinct call, as high in the plan as
//! it can stand: above the filters, limits and top-k sorts that do not read it.
//!
//! ```text
//! Projection: id, __ches_0_ches AS score
//!   Filter: __ches_0_ches > 0
//!     Projection: id, __ches_pick(__ches_0, 'ches') AS __ches_0_ches
//!       Projection: id, __ches_score_pair('EMBEDDINGS', true, prompt, chosen, rejected) AS __ches_0
//!         Filter: lang = 'en'
//!           TableScan: pairs
//! ```
//!
//! [`narrow`] first follows what is read of each call, from the root down; [`lift`] does the rest node
//! by node, from the leaves up; [`call_sites`] finds calls in expressions, with the conditions under which
//! they are evaluated.

mod call_sites;
mod lift;
mod narrow;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::calls;
use crate::scorer::Scorer;
use crate::settings::ChesSettings;
use lift::Lifter;
use narrow::{Errors, narrow};

/// Computes every distinct scoring call once, as late as it can be.
///
/// It must be the last optimizer rule: push-down of filters puts calls back into filters.
///
/// Of a struct of scores whose fields are read, here or in an outer query, only these are computed. A
/// statement that needs the model for nothing but the `error` of its calls runs none: `error` then
/// tells what is found before.
///
/// Columns of scores say in their metadata where they come from ([`Scorer::provenance`]).
///
/// Calls of equal texts are one call that computes what any of them needs. Of a call inside
/// `CASE`, `COALESCE`, `AND`, `OR` or an aggregate's `FILTER`, the condition under which it is
/// evaluated becomes its guard, so that other rows are NULL to the model.
/// Where a column cannot stand (the condition of an outer join over columns of both sides, the
/// expressions of `DELETE` and `UPDATE`, an extension node) the call is made synchronously
/// instead.
#[derive(Debug)]
pub struct HoistScores {
    /// Says where scores come from.
    pub(crate) scorer: Arc<dyn Scorer>,
    /// Reads a field of what a hidden function returned.
    pub(crate) pick: Arc<ScalarUDF>,
    /// Says in a column's metadata where it comes from.
    pub(crate) provenance: Arc<ScalarUDF>,
    /// The synchronous twins of the hidden functions.
    pub(crate) blocking: Vec<Arc<ScalarUDF>>,
}

impl OptimizerRule for HoistScores {
    fn name(&self) -> &str {
        "ches_hoist_scores"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if !any_expr(&plan, call_sites::has_calls)? {
            return Ok(Transformed::no(plan));
        }
        let settings = ChesSettings::of(&config.options());
        let provenance = self.scorer.provenance(&settings);
        let plan = narrowed(without_provenance(plan)?)?;
        let plan = Lifter::new(self, &provenance).run(plan)?;
        // Texts are not carried further up than to the call that reads them.
        let mut plan = OptimizeProjections::new().rewrite(plan, config)?.data;
        if any_expr(&plan, call_sites::has_nested_calls)? {
            plan = Lifter::new(self, &provenance).run_nested(plan)?;
        }
        Ok(Transformed::yes(plan))
    }
}

/// The plan, whose calls ask only for what it reads of them.
fn narrowed(plan: LogicalPlan) -> Result<LogicalPlan> {
    let without_model = narrow(plan.clone(), Errors::BeforeModel)?;
    if any_expr(&without_model, call_sites::runs_model)? {
        return narrow(plan, Errors::OfAll);
    }
    Ok(without_model)
}

/// Takes off what an earlier run of the rule has put on.
fn without_provenance(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            expr.transform_up(|expr| {
                let value = match &expr {
                    Expr::ScalarFunction(function) => calls::without_provenance(function),
                    _ => None,
                };
                let value = value.cloned();
                Ok(value.map_or_else(|| Transformed::no(expr), Transformed::yes))
            })
        })
    })?;
    Ok(plan.data)
}

/// Whether an expression anywhere in a plan is such.
fn any_expr(plan: &LogicalPlan, is_such: impl Fn(&Expr) -> bool) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr: &Expr| {
            found |= is_such(expr);
            Ok(if found {
                TreeNodeRecursion::Stop
            } else {
                TreeNodeRecursion::Continue
            })
        })
    })?;
    Ok(found)
}
