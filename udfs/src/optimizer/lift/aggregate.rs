//! Aggregates: keys and arguments are computed below.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::expr::GroupingSet;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Lifter;
use super::expressions::named;
use super::state::Lifted;

impl Lifter<'_> {
    pub(super) fn aggregate(&mut self, aggregate: Aggregate) -> Result<Lifted> {
        let mut input = self.lift(Arc::unwrap_or_clone(aggregate.input))?;
        let names = NamePreserver::new_for_projection();
        let saved: Vec<_> = aggregate.aggr_expr.iter().map(|e| names.save(e)).collect();
        let mut aggregates = input.read_all(aggregate.aggr_expr)?;

        let mut keys: Vec<Expr> = Vec::new();
        for expr in &aggregate.group_expr {
            let of_expr = match expr {
                Expr::GroupingSet(set) => set.distinct_expr().into_iter().cloned().collect(),
                other => vec![other.clone()],
            };
            keys.extend(of_expr);
        }
        let key_columns: Vec<Column> = keys
            .iter()
            .map(|key| {
                let (relation, name) = key.qualified_name();
                Column::new(relation, name)
            })
            .collect();
        let is_touched: Vec<bool> = keys.iter().map(|key| input.touches(key)).collect();
        let mut computed = input.read_all(keys.iter().cloned())?;

        let mut all = [aggregates.clone(), computed.clone()].concat();
        self.make(&mut input, &mut all)?;
        computed = all.split_off(aggregates.len());
        aggregates = all;

        // A key that is computed below keeps its name.
        let mut below = Vec::new();
        let mut replaced: Vec<(Expr, Expr)> = Vec::new();
        let keys = keys.into_iter().zip(key_columns);
        for (((key, column), expr), is_touched) in keys.zip(computed).zip(is_touched) {
            if !is_touched {
                continue;
            }
            if !input.has_column(&column) && !replaced.iter().any(|(known, _)| *known == key) {
                // Of a CASE of scores DataFusion says two things about whether it may be NULL; a
                // function of it always may.
                let key = match self.block(expr)? {
                    column @ Expr::Column(_) => column,
                    computed => self.bare_value(computed),
                };
                below.push(named(key, &column));
            }
            replaced.push((key, Expr::Column(column)));
        }
        input.project_some(below)?;
        let by = |key: Expr| {
            let found = replaced.iter().find(|(known, _)| *known == key);
            found.map_or(key, |(_, column)| column.clone())
        };
        let all_by = |keys: Vec<Expr>| keys.into_iter().map(&by).collect::<Vec<_>>();
        let group_expr = aggregate.group_expr.into_iter().map(|expr| match expr {
            Expr::GroupingSet(set) => Expr::GroupingSet(match set {
                GroupingSet::Rollup(keys) => GroupingSet::Rollup(all_by(keys)),
                GroupingSet::Cube(keys) => GroupingSet::Cube(all_by(keys)),
                GroupingSet::GroupingSets(sets) => {
                    GroupingSet::GroupingSets(sets.into_iter().map(all_by).collect())
                }
            }),
            key => by(key),
        });
        let group_expr = group_expr.collect();
        let aggregates = aggregates
            .into_iter()
            .zip(saved)
            .map(|(expr, name)| Ok(name.restore(self.block(expr)?)))
            .collect::<Result<_>>()?;
        let plan = Aggregate::try_new(Arc::new(input.plan), group_expr, aggregates)?;
        Ok(Lifted {
            schema: aggregate.schema,
            plan: LogicalPlan::Aggregate(plan),
            pending: Vec::new(),
            held: Vec::new(),
        })
    }
}
