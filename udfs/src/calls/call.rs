//! The hidden functions, `__ches_score_…(needs, guard, text…)`, that every public one is rewritten
//! to.
//!
//! Their first argument is a literal that names what is needed ([`Needs`]), the second a condition
//! on the rows that are scored (others are NULL), the rest are text columns. What is scored is a
//! [`Kind`]; each kind has an asynchronous function, which plans use, and a synchronous twin for the
//! places where an asynchronous one cannot stand.

use std::fmt::{self, Debug};
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, Fields};
use async_trait::async_trait;
use datafusion::common::{exec_datafusion_err, exec_err, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use futures::future::{Either, select};

use super::request::{Outcome, Request};
use crate::likely_mistakes::Mistakes;
use crate::scorer::{Argument, Job, Needs, RowError, Scorer, ScorerError};
use crate::template_variables::TemplateVariables;
use crate::text::Text;

/// Called where a synchronous call begins to wait. What it returns is asked every 50 ms on the thread
/// that waits, until the call has ended; its error ends the call.
pub type Interruption = Arc<dyn Fn() -> Box<dyn Fn() -> Result<()>> + Send + Sync>;

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(50);

/// Added to the name of a hidden function, the name of its synchronous twin.
pub(crate) const BLOCKING_SUFFIX: &str = "_blocking";

/// What is scored.
#[async_trait]
pub(super) trait Kind: Debug + Send + Sync + 'static {
    /// The name of the hidden function.
    const NAME: &'static str;
    /// A row, as the scorer takes it.
    type Item: Send + 'static;
    /// What the scorer says of a row.
    type Scores: Clone + Send + 'static;

    /// The meaning of the text arguments of a call with that many of them.
    fn arguments(count: usize) -> Option<&'static [Argument]>;

    /// The fields of the struct that is returned.
    fn fields() -> Fields;

    /// What is needed for a field of the struct; `None` where that follows from the call.
    fn field_needs(field: &str) -> Option<Needs>;

    /// Reads a row, of which none is NULL, with what the chat template finds besides.
    fn item(texts: Vec<Text>, variables: TemplateVariables) -> Result<Self::Item, RowError>;

    /// What looks like a mistake in a row.
    fn mistakes(item: &Self::Item) -> Mistakes;

    async fn score(
        scorer: &dyn Scorer,
        job: &Job,
        items: Vec<Self::Item>,
    ) -> Result<Vec<Result<Self::Scores, RowError>>, ScorerError>;

    /// Whether a row has no scores by definition.
    fn has_none(scores: &Self::Scores) -> bool;

    fn to_array(rows: Vec<Outcome<Self::Scores>>) -> Result<ArrayRef>;
}

/// Fields of these names and types, each of which may be NULL.
pub(super) fn nullable<const N: usize>(fields: [(&str, DataType); N]) -> Fields {
    let field = |(name, data_type)| Field::new(name, data_type, true);
    fields.into_iter().map(field).collect()
}

/// The asynchronous function of a kind, and its synchronous twin, which can be interrupted.
pub(super) fn functions<K: Kind>(
    scorer: &Arc<dyn Scorer>,
    interruption: &Interruption,
) -> (Arc<ScalarUDF>, Arc<ScalarUDF>) {
    let call = |name: String| Call::<K> {
        scorer: Arc::clone(scorer),
        name,
        signature: Signature::variadic_any(Volatility::Immutable),
        interruption: Arc::clone(interruption),
        kind: PhantomData,
    };
    let twin = call(format!("{}{BLOCKING_SUFFIX}", K::NAME));
    let call = AsyncScalarUDF::new(Arc::new(call(K::NAME.into()))).into_scalar_udf();
    (Arc::new(call), Arc::new(ScalarUDF::new_from_impl(twin)))
}

struct Call<K> {
    scorer: Arc<dyn Scorer>,
    name: String,
    signature: Signature,
    interruption: Interruption,
    kind: PhantomData<K>,
}

impl<K> Debug for Call<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Call");
        shown
            .field("name", &self.name)
            .field("scorer", &self.scorer);
        shown.finish_non_exhaustive()
    }
}

/// Two functions of one name are equal if they have the same scorer.
impl<K> PartialEq for Call<K> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.scorer, &other.scorer)
    }
}

impl<K> Eq for Call<K> {}

impl<K> Hash for Call<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        Arc::as_ptr(&self.scorer).hash(state);
    }
}

async fn score<K: Kind>(scorer: &dyn Scorer, args: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let mut request = Request::read(args, K::arguments, K::item)?;
    let items = std::mem::take(&mut request.items);
    if let Some(tally) = &request.tally {
        tally.add(items.iter().map(K::mistakes));
    }
    let scored = if items.is_empty() {
        Ok(Vec::new())
    } else {
        let _timer = request.job.metrics.wait_time.timer();
        K::score(scorer, &request.job, items).await
    };
    K::to_array(request.finish(scored, K::has_none)?)
}

impl<K: Kind> ScalarUDFImpl for Call<K> {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(K::fields()))
    }

    /// Computes on a thread of its own, since the caller's runtime may have no other than the one
    /// that waits. The call cannot be dropped, but goes on by at most one batch of rows.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if !self.name.ends_with(BLOCKING_SUFFIX) {
            return internal_err!("{} is asynchronous", self.name);
        }
        let scorer = Arc::clone(&self.scorer);
        let (answer, answered) = mpsc::channel();
        let (waiting, given_up) = tokio::sync::oneshot::channel::<()>();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let scores = runtime.block_on(async {
                let score = pin!(score::<K>(&*scorer, &args));
                match select(score, given_up).await {
                    Either::Left((scores, _)) => scores,
                    Either::Right(_) => exec_err!("given up"),
                }
            });
            let _ = answer.send(scores);
            Ok::<_, std::io::Error>(())
        };
        let thread = std::thread::Builder::new().name("ches-blocking".into());
        let thread = thread.spawn(work)?;
        let interrupted = (self.interruption)();
        let scores = loop {
            match answered.recv_timeout(LOOK) {
                Ok(scores) => break scores?,
                Err(RecvTimeoutError::Timeout) => interrupted()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = thread.join();
                    ended.map_err(|_| exec_datafusion_err!("{} panicked", self.name))??;
                    return internal_err!("{} has no answer", self.name);
                }
            }
        };
        drop(waiting);
        Ok(ColumnarValue::Array(scores))
    }
}

#[async_trait]
impl<K: Kind> AsyncScalarUDFImpl for Call<K> {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scores = score::<K>(&*self.scorer, &args).await?;
        debug_assert_eq!(scores.len(), args.number_rows);
        Ok(ColumnarValue::Array(scores))
    }
}
