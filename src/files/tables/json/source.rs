//! The scan of JSON files.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::exec_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use super::decoder::Decoder;
use super::framing::Framing;
use crate::files::tables::bytes as files;

/// Files, their columns, and which of them are read.
#[derive(Clone)]
pub(super) struct JsonSource {
    table_schema: TableSchema,
    batch_size: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
    projection: SplitProjection,
    is_splittable: bool,
}

impl JsonSource {
    /// All columns. `is_splittable`: files may be read from any line on.
    pub(super) fn new(table_schema: TableSchema, is_splittable: bool) -> Self {
        Self {
            projection: SplitProjection::unprojected(&table_schema),
            table_schema,
            batch_size: None,
            metrics: ExecutionPlanMetricsSet::new(),
            is_splittable,
        }
    }
}

impl FileSource for JsonSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        _partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let schema = Arc::clone(self.table_schema.file_schema());
        let opener = Arc::new(JsonOpener {
            store,
            schema: Arc::clone(&schema),
            columns: self.projection.file_indices.clone(),
            batch_size: self.batch_size.unwrap_or(8192),
            compression: config.file_compression_type,
        });
        ProjectionOpener::try_new(self.projection.clone(), opener, &schema)
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table_schema
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self {
            batch_size: Some(batch_size),
            ..self.clone()
        })
    }

    fn supports_repartitioning(&self) -> bool {
        self.is_splittable
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn FileSource>>> {
        let projection = self.projection.source.try_merge(projection)?;
        Ok(Some(Arc::new(Self {
            projection: SplitProjection::new(self.table_schema.file_schema(), &projection),
            ..self.clone()
        })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &'static str {
        "json"
    }

    fn apply_expressions(
        &self,
        each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expression in self.projection.source.iter() {
            if each(&expression.expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

struct JsonOpener {
    store: Arc<dyn ObjectStore>,
    /// Of the files, whose records are decoded whole so that nothing in them goes unnoticed.
    schema: SchemaRef,
    columns: Vec<usize>,
    batch_size: usize,
    compression: FileCompressionType,
}

impl FileOpener for JsonOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let store = Arc::clone(&self.store);
        let decoder = Decoder::new(Arc::clone(&self.schema), self.batch_size);
        let columns = self.columns.clone();
        let compression = self.compression;
        Ok(Box::pin(async move {
            let location = file.object_meta.location.clone();
            let (begin, end) = match &file.range {
                None => (0, u64::MAX),
                #[allow(clippy::cast_sign_loss)] // The offsets of a file.
                Some(range) => (range.start as u64, range.end as u64),
            };
            // The byte before tells whether a line begins here.
            let from = begin.saturating_sub(1);
            let range = file.range.as_ref().map(|_| from..file.object_meta.size);
            let bytes = files::of_file(&store, &location, range, compression);
            let name = files::name(&store, &location);
            let bytes = bytes
                .await
                .map_err(|error| failed(&name, &error.to_string()))?;
            let reading = Reading {
                name,
                bytes,
                framing: (begin == 0).then(|| Framing::from(0)),
                skipped: from,
                end,
                decoder,
                columns,
                ready: VecDeque::new(),
                is_done: false,
            };
            let batches = futures::stream::try_unfold(reading, |mut reading| async {
                let batch = reading.next().await?;
                Ok(batch.map(|batch| (batch, reading)))
            });
            Ok(batches.boxed())
        }))
    }
}

/// A file that is being read, or the lines of it that begin in a range.
struct Reading {
    name: String,
    bytes: BoxStream<'static, Result<Bytes>>,
    /// None as long as the range's first line has not begun.
    framing: Option<Framing>,
    /// Where the next bytes stand, until it has.
    skipped: u64,
    /// Records that begin here are the next range's.
    end: u64,
    decoder: Decoder,
    columns: Vec<usize>,
    ready: VecDeque<RecordBatch>,
    is_done: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.ready.is_empty() && !self.is_done {
            let failed = |reason: String| failed(&self.name, &reason);
            let chunk = self.bytes.try_next().await;
            let chunk = chunk.map_err(|error| failed(error.to_string()))?;
            self.is_done = chunk.is_none();
            match chunk {
                None => {
                    let ended = self.framing.as_ref().map_or(Ok(()), Framing::end);
                    ended.map_err(|reason| self.failed(&reason))?;
                    self.decode()?;
                }
                Some(chunk) => self.push(chunk)?,
            }
        }
        Ok(self.ready.pop_front())
    }

    fn push(&mut self, mut chunk: Bytes) -> Result<()> {
        if self.framing.is_none() {
            let Some(line) = memchr::memchr(b'\n', &chunk) else {
                self.skipped += chunk.len() as u64;
                return Ok(());
            };
            let line = line + 1;
            let begin = self.skipped + line as u64;
            if begin >= self.end {
                self.is_done = true;
                return Ok(());
            }
            chunk = chunk.split_off(line);
            self.framing = Some(Framing::from(begin));
        }
        let Some(framing) = &mut self.framing else {
            return Ok(());
        };
        let (decoder, ready, end) = (&mut self.decoder, &mut self.ready, self.end);
        let columns = &self.columns;
        let pushed = framing.push::<String>(&chunk, |record| {
            if record.offset >= end {
                return Ok(false);
            }
            if decoder.take(&record)
                && let Some(batch) = decoder.batch()?
            {
                ready.push_back(batch.project(columns).map_err(|e| e.to_string())?);
            }
            Ok(true)
        });
        match pushed {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.is_done = true;
                self.decode()
            }
            Err(reason) => Err(self.failed(&reason)),
        }
    }

    fn decode(&mut self) -> Result<()> {
        let batch = self
            .decoder
            .batch()
            .map_err(|reason| self.failed(&reason))?;
        if let Some(batch) = batch {
            self.ready.push_back(batch.project(&self.columns)?);
        }
        Ok(())
    }

    fn failed(&self, reason: &str) -> DataFusionError {
        failed(&self.name, reason)
    }
}

/// An error about a file.
pub(super) fn failed(name: &str, reason: &str) -> DataFusionError {
    exec_datafusion_err!("{name}: {reason}")
}
