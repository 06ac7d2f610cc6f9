//! The names of columns that the rule adds to a plan.

use datafusion::common::Column;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;

use super::Lifter;
use crate::calls::{CARRIED_PREFIX, shown_name};

/// Columns with what a call returned: this and a number; of a field also the field's name.
pub(super) const CALL_PREFIX: &str = "__ches_";

impl Lifter<'_> {
    /// A name for a column that a projection carries up. A result of this run keeps its own.
    pub(super) fn carry(&mut self, column: &Column) -> Column {
        let is_result = |(is_text, number): (bool, usize)| !is_text && number >= self.first_number;
        if own_number(&column.name).is_some_and(is_result) {
            return Column::new_unqualified(&column.name);
        }
        self.new_name(&column.name)
    }

    /// A new name, which tells what the column was called before.
    pub(super) fn new_name(&mut self, before: &str) -> Column {
        self.carried += 1;
        let number = self.first_number + self.carried;
        let before = shown_name(before);
        Column::new_unqualified(format!("{CARRIED_PREFIX}{number}_{before}"))
    }
}

/// A number that no column of an earlier run of the rule has in its name.
pub(super) fn first_free_number(plan: &LogicalPlan) -> Result<usize> {
    let mut free = 0;
    plan.apply_with_subqueries(|node| {
        for field in node.schema().fields() {
            if let Some((_, number)) = own_number(field.name()) {
                free = free.max(number + 1);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(free)
}

/// The number in a name that this rule gave, and whether it is that of a text.
fn own_number(name: &str) -> Option<(bool, usize)> {
    let text = name.strip_prefix(CARRIED_PREFIX);
    let rest = text.or_else(|| name.strip_prefix(CALL_PREFIX))?;
    let number = rest.split('_').next()?.parse::<u32>().ok()?;
    Some((text.is_some(), number as usize))
}
