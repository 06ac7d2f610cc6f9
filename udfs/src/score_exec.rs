//! The execution plan that calls the scorer, and the rule that puts it into a plan.
//!
//! DataFusion's own `AsyncFuncExec` calls our functions just as well, and is what a plan has that
//! goes to another process. [`ScoreExec`] takes its place in this process: it counts what
//! `EXPLAIN ANALYZE` shows, it asks for few rows first so that a `LIMIT` above a filter by score
//! is soon full, and limits and filters of other columns pass below it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::async_scalar_function::AsyncFuncExpr;
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::async_func::AsyncFuncExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PhysicalExpr, PlanProperties, ReplaceChildrenOptions, apply_expression_roots,
};
use futures::future::{BoxFuture, ready};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::OnceCell;

use crate::array_bytes::bytes_of_batch;
use crate::calls::{is_pair_function, is_scoring_function, shown_name};
use crate::failures::Failures;
use crate::likely_mistakes::{Tally, Told};
use crate::query_resources::{QueryMemory, QueryResources, ScoreMetrics};

/// Rows of the first call of a partition. Each further call takes twice as many.
const FIRST_ROWS: usize = 32;
/// Rows of a call at most: enough to keep any device busy.
const MOST_ROWS: usize = 1024;
/// Bytes of the rows of a call at most, unless a single row has more: texts are held several times while
/// they are scored, and joined batches have 32-bit offsets.
const MOST_BYTES: usize = 64 << 20;

/// Adds a column for each scoring call to those of its input.
///
/// Output: the columns of the input, then one for each call, named as in `AsyncFuncExec`. Keeps
/// order and partitions of the input.
#[derive(Debug, Clone)]
pub struct ScoreExec {
    calls: Vec<Arc<AsyncFuncExpr>>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Of the streams that run, as is the tally.
    memory: Arc<Mutex<Weak<QueryMemory>>>,
    tally: Arc<Mutex<Weak<Tally>>>,
    /// Of the whole plan.
    of_plan: OfPlan,
}

/// What the nodes of a plan have in common.
#[derive(Debug, Clone, Default)]
struct OfPlan {
    told: Told,
    failures: Arc<Failures>,
}

impl ScoreExec {
    fn try_new(
        calls: Vec<Arc<AsyncFuncExpr>>,
        input: Arc<dyn ExecutionPlan>,
        of_plan: OfPlan,
    ) -> Result<Self> {
        let input_schema = input.schema();
        let added = calls.iter().map(|call| call.return_field(&input_schema));
        let kept = input_schema.fields().iter().cloned().map(Ok);
        let fields = kept.chain(added).collect::<Result<Vec<_>>>()?;
        let schema = Arc::new(Schema::new_with_metadata(
            fields,
            input_schema.metadata().clone(),
        ));
        let columns = input_schema.fields().iter().enumerate();
        let mut mapping: Vec<(Arc<dyn PhysicalExpr>, String)> = columns
            .map(|(at, field)| {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
                (column, field.name().clone())
            })
            .collect();
        for call in &calls {
            mapping.push((Arc::clone(&call.func), call.name().to_owned()));
        }
        let mapping = ProjectionMapping::try_new(mapping, &input_schema)?;
        let properties = PlanProperties::new(
            input.equivalence_properties().project(&mapping, schema),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self {
            calls,
            input,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            memory: Arc::default(),
            tally: Arc::default(),
            of_plan,
        })
    }

    /// Why rows of the whole plan failed that `ches.on_error = 'null'` let through.
    pub fn failures(&self) -> &Arc<Failures> {
        &self.of_plan.failures
    }

