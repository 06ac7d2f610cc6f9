//! One call of the scorer: its rows are rendered, tokenized, looked up, queued, and made scores of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ches_udfs::{
    Argument, Displacement, Job, Needs, PairScores, PreferencePair, PromptedResponse,
    ResponseEmbedding, ResponseScores, RowError, ScorerError, ShownPair, SimulatedDisplacement,
    TemplateVariables, Text, TokenChange, quoted,
};

use crate::decoder::{self, Predicted};
use crate::engine::budget::Budget;
use crate::engine::scheduler::Scheduler;
use crate::files::error::said;
use crate::models::engine::{Answer, Cancelled};
use crate::models::group::{Embedding, Group, GroupOutput};
use crate::models::model::Model;
use crate::scoring::encoded_pair::EncodedPair;
use crate::scoring::from_settings::{format, key_of_model, open_cache, open_model, other, setting};
use crate::scoring::memo::{Key, Memo, ModelScores, Similarities, Wanted};
use crate::scoring::observer::Observer;
use crate::scoring::score;
use crate::scoring::score_cache::{ScoreCache, Use as CacheUse};
use crate::texts::format::Format;
use crate::texts::sequence::{Encoder, EncodingError, Sequence};

/// The outcome of a row.
pub(super) type RowResult<S> = Result<S, RowError>;

/// A model under the settings and needs of one call.
pub(super) struct Run<'a> {
    model: Arc<Model>,
    memo: &'a Memo,
    cache: Option<CacheUse>,
    format: Format,
    max_length: usize,
    job: &'a Job,
    cancelled: &'a Arc<AtomicBool>,
    observer: &'a dyn Observer,
}

impl<'a> Run<'a> {
    /// Opens the model, unless it is the one in `slot`.
    pub(super) fn new(
        slot: &Mutex<Option<Arc<Model>>>,
        memo: &'a Memo,
        cache_slot: &Mutex<Option<Arc<ScoreCache>>>,
        job: &'a Job,
        cancelled: &'a Arc<AtomicBool>,
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
        let cache = open_cache(cache_slot, settings, &model)?;
        let pool = job.memory.as_ref().map(|memory| memory.pool());
        if let Some(pool) = pool {
            memo.account_to(pool);
        }
        Ok(Self {
            format: format(&model, settings)?,
            model,
            memo,
            cache: cache.map(|cache| cache.begin(pool)),
            max_length,
            job,
            cancelled,
            observer,
        })
    }

    /// Scores preference pairs.
    pub(super) fn pairs(
        &self,
        rows: &[PreferencePair],
    ) -> Result<Vec<RowResult<PairScores>>, ScorerError> {
        let arguments = [Argument::Chosen, Argument::Rejected];
        let encoded = self.encoded(rows, |pair| {
            let texts = [&pair.chosen, &pair.rejected];
            let mut encoded = self.encode(&pair.prompt, &pair.variables, texts, arguments)?;
            if self.job.needs.contains(Needs::TOKENS) {
                encoded.shown = Some(Box::new(self.shown(pair, &encoded.sequences)?));
            }
            Ok(encoded)
        })?;
        let learning_rate = self.job.settings.learning_rate;
        let keep = |_: &Encoded, output| pair_model_scores(output, learning_rate);
        self.score(encoded, keep, |row, scores| self.pair_scores(row, scores))
    }

    /// Scores prompted responses.
    pub(super) fn responses(
        &self,
        rows: &[PromptedResponse],
    ) -> Result<Vec<RowResult<ResponseScores>>, ScorerError> {
        let encoded = self.encoded(rows, |row| {
            self.encode(
                &row.prompt,
                &row.variables,
                [&row.response],
                [Argument::Response],
            )
        })?;
        let keep = |row: &Encoded, output| response_model_scores(row, output, self.job.needs);
        self.score(encoded, keep, response_scores)
    }

