//! The model's side of the door: a [`Scorer`] that runs language models by candle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ches_udfs::{
    ChesSettings, Job, Needs, PairScores, PreferencePair, PromptedResponse, ResponseScores,
    RowError, Scorer, ScorerError,
};

use crate::models::model::Model;
use crate::scoring::encoded_pair::EncodedPair;
use crate::scoring::from_settings::{open_model, other, template_in_effect};
use crate::scoring::memo::Memo;
use crate::scoring::observer::{NoopObserver, Observer};
use crate::scoring::run::{RowResult, Run};
use crate::scoring::score_cache::ScoreCache;
use crate::texts::chat_template::STACK_BYTES;

/// Rows that are tokenized before the first of them is scored.
const ROWS_AT_ONCE: usize = 1024;

/// Scores by the model that `ches.model` names, which is opened on first use and kept until
/// another one is asked for.
#[derive(Debug)]
pub struct ModelScorer {
    model: Arc<Mutex<Option<Arc<Model>>>>,
    memo: Arc<Memo>,
    /// Open as long as no other is asked for.
    cache: Arc<Mutex<Option<Arc<ScoreCache>>>>,
    observer: Arc<dyn Observer>,
}

impl Default for ModelScorer {
    fn default() -> Self {
        Self::new()
    }
}

impl ModelScorer {
    /// A scorer without a model yet.
    pub fn new() -> Self {
        Self {
            model: Arc::default(),
            memo: Arc::default(),
            cache: Arc::default(),
            observer: Arc::new(NoopObserver),
        }
    }

    /// Tells `observer` what is done.
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// What the model is shown of preference pairs, to look at or to compare with what another
    /// tool makes of them. Runs no model.
    ///
    /// # Errors
    /// When the settings name no usable model; and for each row that cannot be rendered.
    pub async fn encode_pairs(
        &self,
        settings: &ChesSettings,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<EncodedPair, RowError>>, ScorerError> {
        let job = Job::new(settings.clone(), Needs::empty());
        self.run(&job, pairs, |run, rows| {
            Ok(rows.iter().map(|pair| run.show(pair)).collect())
        })
        .await
    }

    /// Scores rows on a thread of their own. Dropping the future stops them.
    async fn run<T: Send + 'static, S: Send + 'static>(
        &self,
        job: &Job,
        rows: Vec<T>,
        score: impl Fn(&Run, &[T]) -> Result<Vec<RowResult<S>>, ScorerError> + Send + 'static,
    ) -> Result<Vec<RowResult<S>>, ScorerError> {
        let call = Call::begin(&self.observer);
        let cancelled = Arc::clone(&call.cancelled);
        let slot = Arc::clone(&self.model);
        let memo = Arc::clone(&self.memo);
        let cache = Arc::clone(&self.cache);
        let observer = Arc::clone(&self.observer);
        let job = job.clone();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let work = move || {
            let run = Run::new(&slot, &memo, &cache, &job, &cancelled, &*observer)?;
            let mut results = Vec::with_capacity(rows.len());
            for rows in rows.chunks(ROWS_AT_ONCE) {
                results.extend(score(&run, rows)?);
            }
            Ok(results)
        };
        // A thread of its own for its stack, which chat templates may need.
        std::thread::Builder::new()
            .name("ches-scorer".into())
            .stack_size(STACK_BYTES)
            .spawn(move || answer.send(work()))
            .map_err(other)?;
        answered
            .await
            .map_err(|_| other("the scoring thread panicked"))?
    }
}

#[async_trait]
impl Scorer for ModelScorer {
    /// `ches.model`: the model's fingerprint; `ches.dtype`; `ches.template`: a hash of the chat
    /// template's text, or `none` in raw format; `ches.max_length`; `ches.version` of this crate;
    /// `ches.chat_template_kwargs` where they are set and a template is in effect.
    fn provenance(&self, settings: &ChesSettings) -> Vec<(String, String)> {
        let slot = Arc::clone(&self.model);
        let settings = settings.clone();
        // A thread of its own, so that no damaged model file ends the planner's.
        let opening = std::thread::Builder::new()
            .name("ches-provenance".into())
            .spawn(move || {
                let model = open_model(&slot, &settings)?;
                let template = template_in_effect(&model, &settings)?;
                let hash = |text: String| blake3::hash(text.as_bytes()).to_hex()[..32].to_owned();
                let kwargs = settings.chat_template_kwargs.clone();
                let kwargs = kwargs.filter(|_| template.is_some());
                let mut entries = vec![
                    ("model", model.fingerprint().to_owned()),
                    ("dtype", model.dtype().as_str().to_owned()),
                    ("template", template.map_or_else(|| "none".into(), hash)),
                    ("max_length", settings.max_length.to_string()),
                    ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ];
                entries.extend(kwargs.map(|kwargs| ("chat_template_kwargs", kwargs)));
                let entry = |(key, value)| (format!("ches.{key}"), value);
                Ok::<_, ScorerError>(entries.into_iter().map(entry).collect())
            });
        match opening.map(std::thread::JoinHandle::join) {
            Ok(Ok(Ok(entries))) => entries,
            _ => Vec::new(),
        }
    }

    async fn score_pairs(
        &self,
        job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        self.run(job, pairs, |run, rows| run.pairs(rows)).await
    }

    async fn score_responses(
        &self,
        job: &Job,
        responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        self.run(job, responses, |run, rows| run.responses(rows))
            .await
    }
}

/// A call that somebody waits for. Dropping it cancels the work.
struct Call {
    cancelled: Arc<AtomicBool>,
    observer: Arc<dyn Observer>,
}

impl Call {
    fn begin(observer: &Arc<dyn Observer>) -> Self {
        observer.began();
        Self {
            cancelled: Arc::default(),
            observer: Arc::clone(observer),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.observer.ended();
    }
}
