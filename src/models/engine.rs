//! What a model needs of the engine that has it compute, so that it knows nothing else of it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::Result;

use crate::models::group::{Group, GroupOutput};

/// A model on one device.
pub(crate) trait Replica: Debug + Send + Sync + 'static {
    /// One forward pass over all groups, and what each of them gives.
    ///
    /// # Errors
    /// When it fails for any of them.
    fn forward(&self, groups: &[&Group]) -> Result<Vec<GroupOutput>>;
}

/// What a group came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The group's number among those of its caller.
    pub number: usize,
    /// The group, given back.
    pub group: Group,
    /// What it gives.
    pub output: Result<GroupOutput>,
    /// Its share of the forward pass, by tokens.
    pub model_time: Duration,
}

/// The caller has gone, or the model's threads have ended.
#[derive(Debug, thiserror::Error)]
#[error("the query was dropped, or the model's threads have ended")]
pub(crate) struct Cancelled;

/// Has the replicas of one model compute what is asked of it.
pub(crate) trait Engine: Debug + Send + Sync {
    /// Has every group computed, in forward passes of up to `batch_tokens` tokens that it may share
    /// with those of other callers, and calls `answered` with each as it comes, in any order.
    ///
    /// # Errors
    /// Soon after it is cancelled; what still waited then is not computed.
    fn run(
        &self,
        groups: Vec<Group>,
        batch_tokens: usize,
        cancelled: &Arc<AtomicBool>,
        answered: &mut dyn FnMut(Answer),
    ) -> std::result::Result<(), Cancelled>;
}
