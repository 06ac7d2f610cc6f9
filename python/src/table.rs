//! Scores of Arrow tables: columns in, columns out, over the Arrow C stream interface.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
use datafusion::common::plan_datafusion_err;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::{SessionConfig, SessionContext, ident};
use datafusion_ches::ches_udfs::Scorer;
use datafusion_ches::{Ches, ModelScorer};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use tokio::runtime::Runtime;

use crate::errors::raised;
use crate::settings::{Settings, with_settings};

/// The functions of a pair whose results may be columns.
pub(crate) const PAIR_SCORES: [&str; 8] = [
    "ches",
    "ches_normalized",
    "ln_ches",
    "last_hidden_similarity",
    "normalized_edit_distance",
    "preference_scores",
    "displacement",
    "displacement_simulated",
];

const STREAM: &CStr = c"arrow_array_stream";

/// How often a waiting thread looks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(50);

/// The one that scored first.
static PROCESS: OnceLock<u32> = OnceLock::new();

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("datafusion-ches")
        .enable_all()
        .build()
});

/// Keeps its model from call to call.
static SCORER: LazyLock<Mutex<Arc<ModelScorer>>> = LazyLock::new(Mutex::default);

fn scorer() -> Arc<ModelScorer> {
    Arc::clone(&SCORER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Releases the model, and of the scores, that are kept from call to call.
#[pyfunction]
pub(crate) fn unload() {
    *SCORER.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
}

/// The columns `scores` of the rows of an Arrow C stream, in their order, as an Arrow C stream.
/// `columns` are prompt, chosen and rejected, or the two without a prompt.
///
/// # Errors
/// `ValueError`: a column or a setting is not what is accepted; `RuntimeError`: a row cannot be scored,
/// or all cannot, or the process was forked from one that scored; `KeyboardInterrupt`.
#[pyfunction]
pub(crate) fn score_stream<'py>(
    py: Python<'py>,
    stream: &Bound<'py, PyCapsule>,
    columns: Vec<String>,
    scores: Vec<String>,
    settings: Settings,
) -> PyResult<Bound<'py, PyCapsule>> {
    if *PROCESS.get_or_init(std::process::id) != std::process::id() {
        return Err(PyRuntimeError::new_err(
            "this process was forked from one that has scored, and has none of its threads; accepted: \
             multiprocessing's start method \"spawn\", or to score before or after in one process",
        ));
    }
    let scorer: Arc<dyn Scorer> = scorer();
    let ches = with_settings(Ches::new().with_scorer(scorer), settings)?;
    let stream = stream.pointer_checked(Some(STREAM))?;
    let stream: *mut FFI_ArrowArrayStream = stream.as_ptr().cast();
    // SAFETY: a capsule of this name holds such a stream, and who gives it away does not use it again;
    // what is left in its place says that it is released.
    let reader = unsafe { ArrowArrayStreamReader::from_raw(stream) };
    let reader = reader.map_err(|error| raised(&error.into()))?;
    let work = async move {
        let read = tokio::task::spawn_blocking(move || read(reader, &columns));
        let table = read.await.map_err(|error| panicked(&error))??;
        scored(&ches, table, &scores).await
    };
    let (schema, batches) = run(py, work)?;
    stream_of(py, schema, batches)
}

/// Runs work and looks for Ctrl-C meanwhile.
pub(crate) fn run<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<T> {
    let runtime = RUNTIME.as_ref();
    let runtime = runtime.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let mut work = runtime.spawn(work);
    let done = loop {
        let wait = || runtime.block_on(async { tokio::time::timeout(LOOK, &mut work).await });
        if let Ok(done) = py.detach(wait) {
            break done;
        }
        if let Err(interrupt) = py.check_signals() {
            work.abort();
            return Err(interrupt);
        }
    };
    done.unwrap_or_else(|error| Err(panicked(&error)))
        .map_err(|error| raised(&error))
}

/// Batches as an Arrow C stream.
pub(crate) fn stream_of(
    py: Python<'_>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
) -> PyResult<Bound<'_, PyCapsule>> {
    let batches = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
    let stream = FFI_ArrowArrayStream::new(Box::new(batches));
    PyCapsule::new_with_value(py, stream, STREAM)
}

fn panicked(error: &tokio::task::JoinError) -> DataFusionError {
    DataFusionError::Internal(error.to_string())
}

/// The texts of a table, which are not copied.
struct Table {
    columns: Vec<String>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

fn read(reader: ArrowArrayStreamReader, columns: &[String]) -> Result<Table> {
    let schema = reader.schema();
    let found = |name: &String| {
        let names = schema.fields().iter().map(|field| field.name());
        let mut matching = names.enumerate().filter(|(_, other)| *other == name);
        match (matching.next(), matching.next()) {
            (Some((at, _)), None) => Ok(at),
            (Some(_), Some(_)) => Err(plan_datafusion_err!("there are two columns '{name}'")),
            (None, _) => {
                let names = schema
                    .fields()
                    .iter()
                    .map(|field| format!("'{}'", field.name()));
                let names = names.collect::<Vec<_>>().join(", ");
                Err(plan_datafusion_err!(
                    "there is no column '{name}'; the columns are {names}"
                ))
            }
        }
    };
    let at = columns.iter().map(found).collect::<Result<Vec<_>>>()?;
    // Without what schema and fields say of themselves.
    let fields = at.iter().map(|at| schema.field(*at));
    let field = |field: &Field| {
        field
            .clone()
            .with_nullable(true)
            .with_metadata(HashMap::new())
    };
    let schema = Arc::new(Schema::new(fields.map(field).collect::<Vec<_>>()));
    let texts = |batch: Result<RecordBatch, ArrowError>| {
        let texts = batch?.project(&at)?.columns().to_vec();
        Ok(RecordBatch::try_new(Arc::clone(&schema), texts)?)
    };
    let batches = reader.map(texts).collect::<Result<_>>()?;
    Ok(Table {
        columns: columns.to_vec(),
        schema,
        batches,
    })
}

async fn scored(
    ches: &Ches,
    table: Table,
    scores: &[String],
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    // One partition keeps the rows in their order; the scorer uses all cores by itself.
    let config = SessionConfig::new().with_target_partitions(1);
    let ctx = SessionContext::new_with_config(config);
    ches.register(&ctx)?;
    let mut outputs = Vec::new();
    for name in scores {
        if !PAIR_SCORES.contains(&name.as_str()) {
            let accepted = PAIR_SCORES.join(", ");
            return Err(plan_datafusion_err!(
                "there is no score '{name}'; accepted: {accepted}"
            ));
        }
        let function = ctx.udf(name)?;
        let arguments = table.columns.iter().map(ident).collect();
        outputs.push(function.call(arguments).alias(name));
    }
    let rows = MemTable::try_new(table.schema, vec![table.batches])?;
    let frame = ctx.read_table(Arc::new(rows))?.select(outputs)?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await?;
    // What is scored says where it comes from only once it is computed.
    let schema = batches.first().map_or(schema, RecordBatch::schema);
    Ok((schema, batches))
}
