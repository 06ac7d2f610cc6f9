//! Rows of constants with calls among them.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::{Projection, Union};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan, Values};

use super::Lifter;
use super::expressions::{named, without_alias};
use super::state::Lifted;
use crate::optimizer::call_sites::has_calls;

impl Lifter<'_> {
    /// Rows of constants with calls among them become a query each.
    pub(super) fn values(&mut self, values: Values) -> Result<Lifted> {
        if !values.values.iter().flatten().any(has_calls) {
            return Ok(Lifted::of(LogicalPlan::Values(values)));
        }
        let mut queries = Vec::with_capacity(values.values.len());
        for row in values.values {
            let row = row.into_iter().zip(values.schema.columns());
            let exprs = row.map(|(expr, column)| named(without_alias(expr), &column));
            let one_row = LogicalPlan::EmptyRelation(EmptyRelation {
                produce_one_row: true,
                schema: Arc::new(datafusion::common::DFSchema::empty()),
            });
            let query = Projection::try_new(exprs.collect(), Arc::new(one_row))?;
            queries.push(Arc::new(self.bare(LogicalPlan::Projection(query))?));
        }
        let mut plan = match <[_; 1]>::try_from(queries) {
            Ok([only]) => Arc::unwrap_or_clone(only),
            Err(inputs) => LogicalPlan::Union(Union {
                inputs,
                schema: Arc::clone(&values.schema),
            }),
        };
        if plan.schema().columns() != values.schema.columns() {
            plan = plan.recompute_schema()?;
        }
        Ok(Lifted::of(plan))
    }
}
