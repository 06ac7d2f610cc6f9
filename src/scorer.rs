//! The model's side of the door: a [`Scorer`] that runs language models by candle.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ches_udfs::{
    Argument, ChesSettings, Job, Needs, PairScores, PreferencePair, PromptFormat, PromptedResponse,
    ResponseEmbedding, ResponseScores, RowError, Scorer, ScorerError, Text,
};

use crate::chat_template::{ChatTemplate, MAX_TEMPLATE_BYTES, STACK_BYTES};
use crate::device;
use crate::engine::{Cancelled, Embedding, Engine, Group};
use crate::format::Format;
use crate::memo::{Key, Memo, ModelScores, Similarities};
use crate::model::{Identity, Model};
use crate::observer::{Nobody, Observer};
use crate::open_models;
use crate::places;
use crate::score;
use crate::sequence::{Encoder, EncodingError, Sequence};

/// Rows that are tokenized and scored together, between two looks at whether anybody still
/// waits.
const ROWS_AT_ONCE: usize = 64;

/// A preference pair as the model is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPair {
    /// The prompt's text.
    pub prompt_text: String,
    /// The texts of the prompt with the chosen and with the rejected response.
    pub texts: [String; 2],
    /// Length of the prompt's own tokens.
    pub prompt_tokens: usize,
    /// The token ids of the two texts, cut to the longest length.
    pub ids: [Vec<u32>; 2],
    /// The token that ends a response, if it is known.
    pub end_token: Option<u32>,
}

/// Scores by the model that `ches.model` names, which is opened on first use and kept until
/// another one is asked for.
#[derive(Debug)]
pub struct ModelScorer {
    model: Arc<Mutex<Option<Arc<Model>>>>,
    memo: Arc<Memo>,
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
            observer: Arc::new(Nobody),
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
        let observer = Arc::clone(&self.observer);
        let job = job.clone();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let work = move || {
            let run = Run::new(&slot, &memo, &job, &cancelled, &*observer)?;
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
    /// template's text, or `none` in raw format; `ches.max_length`; `ches.version` of this crate.
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
                let entries = [
                    ("model", model.fingerprint().to_owned()),
                    ("dtype", model.dtype().as_str().to_owned()),
                    ("template", template.map_or_else(|| "none".into(), hash)),
                    ("max_length", settings.max_length.to_string()),
                    ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ];
                let entry = |(key, value)| (format!("ches.{key}"), value);
                Ok::<_, ScorerError>(entries.map(entry).into())
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

type RowResult<S> = Result<S, RowError>;

fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> ScorerError {
    ScorerError::Other(error.into())
}

fn setting(key: &'static str, reason: impl Into<String>) -> ScorerError {
    ScorerError::Setting {
        key,
        reason: reason.into(),
    }
}

/// A model under the settings and needs of one call.
struct Run<'a> {
    model: Arc<Model>,
    memo: &'a Memo,
    format: Format,
    max_length: usize,
    job: &'a Job,
    cancelled: &'a AtomicBool,
    observer: &'a dyn Observer,
}

impl<'a> Run<'a> {
    fn new(
        slot: &Mutex<Option<Arc<Model>>>,
        memo: &'a Memo,
        job: &'a Job,
        cancelled: &'a AtomicBool,
        observer: &'a dyn Observer,
    ) -> Result<Self, ScorerError> {
        let settings = &job.settings;
        let model = open_model(slot, settings)?;
        let limit = model.config().max_positions;
        let max_length = match settings.max_length {
            0 => limit,
            length if length <= limit => length,
            length => {
                return Err(setting(
                    "max_length",
                    format!("{length} is above the model's limit of {limit} tokens"),
                ));
            }
        };
        Ok(Self {
            format: format(&model, settings)?,
            model,
            memo,
            max_length,
            job,
            cancelled,
            observer,
        })
    }

    fn pairs(&self, rows: &[PreferencePair]) -> Result<Vec<RowResult<PairScores>>, ScorerError> {
        let arguments = [Argument::Chosen, Argument::Rejected];
        let encoded = rows
            .iter()
            .map(|pair| self.encode(&pair.prompt, [&pair.chosen, &pair.rejected], arguments));
        self.score(encoded.collect(), pair_model_scores, |row, scores| {
            pair_scores(self.job.needs, row, scores)
        })
    }