    /// The columns that hold the texts of each call of pairs, as they are called in the query; None of a call
    /// with other texts.
    pub fn pair_columns(&self) -> Vec<Option<Vec<String>>> {
        let columns = |call: &Arc<AsyncFuncExpr>| {
            let function = call.func.downcast_ref::<ScalarFunctionExpr>()?;
            let [_, _, texts @ ..] = function.args() else {
                return None;
            };
            if !is_pair_function(function.fun()) {
                return None;
            }
            let name = |text: &Arc<dyn PhysicalExpr>| {
                let column = text.downcast_ref::<Column>()?;
                Some(shown_name(column.name()).to_owned())
            };
            texts.iter().map(name).collect()
        };
        self.calls.iter().map(columns).collect()
    }

    /// What the streams of this node take together.
    fn memory(&self, pool: &Arc<dyn MemoryPool>) -> Arc<QueryMemory> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = memory.upgrade()
            && Arc::ptr_eq(memory.pool(), pool)
        {
            return memory;
        }
        let of_query = Arc::new(QueryMemory::new(Arc::clone(pool)));
        *memory = Arc::downgrade(&of_query);
        of_query
    }

    /// What the streams of this node count together.
    fn tally(&self) -> Arc<Tally> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.upgrade().unwrap_or_else(|| {
            let begun = Arc::new(Tally::new(self.of_plan.told.clone()));
            *tally = Arc::downgrade(&begun);
            begun
        })
    }

    /// Counters of one partition, which `EXPLAIN ANALYZE` shows.
    fn score_metrics(&self, partition: usize) -> ScoreMetrics {
        let count = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        let time = |name| MetricBuilder::new(&self.metrics).subset_time(name, partition);
        ScoreMetrics {
            rows: count("rows_scored"),
            wait_time: time("wait_time"),
            failed_rows: count("failed_rows"),
            skipped_rows: count("skipped_rows"),
            tokens: count("tokens"),
            truncated_rows: count("truncated_rows"),
            memo_hits: count("memo_hits"),
            cache_hits: count("cache_hits"),
            model_time: time("model_time"),
        }
    }
}

impl DisplayAs for ScoreExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let calls: Vec<_> = self
            .calls
            .iter()
            .map(|call| format!("{} as {}", call.func, call.name()))
            .collect();
        let calls = calls.join(", ");
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "ScoreExec: calls=[{calls}]")
            }
            DisplayFormatType::TreeRender => writeln!(f, "calls={calls}"),
        }
    }
}

