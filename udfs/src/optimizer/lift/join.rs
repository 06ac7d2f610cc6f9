//! Joins: calls over one side are made there, calls over both above.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::{Join, Projection};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan};

use super::Lifter;
use super::expressions::{named, resolve, substitute};
use super::state::{Held, Lifted};
use crate::optimizer::call_sites::has_calls;

/// Which results of a side a join passes on.
#[derive(Clone, Copy)]
enum Kept {
    All,
    /// Where a row may be NULL as a whole: those that are NULL then.
    NullOfNulls,
    None,
}

impl Kept {
    fn of(self, held: Vec<Held>) -> impl Iterator<Item = Held> {
        held.into_iter().filter_map(move |mut held| {
            held.is_filled |= matches!(self, Self::NullOfNulls);
            match self {
                Self::All => Some(held),
                Self::NullOfNulls => held.call.is_null_of_nulls().then_some(held),
                Self::None => None,
            }
        })
    }
}

/// What a join passes on of its left and its right side.
fn kept_results(join_type: JoinType) -> [Kept; 2] {
    match join_type {
        JoinType::Inner => [Kept::All, Kept::All],
        JoinType::Left => [Kept::All, Kept::NullOfNulls],
        JoinType::Right => [Kept::NullOfNulls, Kept::All],
        JoinType::Full => [Kept::NullOfNulls, Kept::NullOfNulls],
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [Kept::All, Kept::None],
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => [Kept::None, Kept::All],
    }
}

impl Lifter<'_> {
    pub(super) fn join(&mut self, join: Join) -> Result<Lifted> {
        let join_type = join.join_type;
        let mut left = self.lift(Arc::unwrap_or_clone(join.left))?;
        let mut right = self.lift(Arc::unwrap_or_clone(join.right))?;
        // A semi join only drops rows of the side that it keeps; any other may repeat rows, or
        // fill columns with NULL.
        if !matches!(join_type, JoinType::LeftSemi | JoinType::LeftAnti) {
            self.settle(&mut left)?;
        }
        if !matches!(join_type, JoinType::RightSemi | JoinType::RightAnti) {
            self.settle(&mut right)?;
        }
        let (left_on, right_on): (Vec<_>, Vec<_>) = join.on.into_iter().unzip();
        let mut left_on = left.read_all(left_on)?;
        let mut right_on = right.read_all(right_on)?;
        self.make(&mut left, &mut left_on)?;
        self.make(&mut right, &mut right_on)?;

        let mut conditions = Vec::new();
        for condition in join.filter.into_iter().flat_map(split_conjunction_owned) {
            let of_left = |c: &Column| left.schema.columns().contains(c);
            let of_right = |c: &Column| right.schema.columns().contains(c);
            let condition = substitute(condition, |column| {
                let is_right = !of_left(column)
                    && (of_right(column) || resolve(&left.schema, column).is_none());
                let side = if is_right { &right } else { &left };
                side.read(Expr::Column(column.clone())).ok()
            })?;
            conditions.push(condition);
        }
        self.make(&mut left, &mut conditions)?;
        self.make(&mut right, &mut conditions)?;
        // Calls over columns of both sides.
        let (mut crossing, mut conditions): (Vec<_>, Vec<_>) =
            conditions.into_iter().partition(has_calls);
        if join_type != JoinType::Inner {
            for condition in std::mem::take(&mut crossing) {
                conditions.push(self.block(condition)?);
            }
        }

        // A mark is named after the relation that all columns of its side come from.
        match join_type {
            JoinType::LeftMark => one_relation(&mut right, [&mut right_on, &mut conditions])?,
            JoinType::RightMark => one_relation(&mut left, [&mut left_on, &mut conditions])?,
            _ => {}
        }
        let pending = [left.pending, right.pending].concat();
        let [of_left, of_right] = kept_results(join_type);
        let held = of_left.of(left.held).chain(of_right.of(right.held));
        let held = held.collect();
        let plan = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            left_on.into_iter().zip(right_on).collect(),
            conjunction(conditions),
            join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        let joined = Lifted {
            plan: LogicalPlan::Join(plan),
            schema: join.schema,
            pending,
            held,
        };
        self.filter_by(joined, crossing)
    }
}

/// Names every column of a side after the one relation that its own columns are of.
fn one_relation<const N: usize>(side: &mut Lifted, readers: [&mut Vec<Expr>; N]) -> Result<()> {
    let relations = side
        .schema
        .columns()
        .into_iter()
        .map(|column| column.relation);
    let relations: Vec<_> = relations.collect();
    let Some(relation) = relations.first().cloned().flatten() else {
        return Ok(());
    };
    let is_other = |column: &Column| column.relation.as_ref() != Some(&relation);
    if relations.iter().any(|of| of.as_ref() != Some(&relation))
        || !side.plan.schema().columns().iter().any(is_other)
    {
        return Ok(());
    }
    let of_relation = |column: &Column| Column::new(Some(relation.clone()), &column.name);
    let columns = side.plan.schema().columns().into_iter();
    let exprs = columns.map(|column| {
        let name = of_relation(&column);
        named(Expr::Column(column), &name)
    });
    let exprs = exprs.collect();
    let before: Vec<Column> = side.plan.schema().columns();
    let input = Arc::new(std::mem::take(&mut side.plan));
    side.plan = LogicalPlan::Projection(Projection::try_new(exprs, input)?);
    for exprs in readers {
        for expr in exprs {
            *expr = substitute(std::mem::take(expr), |column| {
                let is_moved = before.contains(column) && is_other(column);
                is_moved.then(|| Expr::Column(of_relation(column)))
            })?;
        }
    }
    Ok(())
}