    fn responses(
        &self,
        rows: &[PromptedResponse],
    ) -> Result<Vec<RowResult<ResponseScores>>, ScorerError> {
        let encoded = rows
            .iter()
            .map(|row| self.encode(&row.prompt, [&row.response], [Argument::Response]));
        self.score(encoded.collect(), response_model_scores, response_scores)
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder {
            tokenizer: &self.model.tokenizer,
            format: &self.format,
            max_length: self.max_length,
        }
    }

    fn show(&self, pair: &PreferencePair) -> RowResult<EncodedPair> {
        let encoder = self.encoder();
        let error = row_error([Argument::Chosen, Argument::Rejected]);
        let rendered = encoder
            .render(&pair.prompt, &[&pair.chosen, &pair.rejected])
            .map_err(error)?;
        let sequences = encoder.tokenize(&rendered).map_err(error)?;
        Ok(EncodedPair {
            texts: [0, 1].map(|at| format!("{}{}", rendered.prompt, rendered.responses[at])),
            prompt_text: rendered.prompt,
            prompt_tokens: sequences[0].prompt_tokens,
            ids: [0, 1].map(|at| sequences[at].ids.clone()),
            end_token: self.format.end_token(&self.model.tokenizer).ok(),
        })
    }

    fn encode<const N: usize>(
        &self,
        prompt: &Text,
        responses: [&Text; N],
        arguments: [Argument; N],
    ) -> RowResult<Encoded> {
        let sequences = self
            .encoder()
            .encode(prompt, &responses)
            .map_err(row_error(arguments))?;
        let no_score = sequences
            .iter()
            .zip(arguments)
            .find_map(|(sequence, argument)| {
                sequence.no_score(&argument.to_string(), self.max_length)
            });
        Ok(Encoded {
            sequences,
            no_score,
        })
    }

    /// Runs the model over the rows that need it and that nobody ran it over before. `keep` is
    /// what is kept of a row's embeddings, `finish` makes its scores of that.
    fn score<S>(
        &self,
        rows: Vec<RowResult<Encoded>>,
        keep: impl Fn(&Encoded, &[Embedding], Needs) -> RowResult<ModelScores>,
        finish: impl Fn(&Encoded, Option<ModelScores>) -> RowResult<S>,
    ) -> Result<Vec<RowResult<S>>, ScorerError> {
        let needs = self.job.needs;
        let metrics = &self.job.metrics;
        for row in rows.iter().flatten() {
            metrics.tokens.add(tokens(&row.sequences));
            let is_truncated = row.sequences.iter().any(|sequence| sequence.truncated);
            metrics.truncated_rows.add(is_truncated.into());
        }
        let runs_model = |row: &Encoded| needs.intersects(Needs::MODEL) && row.no_score.is_none();
        let running: Vec<&Encoded> = rows
            .iter()
            .flatten()
            .filter(|row| runs_model(row))
            .collect();
        let compute = |rows: &[&Encoded]| {
            let long_from = self.model.config().long_from();
            let groups = rows
                .iter()
                .map(|row| Group::new(row.sequences.clone(), long_from));
            let embeddings = self.embeddings(&groups.collect::<Vec<_>>())?;
            let kept = rows.iter().zip(embeddings).map(|(row, embeddings)| {
                let embeddings =
                    embeddings.map_err(|error| RowError::of_row(format!("the model: {error}")))?;
                keep(row, &embeddings, needs)
            });
            Ok::<Vec<_>, ScorerError>(kept.collect())
        };
        let scores = match self.job.settings.memo_bytes {
            0 => compute(&running)?,
            most_bytes => {
                let end_token = self.format.end_token(&self.model.tokenizer).ok();
                let (fingerprint, dtype) = (self.model.fingerprint(), self.model.dtype());
                let of_model = format!("{fingerprint} {}", dtype.as_str());
                let key = |row: &&Encoded| Key::new(&of_model, end_token, &row.sequences);
                let keys: Vec<Key> = running.iter().map(key).collect();
                let (scores, remembered) = self.memo.scores(
                    &keys,
                    needs,
                    most_bytes,
                    self.cancelled,
                    || other(Cancelled),
                    |at| compute(&at.iter().map(|at| running[*at]).collect::<Vec<_>>()),
                )?;
                metrics.memo_hits.add(remembered);
                self.observer.remembered(remembered);
                scores
            }
        };
        let mut scores = scores.into_iter();
        let finished = rows.iter().map(|row| {
            let row = row.as_ref().map_err(RowError::clone)?;
            let scores = runs_model(row).then(|| scores.next()).flatten();
            if scores.is_none() {
                self.observer.scored(1, tokens(&row.sequences));
            }
            finish(row, scores.transpose()?)
        });
        Ok(finished.collect())
    }

