//! In the place of a model where plans are only made: in schedulers and clients.

use async_trait::async_trait;
use datafusion_ches::ModelScorer;
use datafusion_ches::ches_udfs::{
    ChesSettings, Job, ModelDtype, PairScores, PreferencePair, PromptedResponse, ResponseScores,
    RowError, Scorer, ScorerError,
};

/// Computes nothing, and tells where the scores of executors come from, if it has a model to compare
/// theirs with.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    scorer: ModelScorer,
    model: Option<String>,
}

impl Planner {
    /// With the place of a model that this process can open.
    pub(crate) fn new(scorer: ModelScorer, model: Option<String>) -> Self {
        Self { scorer, model }
    }

    /// Settings of a query, with the model that they mean here.
    pub(crate) fn own(&self, settings: &ChesSettings) -> ChesSettings {
        let mut own = settings.clone();
        own.model.clone_from(&self.model);
        own
    }
}

fn elsewhere() -> ScorerError {
    ScorerError::Other("scores are computed by executors, and this process is none".into())
}

#[async_trait]
impl Scorer for Planner {
    /// As a [`ModelScorer`]'s, but for `ches.dtype` where each executor chooses it for its device.
    fn provenance(&self, settings: &ChesSettings) -> Vec<(String, String)> {
        if self.model.is_none() {
            return Vec::new();
        }
        let mut entries = self.scorer.provenance(&self.own(settings));
        entries.retain(|(key, _)| settings.dtype != ModelDtype::Auto || key != "ches.dtype");
        entries
    }

    async fn score_pairs(
        &self,
        _job: &Job,
        _pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        Err(elsewhere())
    }

    async fn score_responses(
        &self,
        _job: &Job,
        _responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        Err(elsewhere())
    }
}
