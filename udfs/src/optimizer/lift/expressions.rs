//! Expressions over the columns of a plan.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::calls::reads_field;
use crate::optimizer::call_sites::{field_of_call, has_calls};

pub(super) fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    let columns = plan.schema().columns().into_iter();
    columns.map(Expr::Column).collect()
}

/// The column as the schema names it.
pub(super) fn resolve(schema: &DFSchemaRef, column: &Column) -> Option<Column> {
    let columns = schema.columns();
    if columns.contains(column) {
        return Some(column.clone());
    }
    schema
        .maybe_index_of_column(column)
        .map(|at| columns[at].clone())
}

/// Replaces columns, without looking into what replaces them.
pub(super) fn substitute(expr: Expr, by: impl Fn(&Column) -> Option<Expr>) -> Result<Expr> {
    let replaced = expr.transform_up(|expr| {
        let replacement = match &expr {
            Expr::Column(column) => by(column),
            _ => None,
        };
        Ok(replacement.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })?;
    Ok(replaced.data)
}

/// Reads fields of a call's structs that it has itself from the call.
pub(super) fn fields_of_calls(expr: Expr) -> Result<Expr> {
    if !has_calls(&expr) {
        return Ok(expr);
    }
    let read = expr.transform_up(|expr| {
        Ok(match expr {
            Expr::ScalarFunction(access) if reads_field(&access) => {
                Transformed::yes(Expr::ScalarFunction(field_of_call(access)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(read.data)
}

pub(super) fn named(expr: Expr, column: &Column) -> Expr {
    let (relation, name) = expr.qualified_name();
    if relation == column.relation && name == column.name {
        expr
    } else {
        expr.alias_qualified(column.relation.clone(), &column.name)
    }
}

pub(super) fn without_alias(expr: Expr) -> Expr {
    match expr {
        Expr::Alias(alias) if alias.metadata.as_ref().is_none_or(|m| m.is_empty()) => {
            without_alias(*alias.expr)
        }
        other => other,
    }
}

pub(super) fn has_outer_references(expr: &Expr) -> bool {
    let is_outer = |expr: &Expr| match expr {
        Expr::OuterReferenceColumn(..) => true,
        Expr::ScalarSubquery(query) => !query.outer_ref_columns.is_empty(),
        Expr::Exists(exists) => !exists.subquery.outer_ref_columns.is_empty(),
        Expr::InSubquery(query) => !query.subquery.outer_ref_columns.is_empty(),
        Expr::SetComparison(query) => !query.subquery.outer_ref_columns.is_empty(),
        _ => false,
    };
    expr.exists(|expr| Ok(is_outer(expr))).unwrap_or(true)
}
