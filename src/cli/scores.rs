//! What scoring came to: the sums of the counters of plans.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_ches::ches_udfs::ScoreExec;
use serde::{Deserialize, Serialize};

/// Counts of rows, each time that a row was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// With scores.
    pub scored: usize,
    /// With an error that `ches.on_error = 'null'` let through.
    pub failed: usize,
    /// Of which `ches.max_length` cut a response.
    pub truncated: usize,
    /// Without a score by definition.
    pub skipped: usize,
    /// Whose scores the cache had.
    pub cache_hits: usize,
    /// Whose scores the process remembered.
    pub memo_hits: usize,
    /// Tokens of prompts and responses that were computed.
    pub tokens: usize,
}

impl Scores {
    /// The counters of a plan so far; none if it scores nothing.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let mut scores = None;
        let visited = plan.apply(|node| {
            if node.downcast_ref::<ScoreExec>().is_some() {
                let metrics = node.metrics().unwrap_or_default();
                let count = |name: &str| metrics.sum_by_name(name).map_or(0, |of| of.as_usize());
                let of_node = Self {
                    scored: count("rows_scored"),
                    failed: count("failed_rows"),
                    truncated: count("truncated_rows"),
                    skipped: count("skipped_rows"),
                    cache_hits: count("cache_hits"),
                    memo_hits: count("memo_hits"),
                    tokens: count("tokens"),
                };
                scores.get_or_insert_with(Self::default).add(&of_node);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        visited.ok().and(scores)
    }

    /// Adds the counts of other plans.
    pub fn add(&mut self, more: &Self) {
        self.scored += more.scored;
        self.failed += more.failed;
        self.truncated += more.truncated;
        self.skipped += more.skipped;
        self.cache_hits += more.cache_hits;
        self.memo_hits += more.memo_hits;
        self.tokens += more.tokens;
    }
}