    /// Rows, tokenized, unless their caller has gone.
    fn encoded<T>(
        &self,
        rows: &[T],
        encode: impl Fn(&T) -> RowResult<Encoded>,
    ) -> Result<Vec<RowResult<Encoded>>, ScorerError> {
        let unless_cancelled = |row| match self.cancelled.load(Ordering::Relaxed) {
            true => Err(other(Cancelled)),
            false => Ok(encode(row)),
        };
        rows.iter().map(unless_cancelled).collect()
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder {
            tokenizer: &self.model.tokenizer,
            format: &self.format,
            max_length: self.max_length,
        }
    }

    /// What the model is shown of a pair.
    pub(super) fn show(&self, pair: &PreferencePair) -> RowResult<EncodedPair> {
        let encoder = self.encoder();
        let error = row_error([Argument::Chosen, Argument::Rejected]);
        let rendered = encoder
            .render(
                &pair.prompt,
                &pair.variables,
                &[&pair.chosen, &pair.rejected],
            )
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

    /// The texts and tokens of a pair whose sequences are these.
    fn shown(&self, pair: &PreferencePair, sequences: &[Sequence]) -> RowResult<ShownPair> {
        let error = row_error([Argument::Chosen, Argument::Rejected]);
        let encoder = self.encoder();
        let rendered = encoder
            .render(
                &pair.prompt,
                &pair.variables,
                &[&pair.chosen, &pair.rejected],
            )
            .map_err(error)?;
        let prompt = encoder.prompt_ids(&rendered).map_err(error)?;
        let [chosen_text, rejected_text] = <[String; 2]>::try_from(rendered.responses)
            .map_err(|_| RowError::of_row("a pair has two responses"))?;
        let [chosen, rejected] = sequences else {
            return Err(RowError::of_row("a pair has two sequences"));
        };
        let signed = |ids: &[u32]| ids.iter().map(|id| *id as i32).collect();
        Ok(ShownPair {
            prompt_text: rendered.prompt,
            chosen_text,
            rejected_text,
            prompt_ids: signed(&prompt),
            chosen_ids: signed(&chosen.ids),
            rejected_ids: signed(&rejected.ids),
            end_token_id: self
                .format
                .end_token(&self.model.tokenizer)
                .ok()
                .map(|id| id as i32),
        })
    }

    fn encode<const N: usize>(
        &self,
        prompt: &Text,
        variables: &TemplateVariables,
        responses: [&Text; N],
        arguments: [Argument; N],
    ) -> RowResult<Encoded> {
        let sequences = self
            .encoder()
            .encode(prompt, variables, &responses)
            .map_err(row_error(arguments))?;
        for (sequence, argument) in sequences.iter().zip(arguments) {
            self.check_tokens(sequence, argument)?;
        }
        let no_score = sequences
            .iter()
            .zip(arguments)
            .find_map(|(sequence, argument)| {
                sequence.no_score(&argument.to_string(), self.max_length)
            });
        Ok(Encoded {
            sequences,
            no_score,
            shown: None,
        })
    }

    /// Whether the model embeds every token: a tokenizer may have more than it does.
    fn check_tokens(&self, sequence: &Sequence, argument: Argument) -> RowResult<()> {
        let embedded = self.model.config().vocab_size;
        let mut ids = sequence.ids.iter().enumerate();
        let Some((at, id)) = ids.find(|(_, id)| **id as usize >= embedded) else {
            return Ok(());
        };
        let argument = match at < sequence.prompt_tokens {
            true => Argument::Prompt,
            false => argument,
        };
        let token = quoted(&self.model.tokenizer.token_text(*id));
        Err(RowError::of(
            argument,
            format!("token {token} has the id {id}, and the model's embedding {embedded} rows"),
        ))
    }

    /// Runs the model over the rows that need it and that it was not run over before. `keep` is
    /// what is kept of a row's embeddings, `finish` makes its scores of that.
    fn score<S>(
        &self,
        rows: Vec<RowResult<Encoded>>,
        keep: impl Fn(&Encoded, GroupOutput) -> RowResult<ModelScores>,
        finish: impl Fn(&Encoded, Option<ModelScores>) -> RowResult<S>,
    ) -> Result<Vec<RowResult<S>>, ScorerError> {
        let needs = self.job.needs;
        let metrics = &self.job.metrics;
        for row in rows.iter().flatten() {
            let is_truncated = row.sequences.iter().any(|sequence| sequence.truncated);
            metrics.truncated_rows.add(is_truncated.into());
        }
        let runs_model = |row: &Encoded| needs.intersects(Needs::MODEL) && row.no_score.is_none();
        let running: Vec<&Encoded> = rows
            .iter()
            .flatten()
            .filter(|row| runs_model(row))
            .collect();
        let end_token = self.format.end_token(&self.model.tokenizer);
        let wanted = Wanted {
            needs,
            learning_rate: self.job.settings.learning_rate,
        };
        let is_kept = self.job.settings.memo_bytes > 0 || self.cache.is_some();
        let keys = match is_kept {
            true => self.keys(&running, end_token.clone().ok()),
            false => Vec::new(),
        };
        let compute = |at: &[usize], computed: &mut dyn FnMut(usize, RowResult<ModelScores>)| {
            let missing = self.cached(at, &keys, &running, wanted, &mut *computed);
            let rows: Vec<&Encoded> = missing.iter().map(|number| running[at[*number]]).collect();
            self.compute(&rows, end_token.clone(), |row, output| {
                let number = missing[row];
                let scores = output.and_then(|of| keep(rows[row], of));
                if let (Some(cache), Ok(scores)) = (&self.cache, &scores) {
                    cache.put(keys[at[number]], scores);
                }
                computed(number, scores);
            })
        };
        let scores = match self.job.settings.memo_bytes {
            0 => {
                let mut scores = vec![None; running.len()];
                let all: Vec<usize> = (0..running.len()).collect();
                compute(&all, &mut |at, result| scores[at] = Some(result))?;
                scores.into_iter().flatten().collect()
            }
            most_bytes => {
                let (scores, remembered) = self.memo.scores(
                    &keys,
                    wanted,
                    most_bytes,
                    self.cancelled,
                    || other(Cancelled),
                    compute,
                )?;
                metrics.memo_hits.add(remembered);
                self.observer.remembered(remembered);
                scores
            }
        };
        tracing::debug!(
            "{} rows in a call, {} of them with a score by {needs}",
            rows.len(),
            running.len()
        );
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

    /// What makes rows the same to this model.
    fn keys(&self, rows: &[&Encoded], end_token: Option<u32>) -> Vec<Key> {
        let of_model = key_of_model(&self.model);
        let key = |row: &&Encoded| Key::new(&of_model, end_token, &row.sequences);
        rows.iter().map(key).collect()
    }

    /// Calls `computed` with the rows that the cache has, of those at these places, and returns the
    /// numbers of the others.
    fn cached(
        &self,
        at: &[usize],
        keys: &[Key],
        rows: &[&Encoded],
        wanted: Wanted,
        computed: &mut dyn FnMut(usize, RowResult<ModelScores>),
    ) -> Vec<usize> {
        let Some(cache) = &self.cache else {
            return (0..at.len()).collect();
        };
        let keys: Vec<Key> = at.iter().map(|at| keys[*at]).collect();
        let mut missing = Vec::new();
        for (number, found) in cache.get(&keys, wanted).into_iter().enumerate() {
            match found {
                Some(scores) => {
                    self.job.metrics.cache_hits.add(1);
                    self.observer.cached(1, tokens(&rows[at[number]].sequences));
                    computed(number, Ok(scores));
                }
                None => missing.push(number),
            }
        }
        missing
    }

    /// Has rows computed, and calls `computed` with each as it comes, in any order.
    fn compute(
        &self,
        rows: &[&Encoded],
        end_token: Result<u32, String>,
        mut computed: impl FnMut(usize, RowResult<GroupOutput>),
    ) -> Result<(), ScorerError> {
        if rows.is_empty() {
            return Ok(());
        }
        let needs = self.job.needs;
        let predicted = if needs.contains(Needs::SIMULATION) {
            Predicted::Step(self.job.settings.learning_rate)
        } else if needs.contains(Needs::DISPLACEMENT) {
            Predicted::Displacement
        } else {
            Predicted::Nothing
        };
        let takes_targets = Needs::LOG_PROBS | Needs::DISPLACEMENT | Needs::SIMULATION;
        let end_token = if needs.intersects(takes_targets) {
            let end = end_token.map_err(|reason| setting("model", reason))?;
            let vocab_size = self.model.config().vocab_size;
            if end as usize >= vocab_size {
                let reason = format!(
                    "the token that ends a response has the id {end}, and the model {vocab_size} tokens"
                );
                return Err(setting("model", reason));
            }
            Some(end)
        } else {
            None
        };
        let engine = self.model.engine(Scheduler::start);
        let engine = engine.map_err(|error| setting("model", error.to_string()))?;
        let long_from = self.model.config().long_from();
        let group = |row: &&Encoded| {
            let group = Group::new(row.sequences.clone(), end_token, long_from);
            group.predicting(predicted)
        };
        let groups: Vec<Group> = rows.iter().map(group).collect();
        let in_all = groups.iter().map(Group::tokens).sum();
        let memory = self.job.memory.as_deref();
        let budget = Budget::of(&self.model, &self.job.settings, predicted, memory, in_all);
        let mut numbers = Vec::new();
        let mut fitting = Vec::new();
        for (number, group) in groups.into_iter().enumerate() {
            match budget.refusal(group.tokens()) {
                None => {
                    fitting.push(group);
                    numbers.push(number);
                }
                Some(reason) => {
                    self.observer.scored(1, tokens(&group.sequences));
                    computed(number, Err(RowError::of_row(reason)));
                }
            }
        }
        let mut answered = |answer: Answer| {
            let metrics = &self.job.metrics;
            metrics.model_time.add_duration(answer.model_time);
            metrics.tokens.add(tokens(&answer.group.sequences));
            self.observer.scored(1, tokens(&answer.group.sequences));
            let of_model = |error| RowError::of_row(format!("the model: {}", said(&error)));
            computed(numbers[answer.number], answer.output.map_err(of_model));
        };
        engine
            .run(fitting, budget.batch_tokens, self.cancelled, &mut answered)
            .map_err(other)
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
    /// Where that is asked for, what the model is shown of a pair.
    shown: Option<Box<ShownPair>>,
}

fn pair_model_scores(output: GroupOutput, learning_rate: f64) -> RowResult<ModelScores> {
    let [chosen, rejected] = &output.embeddings[..] else {
        return Err(RowError::of_row("a pair has two sequences"));
    };
    if let Some(displacement) = &output.displacement {
        let rates = displacement.rates.iter().chain(&displacement.rates_sgd);
        all_finite(rates.chain(&displacement.overlap).copied())?;
        all_finite(displacement.changes.iter().map(|(_, change)| *change))?;
    }
    if let Some(simulation) = &output.simulation {
        let changes = simulation.token_changes.iter().map(|(_, change)| *change);
        if let Some(change) = changes.chain(simulation.changes).find(|x| !x.is_finite()) {
            return Err(RowError::of_row(format!(
                "a simulated step (ches.learning_rate) changes log-probabilities by {change}"
            )));
        }
    }
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
        displacement: output.displacement.map(Arc::new),
        simulations: output
            .simulation
            .map(|of| (learning_rate, Arc::new(of)))
            .into_iter()
            .collect(),
    })
}

impl Run<'_> {
    fn pair_scores(&self, row: &Encoded, model: Option<ModelScores>) -> RowResult<PairScores> {
        let needs = self.job.needs;
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
            shown: row.shown.clone(),
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
        let simulation = model.simulation(self.job.settings.learning_rate).cloned();
        if let Some(similarities) = model.similarities {
            scores.ches = Some(similarities.ches);
            scores.ches_normalized = Some(similarities.ches_normalized);
            scores.last_hidden_similarity = Some(similarities.last_hidden);
        }
        if let Some([chosen, rejected]) = model.log_probs {
            scores.chosen_logprob = Some(chosen);
            scores.rejected_logprob = Some(rejected);
        }
        let targets = [chosen, rejected].map(|sequence| sequence.target_count() as f64);
        let displacement = model
            .displacement
            .filter(|_| needs.contains(Needs::DISPLACEMENT));
        scores.displacement = displacement.map(|of| Box::new(self.displacement(&of, targets)));
        if needs.contains(Needs::SIMULATION) {
            let simulation = simulation.map(|of| self.simulated(&of, targets));
            scores.simulated = simulation.map(Box::new);
        }
        Ok(scores)
    }

