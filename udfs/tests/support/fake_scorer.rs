//! A scorer without a model: its scores follow from the texts' lengths, and it counts.
//!
//! With `c` and `r` the bytes of the responses: `ches = r − c`, `ches_normalized = ches / 100`,
//! `last_hidden_similarity = c · r`, log-probabilities `−c` and `−r`, and an edit distance of
//! `|c − r| / max(c, r)`. Token counts are bytes. Training would change `ln π` by `c` and `−r`, to
//! first order and by a step, and the tokens `a` by 2 and `b` by −1. Token ids are bytes, and the end
//! token is 0.
//!
//! A prompt that holds `ECHO` has no score, and the reason is the row as the scorer saw it. A
//! response that holds `FAIL` is a row error. An empty one has no score.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use ches_udfs::{
    Argument, ChesSettings, Content, Displacement, Interruption, Job, Needs, PairScores,
    PreferencePair, PromptedResponse, ResponseEmbedding, ResponseScores, RowError, Scorer,
    ScorerError, ShownPair, SimulatedDisplacement, Text, TokenChange, blocking_functions,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::{SessionConfig, SessionContext};

/// How many rows did what, since last asked.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub rows: AtomicI64,
    forward_passes: AtomicI64,
    unembeddings: AtomicI64,
    gradients: AtomicI64,
    simulations: AtomicI64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeScorer {
    pub counts: Arc<Counts>,
}

impl Counts {
    /// From nothing again.
    pub(crate) fn reset(&self) {
        for (_, of) in COUNTERS {
            of(self).store(0, Ordering::SeqCst);
        }
    }
}

impl FakeScorer {
    fn count(&self, needs: Needs, rows: usize) {
        let rows = rows as i64;
        self.counts.rows.fetch_add(rows, Ordering::SeqCst);
        if needs.intersects(Needs::MODEL) {
            self.counts.forward_passes.fetch_add(rows, Ordering::SeqCst);
        }
        if needs.contains(Needs::LOG_PROBS) {
            self.counts.unembeddings.fetch_add(rows, Ordering::SeqCst);
        }
        if needs.contains(Needs::DISPLACEMENT) {
            self.counts.gradients.fetch_add(rows, Ordering::SeqCst);
        }
        if needs.contains(Needs::SIMULATION) {
            self.counts.simulations.fetch_add(rows, Ordering::SeqCst);
        }
    }
}

fn show(text: &Text) -> String {
    match text {
        Text::Plain(text) => format!("'{text}'"),
        Text::Transcript(text) => format!("transcript '{text}'"),
        Text::Turns(turns) => {
            let turns: Vec<_> = turns
                .iter()
                .map(|turn| match &turn.content {
                    Content::Text(text) => format!("{}: {text}", turn.role),
                    other => format!("{}: {other:?}", turn.role),
                })
                .collect();
            format!("[{}]", turns.join(", "))
        }
    }
}

fn content(text: &Text) -> String {
    match text {
        Text::Plain(text) | Text::Transcript(text) => text.clone(),
        Text::Turns(turns) => turns
            .iter()
            .filter_map(|turn| turn.content.as_text())
            .collect(),
    }
}

fn pair(needs: Needs, pair: &PreferencePair) -> Result<PairScores, RowError> {
    let [prompt, chosen, rejected] = [&pair.prompt, &pair.chosen, &pair.rejected].map(content);
    for (argument, text) in [(Argument::Chosen, &chosen), (Argument::Rejected, &rejected)] {
        if text.contains("FAIL") {
            return Err(RowError::of(argument, format!("cannot score '{text}'")));
        }
    }
    let [p, c, r] = [&prompt, &chosen, &rejected].map(|text| text.len() as f64);
    let mut scores = PairScores {
        prompt_tokens: Some(p as i32),
        chosen_tokens: Some(c as i32),
        rejected_tokens: Some(r as i32),
        truncated: Some(false),
        ..PairScores::default()
    };
    if needs.contains(Needs::TOKENS) {
        let ids = |text: &str| text.bytes().map(i32::from).collect();
        scores.shown = Some(Box::new(ShownPair {
            prompt_ids: ids(&prompt),
            chosen_ids: ids(&format!("{prompt}{chosen}")),
            rejected_ids: ids(&format!("{prompt}{rejected}")),
            prompt_text: prompt.clone(),
            chosen_text: chosen.clone(),
            rejected_text: rejected.clone(),
            end_token_id: Some(0),
        }));
    }
    if prompt.contains("ECHO") {
        let texts = [&pair.prompt, &pair.chosen, &pair.rejected].map(show);
        let variables = pair.variables.iter();
        let variables = variables.map(|(name, value)| format!(" | {name} = {value:?}"));
        scores.no_score = Some(texts.join(" | ") + &variables.collect::<String>());
    } else if c == 0.0 || r == 0.0 {
        scores.no_score = Some("an empty response".into());
    } else {
        if needs.contains(Needs::EMBEDDINGS) {
            scores.ches = Some(r - c);
            scores.ches_normalized = Some((r - c) / 100.0);
            scores.last_hidden_similarity = Some(c * r);
        }
        if needs.contains(Needs::LOG_PROBS) {
            scores.chosen_logprob = Some(-c);
            scores.rejected_logprob = Some(-r);
        }
        let change = |token: &str, token_id, change| TokenChange {
            token: token.into(),
            token_id,
            change,
        };
        let (gaining, losing) = (vec![change("a", 97, 2.0)], vec![change("b", 98, -1.0)]);
        if needs.contains(Needs::DISPLACEMENT) {
            scores.displacement = Some(Box::new(Displacement {
                chosen_rate: c,
                rejected_rate: -r,
                chosen_rate_per_token: 1.0,
                rejected_rate_per_token: -1.0,
                chosen_rate_sgd: 2.0 * c,
                rejected_rate_sgd: -2.0 * r,
                overlap: (c != r).then_some(c / r),
                gaining: gaining.clone(),
                losing: losing.clone(),
            }));
        }
        if needs.contains(Needs::SIMULATION) {
            scores.simulated = Some(Box::new(SimulatedDisplacement {
                chosen_change: c,
                rejected_change: -r,
                chosen_change_per_token: 1.0,
                rejected_change_per_token: -1.0,
                gaining,
                losing,
            }));
        }
        if needs.contains(Needs::EDIT_DISTANCE) {
            scores.normalized_edit_distance = Some((c - r).abs() / c.max(r));
        }
    }
    Ok(scores)
}