    fn embeddings(
        &self,
        groups: &[Group],
    ) -> Result<Vec<candle_core::Result<Vec<Embedding>>>, ScorerError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(other(Cancelled));
        }
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let decoder = self.model.decoder();
        let decoder = decoder.map_err(|error| setting("model", error.to_string()))?;
        let end_token = if self.job.needs.contains(Needs::LOG_PROBS) {
            let end = self.format.end_token(&self.model.tokenizer);
            Some(end.map_err(|reason| setting("model", reason))?)
        } else {
            None
        };
        let engine = Engine {
            decoder: &decoder,
            end_token,
            cancelled: self.cancelled,
            finished: &|group: &Group| self.observer.scored(1, tokens(&group.sequences)),
        };
        let run = || {
            let _timer = self.job.metrics.model_time.timer();
            engine.run(groups)
        };
        self.model.exclusively(run).map_err(other)
    }
}

fn tokens(sequences: &[Sequence]) -> usize {
    sequences.iter().map(|sequence| sequence.ids.len()).sum()
}

/// The row error of an encoding error whose responses are these arguments.
fn row_error<const N: usize>(
    arguments: [Argument; N],
) -> impl Fn(EncodingError) -> RowError + Copy {
    move |(at, reason)| RowError::of(at.map_or(Argument::Prompt, |at| arguments[at]), reason)
}

/// A row's token sequences, one for each response.
struct Encoded {
    sequences: Vec<Sequence>,
    no_score: Option<String>,
}

fn pair_model_scores(
    _row: &Encoded,
    embeddings: &[Embedding],
    _needs: Needs,
) -> RowResult<ModelScores> {
    let [chosen, rejected] = embeddings else {
        return Err(RowError::of_row("a pair has two sequences"));
    };
    let log_probs = match (chosen.log_prob, rejected.log_prob) {
        (Some(chosen), Some(rejected)) => Some([finite(chosen)?, finite(rejected)?]),
        _ => None,
    };
    Ok(ModelScores {
        similarities: Some(Similarities {
            ches: finite(score::ches(chosen, rejected))?,
            ches_normalized: finite(score::ches_normalized(chosen, rejected))?,
            last_hidden: finite(score::last_hidden_similarity(chosen, rejected))?,
        }),
        log_probs,
        embedding: None,
    })
}

fn pair_scores(needs: Needs, row: &Encoded, model: Option<ModelScores>) -> RowResult<PairScores> {
    let [chosen, rejected] = &row.sequences[..] else {
        return Err(RowError::of_row("a pair has two sequences"));
    };
    let count = |tokens: usize| i32::try_from(tokens).ok();
    let mut scores = PairScores {
        prompt_tokens: count(chosen.prompt_tokens),
        chosen_tokens: count(chosen.response().len()),
        rejected_tokens: count(rejected.response().len()),
        truncated: Some(chosen.truncated || rejected.truncated),
        no_score: row.no_score.clone(),
        ..PairScores::default()
    };
    if row.no_score.is_some() {
        return Ok(scores);
    }
    if needs.contains(Needs::EDIT_DISTANCE) {
        let distance = score::normalized_edit_distance(chosen.response(), rejected.response());
        scores.normalized_edit_distance = Some(finite(distance)?);
    }
    let model = model.unwrap_or_default();
    if let Some(similarities) = model.similarities {
        scores.ches = Some(similarities.ches);
        scores.ches_normalized = Some(similarities.ches_normalized);
        scores.last_hidden_similarity = Some(similarities.last_hidden);
    }
    if let Some([chosen, rejected]) = model.log_probs {
        scores.chosen_logprob = Some(chosen);
        scores.rejected_logprob = Some(rejected);
    }
    Ok(scores)
}

fn response_model_scores(
    row: &Encoded,
    embeddings: &[Embedding],
    needs: Needs,
) -> RowResult<ModelScores> {
    let ([embedding], [sequence]) = (embeddings, &row.sequences[..]) else {
        return Err(RowError::of_row("a response has one sequence"));
    };
    let log_prob = embedding.log_prob.map(finite).transpose()?;
    let embedding = if needs.contains(Needs::EMBEDDINGS) {
        Some(Arc::new(response_embedding(sequence, embedding)?))
    } else {
        None
    };
    Ok(ModelScores {
        similarities: None,
        log_probs: log_prob.map(|log_prob| [log_prob, 0.0]),
        embedding,
    })
}