impl ExecutionPlan for ScoreExec {
    fn name(&self) -> &str {
        "ScoreExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let calls = self.calls.iter().cloned();
        apply_expression_roots(calls.map(|call| call as Arc<dyn PhysicalExpr>), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else {
            return internal_err!("ScoreExec has one input");
        };
        Ok(Arc::new(match options.children_properties {
            ChildrenPropertiesMode::Keep => Self {
                input,
                metrics: ExecutionPlanMetricsSet::new(),
                memory: Arc::default(),
                tally: Arc::default(),
                ..Self::clone(&self)
            },
            ChildrenPropertiesMode::Recompute => {
                Self::try_new(self.calls.clone(), input, self.of_plan.clone())?
            }
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let mut options = ConfigOptions::clone(context.session_config().options());
        options.extensions.insert(QueryResources {
            metrics: self.score_metrics(partition),
            memory: Some(self.memory(context.memory_pool())),
            tally: Some(self.tally()),
            failures: Some(Arc::clone(&self.of_plan.failures)),
        });
        let scoring = Scoring {
            calls: self.calls.iter().map(Call::new).collect(),
            schema: self.schema(),
            options: Arc::new(options),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            input: Some(self.input.execute(partition, context)?),
            constant_bytes: self.calls.iter().map(constant_bytes).sum(),
            waiting: Vec::new(),
            waiting_rows: 0,
            waiting_bytes: 0,
            rows: FIRST_ROWS,
            returned_rows: 0,
            scoring: FuturesOrdered::new(),
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            scoring,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Bytes of a call's constant texts, which are read for every row.
fn constant_bytes(call: &Arc<AsyncFuncExpr>) -> usize {
    let function = call.func.downcast_ref::<ScalarFunctionExpr>();
    let arguments = function.into_iter().flat_map(ScalarFunctionExpr::args);
    let literals = arguments.filter_map(|argument| argument.downcast_ref::<Literal>());
    literals.map(|literal| literal.value().size()).sum()
}

/// A call, and its result if that is the same for every row.
struct Call {
    expr: Arc<AsyncFuncExpr>,
    is_constant: bool,
    result: OnceCell<ScalarValue>,
}

impl Call {
    fn new(expr: &Arc<AsyncFuncExpr>) -> Self {
        Self {
            expr: Arc::clone(expr),
            is_constant: collect_columns(&expr.func).is_empty(),
            result: OnceCell::new(),
        }
    }

    async fn score(&self, batch: &RecordBatch, options: &Arc<ConfigOptions>) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        if !self.is_constant {
            let scored = self.expr.invoke_with_args(batch, Arc::clone(options));
            return scored.await?.into_array(rows);
        }
        let of_one = || async {
            let one = batch.slice(0, 1);
            let scored = self.expr.invoke_with_args(&one, Arc::clone(options));
            ScalarValue::try_from_array(&scored.await?.into_array(1)?, 0)
        };
        let result = self.result.get_or_try_init(of_one).await?;
        result.to_array_of_size(rows)
    }
}

/// Adds the calls' columns to those of a batch.
async fn score(
    calls: Arc<[Call]>,
    batch: RecordBatch,
    schema: SchemaRef,
    options: Arc<ConfigOptions>,
) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    for call in calls.iter() {
        columns.push(call.score(&batch, &options).await?);
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// One partition at work.
struct Scoring {
    calls: Arc<[Call]>,
    schema: SchemaRef,
    options: Arc<ConfigOptions>,
    baseline: BaselineMetrics,
    /// None once it has ended.
    input: Option<SendableRecordBatchStream>,
    /// That each row has besides its own.
    constant_bytes: usize,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    rows: usize,
    returned_rows: usize,
    scoring: FuturesOrdered<BoxFuture<'static, Result<RecordBatch>>>,
}

impl Scoring {
    /// How many batches are scored at the same time: once many were asked for, the next is made ready
    /// while one is computed.
    fn at_once(&self) -> usize {
        if self.returned_rows < MOST_ROWS / 2 {
            1
        } else {
            2
        }
    }

    /// Begins to score the rows that wait, if they are enough. `is_last`: no more are coming.
    fn begin(&mut self, is_last: bool) -> Result<bool> {
        let is_enough = self.waiting_rows >= self.rows || self.waiting_bytes >= MOST_BYTES;
        if self.waiting_rows == 0 || !is_enough && !is_last {
            return Ok(false);
        }
        let batch = self.take(self.rows)?;
        self.rows = (2 * self.rows).min(MOST_ROWS);
        let (calls, schema) = (Arc::clone(&self.calls), Arc::clone(&self.schema));
        let scored = score(calls, batch, schema, Arc::clone(&self.options));
        self.scoring.push_back(scored.boxed());
        Ok(true)
    }

    fn bytes(&self, batch: &RecordBatch) -> usize {
        bytes_of_batch(batch) + batch.num_rows() * self.constant_bytes
    }

    fn wait_with(&mut self, batch: RecordBatch) {
        self.waiting_rows += batch.num_rows();
        self.waiting_bytes += self.bytes(&batch);
        self.waiting.push(batch);
    }

    /// How many of a batch's first rows have so many bytes at most.
    fn rows_within(&self, batch: &RecordBatch, bytes: usize) -> usize {
        if self.bytes(batch) <= bytes {
            return batch.num_rows();
        }
        let mut left = bytes;
        let fits = |row: &usize| {
            let rest = left.checked_sub(self.bytes(&batch.slice(*row, 1)));
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        (0..batch.num_rows()).take_while(fits).count()
    }

    /// The first rows that wait, at most `rows` and [`MOST_BYTES`] but one in any case, in one batch.
    fn take(&mut self, rows: usize) -> Result<RecordBatch> {
        let mut taken: Vec<RecordBatch> = Vec::new();
        let (mut missing, mut bytes) = (rows, MOST_BYTES);
        let mut left = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        for batch in waiting {
            let first = batch.slice(0, missing.min(batch.num_rows()));
            let least = usize::from(taken.is_empty() && missing > 0);
            let here = self.rows_within(&first, bytes).max(least);
            if here > 0 {
                let slice = batch.slice(0, here);
                bytes = bytes.saturating_sub(self.bytes(&slice));
                missing -= here;
                taken.push(slice);
            }
            if here < batch.num_rows() {
                missing = 0;
                left.push(batch.slice(here, batch.num_rows() - here));
            }
        }
        left.into_iter().for_each(|batch| self.wait_with(batch));
        match &taken[..] {
            [] => internal_err!("no rows wait to be scored"),
            [only] => Ok(only.clone()),
            [first, ..] => Ok(concat_batches(&first.schema(), &taken)?),
        }
    }
}

impl Stream for Scoring {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(Some(scored)) = this.scoring.poll_next_unpin(cx) {
                let rows = scored.as_ref().map_or(0, RecordBatch::num_rows);
                this.returned_rows += rows;
                return Poll::Ready(Some(scored.record_output(&this.baseline)));
            }
            if this.scoring.len() >= this.at_once() {
                return Poll::Pending;
            }
            if this.begin(this.input.is_none())? {
                continue;
            }
            let Some(input) = &mut this.input else {
                let is_done = this.scoring.is_empty();
                return if is_done {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            };
            match std::task::ready!(input.poll_next_unpin(cx)) {
                None => this.input = None,
                Some(Ok(batch)) => {
                    if batch.num_rows() > 0 {
                        this.wait_with(batch);
                    }
                }
                Some(Err(error)) => {
                    // After what is being scored, as if nothing were made ready ahead.
                    this.scoring.push_back(ready(Err(error)).boxed());
                    this.input = None;
                    this.waiting.clear();
                    (this.waiting_rows, this.waiting_bytes) = (0, 0);
                }
            }
        }
    }
}

/// Puts [`ScoreExec`] in the place of every `AsyncFuncExec` that only calls our functions.
///
/// To be added before the other physical optimizer rules, so that they know what passes below
/// it. Not for plans that are sent to another process.
#[derive(Debug, Default)]
pub struct UseScoreExec;

impl PhysicalOptimizerRule for UseScoreExec {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let of_plan = OfPlan::default();
        let replaced = plan.transform_up(|plan| {
            let Some(stock) = plan.downcast_ref::<AsyncFuncExec>() else {
                return Ok(Transformed::no(plan));
            };
            let mut calls = Vec::new();
            let mut all_ours = true;
            stock.apply_expressions(&mut |expr| {
                match expr.downcast_ref::<AsyncFuncExpr>() {
                    Some(call) if is_ours(call) => calls.push(Arc::new(call.clone())),
                    _ => all_ours = false,
                }
                Ok(TreeNodeRecursion::Jump)
            })?;
            if !all_ours {
                return Ok(Transformed::no(plan));
            }
            let ours = ScoreExec::try_new(calls, Arc::clone(stock.input()), of_plan.clone())?;
            Ok(Transformed::yes(Arc::new(ours) as Arc<dyn ExecutionPlan>))
        })?;
        Ok(replaced.data)
    }

    fn name(&self) -> &str {
        "ches_use_score_exec"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn is_ours(call: &AsyncFuncExpr) -> bool {
    let function = call.func.downcast_ref::<ScalarFunctionExpr>();
    function.is_some_and(|function| is_scoring_function(function.fun()))
}
