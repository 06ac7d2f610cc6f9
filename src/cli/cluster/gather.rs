//! A COPY of what a cluster computes: its rows come to the client, which writes them as it always does,
//! whole or not at all.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion_ches::ches_udfs::ChesSettings;
use futures::TryStreamExt;

use super::planner::Planner;

/// Where the rows of a COPY are written that a cluster computes.
pub(crate) struct Local {
    /// A session of this process.
    pub session: SessionContext,
    /// What plans the cluster's queries.
    pub planner: Arc<Planner>,
}

impl Local {
    /// Takes over what has been set in the cluster's session.
    pub(crate) fn follow(&self, cluster: &SessionContext) {
        let config = cluster.copied_config();
        let settings = self.planner.own(&ChesSettings::of(config.options()));
        let state = self.session.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        options.extensions.insert(settings);
        options.execution.parquet = config.options().execution.parquet.clone();
    }
}

/// The same plan, with the rows of a COPY computed by a cluster's session.
///
/// # Errors
/// When the query cannot be planned.
pub(crate) async fn gathered(cluster: &SessionContext, plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut input = None;
    plan.apply(|node| {
        if let LogicalPlan::Copy(copy) = node {
            input = Some(LogicalPlan::clone(&copy.input));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let Some(input) = input else {
        return Ok(plan);
    };
    let frame = cluster.execute_logical_plan(input).await?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let rows = Rows {
        plan: frame.create_physical_plan().await?,
        schema: Arc::clone(&schema),
        context: cluster.task_ctx(),
    };
    let table = StreamingTable::try_new(schema, vec![Arc::new(rows)])?;
    let source = provider_as_source(Arc::new(table));
    let scan = LogicalPlanBuilder::scan("cluster", source, None)?.build()?;
    let scan = Arc::new(scan);
    let plan = plan.transform_down(|node| {
        Ok(match node {
            LogicalPlan::Copy(copy) => Transformed::yes(LogicalPlan::Copy(CopyTo {
                input: Arc::clone(&scan),
                ..copy
            })),
            other => Transformed::no(other),
        })
    })?;
    Ok(plan.data)
}

/// What a cluster answers.
#[derive(Debug)]
struct Rows {
    plan: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    /// The cluster's session's, whose settings travel.
    context: Arc<TaskContext>,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (plan, context) = (Arc::clone(&self.plan), Arc::clone(&self.context));
        let schema = Arc::clone(&self.schema);
        let of_schema = move |batch: datafusion::arrow::array::RecordBatch| {
            // Executors do not know what the client says of columns.
            Ok(batch.with_schema(Arc::clone(&schema))?)
        };
        let rows = futures::stream::once(async move { execute_stream(plan, context) });
        let rows = rows
            .try_flatten()
            .and_then(move |batch| std::future::ready(of_schema(batch)));
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            rows,
        ))
    }
}
