//! The session as the statement loop sees it: a `COPY` goes through [`output`](super::output), and what a
//! plan shows holds no secret.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{DdlStatement, Explain, LogicalPlan, PlanType, ToStringifiedPlan};
use datafusion::prelude::SessionContext;
use datafusion_ches::ModelScorer;
use datafusion_cli::cli_context::CliSessionContext;
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;
use object_store::ObjectStore;
use url::Url;

#[cfg(feature = "cluster")]
use super::cluster::gather::{Local, gathered};
#[cfg(feature = "delta")]
use super::delta::at_one_version;
use super::output::names::compressed_by_name;
use super::output::{self, Cleanup, Origin};
use super::watch::Watch;
use datafusion_ches::tables::refuse_account;

/// What is shown of a secret.
const HIDDEN: &str = "***";

/// A session of the command.
pub(super) struct Context {
    /// The session.
    pub session: SessionContext,
    /// On this machine, where that one's queries run on a cluster.
    #[cfg(feature = "cluster")]
    pub local: Option<Local>,
    /// What computes its scores.
    pub scorer: Arc<ModelScorer>,
    /// Where it reads and writes.
    pub stores: Arc<InstrumentedObjectStoreRegistry>,
    /// What its plans come to.
    pub watch: Arc<Watch>,
    /// Runs that were dropped.
    pub clearing: Cleanup,
}

#[async_trait]
impl CliSessionContext for Context {
    fn task_ctx(&self) -> Arc<TaskContext> {
        self.session.task_ctx()
    }

    fn session_state(&self) -> SessionState {
        self.session.state()
    }

    fn register_object_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        self.session.register_object_store(url, store)
    }

    fn register_table_options_extension_from_scheme(&self, scheme: &str) {
        CliSessionContext::register_table_options_extension_from_scheme(&self.session, scheme);
    }

    async fn execute_logical_plan(&self, plan: LogicalPlan) -> Result<DataFrame> {
        self.watch.statement_begins(&plan);
        refuse_accounts(&plan)?;
        #[cfg(feature = "delta")]
        let plan = at_one_version(&self.session, plan).await?;
        if output::is_copy(&plan) {
            let plan = compressed_by_name(&self.session.state(), plan)?;
            #[cfg(feature = "cluster")]
            if let Some(local) = &self.local {
                local.follow(&self.session);
                let plan = gathered(&self.session, plan).await?;
                let origin = Origin::Elsewhere(&*local.planner);
                return output::copy(&local.session, plan, origin, &self.clearing).await;
            }
            let origin = Origin::Plan(&*self.scorer);
            return output::copy(&self.session, plan, origin, &self.clearing).await;
        }
        let plan = match plan {
            LogicalPlan::Explain(explain) => without_secrets(explain)?,
            other => other,
        };
        self.session.execute_logical_plan(plan).await
    }
}

/// Refuses places with a user or a password, before anything shows them.
fn refuse_accounts(plan: &LogicalPlan) -> Result<()> {
    let visited = plan.apply(|node| {
        match node {
            LogicalPlan::Copy(copy) => refuse_account(&copy.output_url)?,
            LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) => {
                let mut places = table.locations.iter();
                places.try_for_each(|place| refuse_account(place))?;
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map(drop)
}

/// The same explanation, with accounts' options hidden.
fn without_secrets(explain: Explain) -> Result<LogicalPlan> {
    let plan = Arc::unwrap_or_clone(explain.plan);
    let plan = plan.transform_down(|node| {
        Ok(match node {
            LogicalPlan::Copy(mut copy) => {
                for (key, value) in &mut copy.options {
                    if output::is_of_an_account(key) {
                        *value = HIDDEN.to_owned();
                    }
                }
                Transformed::yes(LogicalPlan::Copy(copy))
            }
            other => Transformed::no(other),
        })
    })?;
    let plan = Arc::new(plan.data);
    Ok(LogicalPlan::Explain(Explain {
        stringified_plans: vec![plan.to_stringified(PlanType::InitialLogicalPlan)],
        plan,
        ..explain
    }))
}
