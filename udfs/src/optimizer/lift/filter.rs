//! Filters: cheap conditions first, then those that need calls.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::Filter;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Lifter;
use super::expressions::has_outer_references;
use super::state::Lifted;
use crate::optimizer::call_sites::{has_calls, wanted};

impl Lifter<'_> {
    pub(super) fn filter(&mut self, filter: Filter) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(filter.input))?;
        if has_outer_references(&filter.predicate) {
            self.settle(&mut input)?;
        }
        let predicate = input.read(filter.predicate)?;
        self.filter_by(input, split_conjunction_owned(predicate))
    }

    /// Filters by the cheap conditions first, then by those that need calls, the one that needs
    /// the fewest forward passes first.
    pub(super) fn filter_by(
        &mut self,
        mut input: Lifted,
        mut conditions: Vec<Expr>,
    ) -> Result<Lifted> {
        loop {
            self.read_held(&mut input, &mut conditions)?;
            let (cheap, dear): (Vec<_>, Vec<_>) = conditions
                .into_iter()
                .partition(|condition| !has_calls(condition));
            if let Some(predicate) = conjunction(cheap) {
                input = filtered(input, predicate)?;
            }
            conditions = dear;
            let cost = |at: &usize| {
                let wanted = wanted(std::slice::from_ref(&conditions[*at]));
                let models = wanted.iter().filter(|wanted| wanted.call.runs_model());
                (models.count(), wanted.len())
            };
            let fewest = (0..conditions.len()).min_by_key(cost);
            let Some(fewest) = fewest else {
                return Ok(input);
            };
            let condition = conditions.remove(fewest);
            let condition = self.make_for_one(&mut input, condition)?;
            let condition = self.block(condition)?;
            input = filtered(input, condition)?;
        }
    }
}

pub(super) fn filtered(input: Lifted, predicate: Expr) -> Result<Lifted> {
    input.map_plan(|input| Ok(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
}