    fn displacement(&self, of: &decoder::Displacement, targets: [f64; 2]) -> Displacement {
        let [chosen_rate, rejected_rate] = of.rates;
        let [chosen_rate_sgd, rejected_rate_sgd] = of.rates_sgd;
        let [gaining, losing] = self.token_changes(&of.changes);
        Displacement {
            chosen_rate,
            rejected_rate,
            chosen_rate_per_token: chosen_rate / targets[0],
            rejected_rate_per_token: rejected_rate / targets[1],
            chosen_rate_sgd,
            rejected_rate_sgd,
            overlap: of.overlap,
            gaining,
            losing,
        }
    }

    fn simulated(&self, of: &decoder::Simulation, targets: [f64; 2]) -> SimulatedDisplacement {
        let [chosen_change, rejected_change] = of.changes;
        let [gaining, losing] = self.token_changes(&of.token_changes);
        SimulatedDisplacement {
            chosen_change,
            rejected_change,
            chosen_change_per_token: chosen_change / targets[0],
            rejected_change_per_token: rejected_change / targets[1],
            gaining,
            losing,
        }
    }

    /// The tokens that gain and those that lose most.
    fn token_changes(&self, changes: &[(u32, f64)]) -> [Vec<TokenChange>; 2] {
        [1.0, -1.0].map(|sign| {
            let mut tokens: Vec<(u32, f64)> = changes.to_vec();
            tokens.retain(|(_, change)| sign * change > 0.0);
            tokens.sort_by(|(id_a, a), (id_b, b)| {
                (sign * b).total_cmp(&(sign * a)).then(id_a.cmp(id_b))
            });
            tokens.truncate(self.job.settings.top_tokens);
            let named = |(id, change): (u32, f64)| TokenChange {
                token: self.model.tokenizer.token_text(id),
                token_id: i32::try_from(id).unwrap_or(i32::MAX),
                change,
            };
            tokens.into_iter().map(named).collect()
        })
    }
}

fn response_model_scores(
    row: &Encoded,
    output: GroupOutput,
    needs: Needs,
) -> RowResult<ModelScores> {
    let ([embedding], [sequence]) = (&output.embeddings[..], &row.sequences[..]) else {
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
        ..ModelScores::default()
    })
}

fn response_scores(row: &Encoded, model: Option<ModelScores>) -> RowResult<ResponseScores> {
    let model = model.unwrap_or_default();
    let is_scored = row.no_score.is_none();
    let sequence = row.sequences.first().filter(|_| is_scored);
    Ok(ResponseScores {
        log_prob: model.log_probs.map(|[log_prob, _]| log_prob),
        embedding: model.embedding.map(Arc::unwrap_or_clone),
        tokens: sequence.map(response_tokens),
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
        tokens: response_tokens(sequence),
    })
}

fn response_tokens(sequence: &Sequence) -> i32 {
    i32::try_from(sequence.response().len()).unwrap_or(i32::MAX)
}

fn all_finite(numbers: impl IntoIterator<Item = f64>) -> RowResult<()> {
    numbers
        .into_iter()
        .try_for_each(|number| finite(number).map(drop))
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
