//! Watching plans that score: how far they are, and what they came to.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::utils::quote_identifier;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion_ches::ches_udfs::ScoreExec;

use super::scores::Scores;

/// The plans of a session that score. As the last physical optimizer rule it sees every plan that is
/// executed, and changes none.
#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the statement that runs.
    plans: Vec<Arc<dyn ExecutionPlan>>,
    /// Of the statements before.
    done: Option<Scores>,
    /// How many these are.
    statements: usize,
    /// The table that the running statement reads, as it stands in SQL, with its columns, if it is one.
    source: Option<(String, Vec<String>)>,
    /// Why rows failed in the last statement before in which some did.
    failed: Option<String>,
}

impl State {
    fn scores(&self) -> Option<Scores> {
        let of_plans = self.plans.iter().filter_map(Scores::of);
        self.done
            .into_iter()
            .chain(of_plans)
            .reduce(|mut sum, more| {
                sum.add(&more);
                sum
            })
    }

    /// Why rows failed, and the query that lists them.
    fn failed(&self) -> Option<String> {
        let mut reasons = String::new();
        let mut query = None;
        for plan in &self.plans {
            let _ = plan.apply(|node| {
                if let Some(scoring) = node.downcast_ref::<ScoreExec>() {
                    reasons = scoring.failures().commonest();
                    let calls = scoring.pair_columns();
                    query = query
                        .take()
                        .or_else(|| self.query(calls.first()?.as_ref()?));
                }
                Ok(TreeNodeRecursion::Continue)
            });
            if !reasons.is_empty() {
                break;
            }
        }
        if reasons.is_empty() {
            return self.failed.clone();
        }
        let listed = query.map(|query| format!("; {query} lists such rows and computes nothing"));
        Some(format!("failed: {reasons}{}", listed.unwrap_or_default()))
    }

    /// Lists the rows of the statement's table that fail for these texts.
    fn query(&self, texts: &[String]) -> Option<String> {
        let (table, columns) = self.source.as_ref()?;
        if !texts.iter().all(|text| columns.contains(text)) {
            return None;
        }
        let texts: Vec<_> = texts.iter().map(|text| quote_identifier(text)).collect();
        let error = format!("preference_scores({})['error']", texts.join(", "));
        Some(format!(
            "SELECT *, {error} AS error FROM {table} WHERE {error} IS NOT NULL"
        ))
    }
}

/// The table that a plan reads, as it stands in SQL, with its columns; None if there are several.
fn source(plan: &LogicalPlan) -> Option<(String, Vec<String>)> {
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let name = scan.table_name.table();
            let is_path = name.contains(['/', '.', '*', '{', ' ']);
            let name = match is_path {
                true => format!("'{}'", name.replace('\'', "''")),
                false => scan.table_name.to_quoted_string(),
            };
            let fields = scan.source.schema();
            let columns = fields.fields().iter().map(|field| field.name().clone());
            let table = (name, columns.collect());
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.ok()?;
    match tables.len() {
        1 => tables.pop(),
        _ => None,
    }
}

impl Watch {
    /// A statement ended, its plans are released, and one with this plan begins.
    pub(super) fn statement_begins(&self, plan: &LogicalPlan) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done = state.scores();
        state.failed = state.failed();
        state.plans.clear();
        state.statements += 1;
        state.source = source(plan);
    }

    /// Why rows failed, and the query that lists them; None where none did.
    pub(super) fn failed(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed()
    }

    /// What scoring came to in all statements; none if nothing was scored.
    pub(super) fn scores(&self) -> Option<Scores> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.scores()
    }

    /// Counts statements.
    pub(super) fn statement(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.statements
    }

    /// How many rows the running statement is likely to score: as many of the rows of its tables as of
    /// those that were read so far. None where tables do not tell how many they have.
    pub(super) fn expected_rows(&self) -> Option<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut expected = 0.0;
        for plan in &state.plans {
            let mut is_known = true;
            let visited = plan.apply(|node| {
                if node.downcast_ref::<ScoreExec>().is_some() {
                    match expected_below(node) {
                        Some(rows) => expected += rows,
                        None => is_known = false,
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            });
            if visited.is_err() || !is_known {
                return None;
            }
        }
        Some(expected as u64)
    }
}

fn output_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<f64> {
    Some(plan.metrics()?.output_rows()? as f64)
}

fn expected_below(scoring: &Arc<dyn ExecutionPlan>) -> Option<f64> {
    let input = Arc::clone(scoring.children().into_iter().next()?);
    let (mut all, mut read) = (0.0, 0.0);
    let mut is_known = true;
    let visited = input.apply(|node| {
        if node.children().is_empty() {
            let statistics = StatisticsContext::new();
            let rows = statistics
                .compute(node.as_ref(), &StatisticsArgs::new())
                .ok();
            let rows = rows.and_then(|of| of.num_rows.get_value().copied());
            match (rows, node.metrics()) {
                (Some(rows), Some(metrics)) => {
                    all += rows as f64;
                    let pruned = metrics.sum_by_name("pushdown_rows_pruned");
                    let pruned = pruned.map_or(0, |of| of.as_usize());
                    read += (metrics.output_rows().unwrap_or(0) + pruned) as f64;
                }
                _ => is_known = false,
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let came = output_rows(&input)?;
    (visited.is_ok() && is_known && read > 0.0).then(|| (all * came / read).max(came))
}

/// The rule.
#[derive(Debug)]
pub(super) struct WatchPlans(pub Arc<Watch>);

impl PhysicalOptimizerRule for WatchPlans {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if Scores::of(&plan).is_some() {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.plans.push(Arc::clone(&plan));
        }
        Ok(plan)
    }

    fn name(&self) -> &str {
        "ches_watch_plans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
