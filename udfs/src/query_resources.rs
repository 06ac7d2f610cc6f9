//! What a running query lends to its scoring calls: counters for `EXPLAIN ANALYZE`, its memory, a tally of
//! likely mistakes, and one of failures.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_plan::metrics::{Count, Time};

use crate::failures::Failures;
use crate::likely_mistakes::Tally;

/// Counters of one partition of a plan. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct ScoreMetrics {
    /// Rows that have scores. Counted by this crate.
    pub rows: Count,
    /// Time from handing rows to the scorer until their scores came. Measured by this crate.
    pub wait_time: Time,
    /// Rows with an error that `ches.on_error = 'null'` let through. Counted by this crate.
    pub failed_rows: Count,
    /// Rows without a score by definition: a NULL among the texts, an empty response, a prompt that
    /// fills `ches.max_length`. Counted by this crate.
    pub skipped_rows: Count,
    /// Tokens that were computed: of prompts and responses, each response with its prompt. Counted by
    /// the scorer, as are the following.
    pub tokens: Count,
    /// Rows of which `ches.max_length` cut a response.
    pub truncated_rows: Count,
    /// Rows whose scores were remembered, or computed for somebody else at the same time.
    pub memo_hits: Count,
    /// Rows whose scores the cache had (`ches.cache`).
    pub cache_hits: Count,
    /// Time that forward passes took.
    pub model_time: Time,
}

/// The memory pool of a query, and what is taken from it for scoring: by all partitions of a plan
/// node together, until its last stream ends.
///
/// What a forward pass needs is taken once and kept, since a sort above may take whatever is free
/// in between and gives back only what it itself asks for.
#[derive(Debug)]
pub struct QueryMemory {
    pool: Arc<dyn MemoryPool>,
    taken: Mutex<MemoryReservation>,
}

impl QueryMemory {
    /// Nothing taken yet.
    pub fn new(pool: Arc<dyn MemoryPool>) -> Self {
        let taken = MemoryConsumer::new("ches activations").register(&pool);
        Self {
            pool,
            taken: Mutex::new(taken),
        }
    }

    /// The pool, for memory that outlives the query.
    pub fn pool(&self) -> &Arc<dyn MemoryPool> {
        &self.pool
    }

    /// Takes memory unless as much is taken already.
    ///
    /// # Errors
    /// When the pool has not enough; what was taken stays.
    pub fn take(&self, bytes: usize) -> Result<()> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes.checked_sub(taken.size()) {
            Some(missing) if missing > 0 => taken.try_grow(missing),
            _ => Ok(()),
        }
    }
}

/// The counters, the memory that what is computed for the query is accounted to, and the tallies of what
/// looks like a mistake and of what failed.
///
/// It reaches a call as an extension of its `ConfigOptions`, since DataFusion gives a function
/// nothing else; it is no setting and never in a session's own options.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueryResources {
    pub metrics: ScoreMetrics,
    pub memory: Option<Arc<QueryMemory>>,
    pub tally: Option<Arc<Tally>>,
    pub failures: Option<Arc<Failures>>,
}

impl ConfigExtension for QueryResources {
    const PREFIX: &'static str = "ches_query";
}

impl ExtensionOptions for QueryResources {
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
