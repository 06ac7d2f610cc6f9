//! What is counted while rows are scored, for `EXPLAIN ANALYZE`.

use std::any::Any;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::metrics::{Count, Time};

/// Counters of one partition of a plan. Clones count together.
///
/// They reach a call as an extension of its `ConfigOptions`, since DataFusion gives a function
/// nothing else; it is no setting and never in a session's own options.
#[derive(Debug, Clone, Default)]
pub struct ScoreMetrics {
    /// Rows that were handed to the scorer. Counted by this crate.
    pub rows: Count,
    /// Time from handing rows to the scorer until their scores came. Measured by this crate.
    pub wait_time: Time,
    /// Tokens of prompts and responses, each response with its prompt. Counted by the scorer,
    /// as are the following.
    pub tokens: Count,
    /// Rows of which `ches.max_length` cut a response.
    pub truncated_rows: Count,
    /// Rows whose scores were remembered, or computed for somebody else at the same time.
    pub memo_hits: Count,
    /// Time that forward passes took.
    pub model_time: Time,
}

impl ConfigExtension for ScoreMetrics {
    const PREFIX: &'static str = "ches_metrics";
}

impl ExtensionOptions for ScoreMetrics {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _value: &str) -> Result<()> {
        Err(DataFusionError::Configuration(format!(
            "{key} is not a setting"
        )))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}
