//! Tables: none is asked to filter by a score.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::{Limit, TableScan, TableScanBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, lit};

use super::Lifter;
use super::state::Lifted;
use crate::optimizer::call_sites::has_calls;

impl Lifter<'_> {
    /// A table is not asked to filter by a score.
    pub(super) fn table_scan(&mut self, mut scan: TableScan) -> Result<Lifted> {
        let schema = Arc::clone(&scan.projected_schema);
        let (dear, cheap): (Vec<_>, Vec<_>) = scan.filters.into_iter().partition(has_calls);
        scan.filters = cheap;
        if dear.is_empty() {
            return Ok(Lifted::of(LogicalPlan::TableScan(scan)));
        }
        // What the table would have filtered exactly is in no filter above it.
        let support = scan
            .source
            .supports_filters_pushdown(&dear.iter().collect::<Vec<_>>())?;
        let exact = dear
            .into_iter()
            .zip(support)
            .filter_map(|(filter, support)| {
                (support == TableProviderFilterPushDown::Exact).then_some(filter)
            });
        let exact: Vec<Expr> = exact.collect();
        if exact.is_empty() {
            return Ok(Lifted::of(LogicalPlan::TableScan(scan)));
        }
        let table_schema = scan.source.schema();
        if let Some(projection) = &mut scan.projection {
            for column in exact.iter().flat_map(Expr::column_refs) {
                let at = table_schema.index_of(&column.name)?;
                if !projection.contains(&at) {
                    projection.push(at);
                }
            }
        }
        let fetch = scan.fetch.take();
        let wider = TableScanBuilder::new(scan.table_name, scan.source)
            .with_projection(scan.projection)
            .with_filters(scan.filters)
            .with_statistics_requests(scan.statistics_requests)
            .build()?;
        let mut lifted = Lifted::of(LogicalPlan::TableScan(wider));
        lifted = self.filter_by(lifted, exact)?;
        lifted.schema = schema;
        match fetch {
            None => Ok(lifted),
            Some(rows) => lifted.map_plan(|input| {
                Ok(LogicalPlan::Limit(Limit {
                    skip: None,
                    fetch: Some(Box::new(lit(rows as i64))),
                    input,
                }))
            }),
        }
    }
}
