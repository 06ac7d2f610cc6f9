//! Making a session speak CHES.

use std::sync::Arc;

use ches_udfs::{ChesSettings, ModelDtype, OnError, PromptFormat, Scorer};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use crate::scoring::scorer::ModelScorer;

/// Adds the CHES functions and the `ches.*` settings to a session. The model and everything
/// else then come from `SET ches.<key> = …`.
///
/// # Errors
/// When the session refuses a function.
pub fn register(ctx: &SessionContext) -> Result<()> {
    Ches::new().register(ctx)
}

/// What a session starts with: settings, and what computes the scores.
///
/// One value may be registered with many sessions; they then share the model.
#[derive(Debug, Clone)]
pub struct Ches {
    settings: ChesSettings,
    scorer: Arc<dyn Scorer>,
}

impl Default for Ches {
    fn default() -> Self {
        Self::new()
    }
}

impl Ches {
    /// The defaults: no model yet, computed by candle.
    pub fn new() -> Self {
        Self {
            settings: ChesSettings::default(),
            scorer: Arc::new(ModelScorer::new()),
        }
    }

    /// Scores are computed by this instead, such as an inference engine of one's own.
    pub fn with_scorer(mut self, scorer: Arc<dyn Scorer>) -> Self {
        self.scorer = scorer;
        self
    }

    /// What computes the scores, for a host that takes the parts of a [`ches_udfs::SessionExtension`] one by
    /// one.
    pub fn scorer(&self) -> Arc<dyn Scorer> {
        Arc::clone(&self.scorer)
    }

    /// Where the model is (`ches.model`).
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.settings.model = Some(model.into());
        self
    }

    /// Jinja text or a file of it, instead of the model's own (`ches.chat_template`).
    pub fn with_chat_template(mut self, template: impl Into<String>) -> Self {
        self.settings.chat_template = Some(template.into());
        self
    }

    /// `auto`, `cpu`, `cuda` or `cuda:<n>[,<n>…]` (`ches.device`).
    ///
    /// # Errors
    /// When it is none of these.
    pub fn with_device(self, device: &str) -> Result<Self> {
        self.with_setting("device", device)
    }

    /// What weights are, and on a GPU what is multiplied with them (`ches.dtype`).
    pub fn with_dtype(mut self, dtype: ModelDtype) -> Self {
        self.settings.dtype = dtype;
        self
    }

    /// Tokens of prompt + response that are kept (`ches.max_length`).
    pub fn with_max_length(mut self, tokens: usize) -> Self {
        self.settings.max_length = tokens;
        self
    }

    /// Chat or raw (`ches.prompt_format`).
    pub fn with_prompt_format(mut self, format: PromptFormat) -> Self {
        self.settings.prompt_format = format;
        self
    }

    /// Tokens that one forward pass computes at most (`ches.batch_tokens`).
    pub fn with_batch_tokens(mut self, tokens: usize) -> Self {
        self.settings.batch_tokens = tokens;
        self
    }

    /// What a row error does (`ches.on_error`).
    pub fn with_on_error(mut self, on_error: OnError) -> Self {
        self.settings.on_error = on_error;
        self
    }

    /// Bytes of scores that are kept in this process (`ches.memo_bytes`); 0 keeps none.
    pub fn with_memo_bytes(mut self, bytes: usize) -> Self {
        self.settings.memo_bytes = bytes;
        self
    }

    /// URL or path of a directory of scores that outlives the process (`ches.cache`).
    ///
    /// # Errors
    /// When it is a URL with user, password or query.
    pub fn with_cache(self, place: &str) -> Result<Self> {
        self.with_setting("cache", place)
    }

    /// Bytes for the activations of one forward pass (`ches.memory_limit`).
    pub fn with_memory_limit(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = bytes;
        self
    }

    /// The most tokens that `gaining` and `losing` hold (`ches.top_tokens`).
    pub fn with_top_tokens(mut self, tokens: usize) -> Self {
        self.settings.top_tokens = tokens;
        self
    }

    /// By how much `displacement_simulated` moves every weight (`ches.learning_rate`).
    ///
    /// # Errors
    /// When it is not above 0 and at most 1.
    pub fn with_learning_rate(self, rate: f64) -> Result<Self> {
        self.with_setting("learning_rate", &rate.to_string())
    }

    /// Any setting by its key, without the prefix `ches.`.
    ///
    /// # Errors
    /// When there is no such key, or it does not accept the value.
    pub fn with_setting(mut self, key: &str, value: &str) -> Result<Self> {
        self.settings.set_key(key, value)?;
        Ok(self)
    }

    /// What sessions start with, for a host that takes the parts one by one.
    pub fn settings(&self) -> &ChesSettings {
        &self.settings
    }

    /// Adds functions and settings to a session.
    ///
    /// # Errors
    /// When the session refuses a function.
    pub fn register(&self, ctx: &SessionContext) -> Result<()> {
        ches_udfs::register(ctx, Arc::clone(&self.scorer), self.settings.clone())
    }
}