fn embedding(text: &str) -> ResponseEmbedding {
    let length = text.len() as f32;
    ResponseEmbedding {
        sum: vec![length, 1.0],
        last: vec![length],
        tokens: text.len() as i32,
    }
}

#[async_trait]
impl Scorer for FakeScorer {
    fn provenance(&self, settings: &ChesSettings) -> Vec<(String, String)> {
        let model = settings.model.as_deref().unwrap_or("fake");
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![entry("ches.model", model), entry("ches.dtype", "none")]
    }

    async fn score_pairs(
        &self,
        job: &Job,
        pairs: Vec<PreferencePair>,
    ) -> Result<Vec<Result<PairScores, RowError>>, ScorerError> {
        if job.settings.model.as_deref() == Some("missing") {
            return Err(ScorerError::Setting {
                key: "model",
                reason: "missing: no such file".into(),
            });
        }
        self.count(job.needs, pairs.len());
        for pair in &pairs {
            let [prompt, chosen, rejected] =
                [&pair.prompt, &pair.chosen, &pair.rejected].map(|text| content(text).len());
            job.metrics.tokens.add(2 * prompt + chosen + rejected);
        }
        Ok(pairs.iter().map(|row| pair(job.needs, row)).collect())
    }

    async fn score_responses(
        &self,
        job: &Job,
        responses: Vec<PromptedResponse>,
    ) -> Result<Vec<Result<ResponseScores, RowError>>, ScorerError> {
        self.count(job.needs, responses.len());
        let scores = |row: &PromptedResponse| match content(&row.response) {
            text if text.contains("FAIL") => Err(RowError::of(
                Argument::Response,
                format!("cannot score '{text}'"),
            )),
            text => Ok(ResponseScores {
                log_prob: Some(-(text.len() as f64)),
                embedding: job
                    .needs
                    .contains(Needs::EMBEDDINGS)
                    .then(|| embedding(&text)),
                tokens: Some(text.len() as i32),
                no_score: None,
            }),
        };
        Ok(responses.iter().map(scores).collect())
    }
}

/// Which count.
type Counter = fn(&Counts) -> &AtomicI64;

const COUNTERS: [(&str, Counter); 5] = [
    ("rows_scored", |counts| &counts.rows),
    ("forward_passes", |counts| &counts.forward_passes),
    ("unembeddings", |counts| &counts.unembeddings),
    ("gradients", |counts| &counts.gradients),
    ("simulations", |counts| &counts.simulations),
];

/// `rows_scored()`, `forward_passes()`, `unembeddings()`, `gradients()`, `simulations()`: a count since
/// it was last asked for.
#[derive(Debug)]
struct Count {
    name: &'static str,
    counts: Arc<Counts>,
    of: Counter,
    signature: Signature,
}

impl PartialEq for Count {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Count {}

impl std::hash::Hash for Count {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Count {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let count = (self.of)(&self.counts).swap(0, Ordering::SeqCst);
        Ok(ColumnarValue::Scalar(ScalarValue::from(count)))
    }
}

fn new_context() -> SessionContext {
    let config = SessionConfig::new()
        .with_information_schema(true)
        .with_target_partitions(2);
    SessionContext::new_with_config(config)
}

/// A session with the CHES functions over a [`FakeScorer`], and functions that tell its counts.
pub(crate) fn session() -> SessionContext {
    session_by(FakeScorer::default())
}

/// The same over this one.
pub(crate) fn session_by(scorer: FakeScorer) -> SessionContext {
    let ctx = new_context();
    let counters = counters(&scorer.counts);
    ches_udfs::register(&ctx, Arc::new(scorer), ChesSettings::default()).unwrap();
    counters
        .into_iter()
        .for_each(|counter| ctx.register_udf(counter));
    ctx
}

/// The same with nothing but functions, as another DataFusion behind a foreign-function interface has
/// them.
pub(crate) fn blocking_session() -> SessionContext {
    let ctx = new_context();
    {
        let state = ctx.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        options.extensions.insert(ChesSettings::default());
    }
    let scorer = FakeScorer::default();
    let counters = counters(&scorer.counts);
    let never: Interruption = Arc::new(|| Box::new(|| Ok(())));
    for function in blocking_functions(Arc::new(scorer), ChesSettings::default(), never) {
        ctx.register_udf(ScalarUDF::clone(&function));
    }
    counters
        .into_iter()
        .for_each(|counter| ctx.register_udf(counter));
    ctx
}

/// The functions that tell these counts.
pub(crate) fn counters(counts: &Arc<Counts>) -> [ScalarUDF; 5] {
    COUNTERS.map(|(name, of)| {
        ScalarUDF::new_from_impl(Count {
            name,
            counts: Arc::clone(counts),
            of,
            signature: Signature::nullary(Volatility::Volatile),
        })
    })
}
