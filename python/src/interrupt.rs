//! Ctrl-C during a function that blocks.

use async_trait::async_trait;
use datafusion_ches::ModelScorer;
use datafusion_ches::ches_udfs::{
    Job, PairScores, PreferencePair, PromptedResponse, ResponseScores, RowError, Scorer,
    ScorerError,
};

/// A scorer whose calls block a thread of another DataFusion.
#[derive(Debug)]
pub struct Interruptible {
    scorer: ModelScorer,
}

impl Interruptible {
    pub fn new(scorer: ModelScorer) -> Self {
        Self { scorer }
    }
}

#[async_trait]
impl Scorer for Interruptible {
    fn provenance(
        &self,
        settings: &datafusion_ches::ChesSettings,
    ) -> Vec<(String, String)> {
        self.scorer.provenance(settings)
    }

    async fn score_pairs(
        &self,
        job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        self.scorer.score_pairs(job, pairs).await
    }

    async fn score_responses(
        &self,
        job: &Job,
        responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        self.scorer.score_responses(job, responses).await
    }
}