fn response_scores(row: &Encoded, model: Option<ModelScores>) -> RowResult<ResponseScores> {
    let model = model.unwrap_or_default();
    Ok(ResponseScores {
        log_prob: model.log_probs.map(|[log_prob, _]| log_prob),
        embedding: model.embedding.map(Arc::unwrap_or_clone),
        no_score: row.no_score.clone(),
    })
}

fn response_embedding(sequence: &Sequence, embedding: &Embedding) -> RowResult<ResponseEmbedding> {
    let sum: Vec<f32> = embedding.sum.iter().map(|value| *value as f32).collect();
    if let Some(value) = sum.iter().chain(&embedding.last).find(|v| !v.is_finite()) {
        return Err(RowError::of_row(format!(
            "the model's hidden states hold {value}"
        )));
    }
    Ok(ResponseEmbedding {
        sum,
        last: embedding.last.clone(),
        tokens: i32::try_from(sequence.response().len()).unwrap_or(i32::MAX),
    })
}

fn finite(score: f64) -> RowResult<f64> {
    if score.is_finite() {
        Ok(score)
    } else {
        Err(RowError::of_row(format!(
            "the model's hidden states give a score of {score}"
        )))
    }
}

fn open_model(
    slot: &Mutex<Option<Arc<Model>>>,
    settings: &ChesSettings,
) -> Result<Arc<Model>, ScorerError> {
    let Some(place) = &settings.model else {
        return Err(setting(
            "model",
            "not set; SET ches.model = '<path>' to a model directory, a .gguf file or a URL, or give --model",
        ));
    };
    let of_model = |error: crate::ModelError| setting("model", error.to_string());
    let path = places::local(place).map_err(of_model)?;
    let identity = Identity::of(&path, &settings.device, settings.dtype);
    let identity = identity.map_err(of_model)?;
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = slot.as_ref().filter(|model| model.identity == identity) {
        return Ok(Arc::clone(model));
    }
    // The old model goes before the new one comes, unless a query still uses it.
    *slot = None;
    let target = device::target(&settings.device, settings.dtype);
    let target = target.map_err(|reason| setting("device", reason))?;
    let model = open_models::get(identity, target).map_err(of_model)?;
    *slot = Some(Arc::clone(&model));
    Ok(model)
}

/// The Jinja text that conversations are rendered by, if any.
fn template_in_effect(
    model: &Model,
    settings: &ChesSettings,
) -> Result<Option<String>, ScorerError> {
    let overriding = settings.chat_template.as_deref().map(template_source);
    let overriding = overriding.transpose()?;
    Ok(match settings.prompt_format {
        PromptFormat::Raw => None,
        _ => overriding.or_else(|| model.chat_template.clone()),
    })
}

fn format(model: &Model, settings: &ChesSettings) -> Result<Format, ScorerError> {
    let Some(source) = template_in_effect(model, settings)? else {
        if settings.prompt_format == PromptFormat::Chat {
            return Err(setting(
                "prompt_format",
                "'chat' needs a chat template and the model has none; set ches.chat_template",
            ));
        }
        return Ok(Format::Raw);
    };
    let tokenizer = &model.tokenizer;
    let ends = tokenizer.ends();
    let template = ChatTemplate::new(&source, ends.bos_text.clone(), ends.eos_text.clone())
        .map_err(|reason| match settings.chat_template {
            Some(_) => setting("chat_template", reason),
            None => setting("model", reason),
        })?;
    Ok(Format::chat(template, tokenizer))
}

/// The Jinja text of a `ches.chat_template` value, which may be the path of a file.
fn template_source(value: &str) -> Result<String, ScorerError> {
    if value.contains("{{") || value.contains("{%") {
        return Ok(value.to_owned());
    }
    let refuse = |reason: String| {
        let reason = format!("'{value}' is no Jinja text, and as a file: {reason}");
        setting("chat_template", reason)
    };
    let metadata = std::fs::metadata(value).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_TEMPLATE_BYTES as u64 {
        return Err(refuse(format!(
            "not a regular file of at most {MAX_TEMPLATE_BYTES} bytes"
        )));
    }
    std::fs::read_to_string(value).map_err(|error| refuse(error.to_string()))
}
