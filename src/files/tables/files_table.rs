//! Files of one format as a table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, ScalarValue, plan_datafusion_err, plan_err, project_schema};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::listing::helpers::{expr_applicable_for_cols, filter_partitioned_file};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion_datasource::compute_all_files_statistics;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use super::formats::Format;
use super::found::found;
use super::listing::File;
use super::location::Location;

/// How long files are believed to be the same: a statement plans with what it has found, and a view looks again.
const FRESH: Duration = Duration::from_secs(2);

/// A table of the files of a place.
#[derive(Debug)]
pub(super) struct FilesTable {
    place: Location,
    kind: Format,
    format: Arc<dyn FileFormat>,
    files: Vec<PartitionedFile>,
    since: Instant,
    schema: TableSchema,
}

/// A column that the names of folders give.
pub(super) type FolderColumn = FieldRef;

impl FilesTable {
    /// Of files with these columns and those of their folders.
    ///
    /// # Errors
    /// When the name of a folder is no value of its column.
    pub(super) fn try_new(
        place: Location,
        kind: Format,
        format: Arc<dyn FileFormat>,
        files: Vec<File>,
        schema: SchemaRef,
        columns: Vec<FolderColumn>,
    ) -> Result<Self> {
        Ok(Self {
            place,
            kind,
            format,
            files: with_values(files, &columns)?,
            since: Instant::now(),
            schema: TableSchema::builder(schema)
                .with_table_partition_cols(columns)
                .build(),
        })
    }

    /// The files as they are now.
    async fn files(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Vec<PartitionedFile>> {
        let session = state.as_any().downcast_ref::<SessionState>();
        let Some(session) = session.filter(|_| self.since.elapsed() > FRESH) else {
            return Ok(self.files.clone());
        };
        let found = found(session, store, &self.place).await?;
        let columns = self.schema.table_partition_cols();
        let names = columns.iter().map(|column| column.name());
        if found.format != self.kind || !names.eq(&found.columns) {
            return plan_err!(
                "'{}': its files are of another format now, or its folders give other columns",
                self.place.written
            );
        }
        with_values(found.files, columns)
    }

    fn is_of_folders(&self, filter: &Expr) -> bool {
        let columns = self.schema.table_partition_cols();
        let names: Vec<&str> = columns
            .iter()
            .map(|column| column.name().as_str())
            .collect();
        !names.is_empty() && expr_applicable_for_cols(&names, filter)
    }

    /// The files that conditions on folders leave.
    fn pruned(
        &self,
        files: Vec<PartitionedFile>,
        filters: &[Expr],
    ) -> Result<Vec<PartitionedFile>> {
        let filters: Vec<Expr> = filters
            .iter()
            .filter(|filter| self.is_of_folders(filter))
            .cloned()
            .collect();
        if filters.is_empty() {
            return Ok(files);
        }
        let columns = Schema::new(self.schema.table_partition_cols().clone());
        let columns = DFSchema::try_from(columns)?;
        let files = files.into_iter();
        let kept = files.map(|file| filter_partitioned_file(file, &filters, &columns));
        kept.filter_map(Result::transpose).collect()
    }
}

/// Files with their values of the columns that folders give.
fn with_values(files: Vec<File>, columns: &[FolderColumn]) -> Result<Vec<PartitionedFile>> {
    let file = |file: File| {
        let values = columns.iter().zip(file.values);
        let values = values.map(|(column, value)| match value {
            None => ScalarValue::try_new_null(column.data_type()),
            Some(value) => {
                let parsed = ScalarValue::try_from_string(value.clone(), column.data_type());
                parsed.map_err(|_| {
                    plan_datafusion_err!(
                        "{}: its folder gives '{value}' for the column '{}', which is of type {} in the files",
                        file.meta.location,
                        column.name(),
                        column.data_type()
                    )
                })
            }
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        Ok(PartitionedFile::new_from_meta(file.meta).with_partition_values(values))
    };
    files.into_iter().map(file).collect()
}

/// The columns of files and of their folders. One that both have has its type in the files.
///
/// # Errors
/// When a column that both have cannot be left out of the files.
pub(super) fn with_folders(
    schema: &SchemaRef,
    names: &[String],
    default: &arrow::datatypes::DataType,
    is_by_name: bool,
) -> Result<(SchemaRef, Vec<FolderColumn>)> {
    let column = |name: &String| {
        let of_files = schema
            .column_with_name(name)
            .map(|(_, field)| field.data_type());
        if of_files.is_some() && !is_by_name {
            return plan_err!(
                "the column '{name}' is in the files, and the names of their folders give it, too; accepted: files \
                 without it"
            );
        }
        let data_type = of_files.unwrap_or(default).clone();
        Ok(Arc::new(Field::new(name, data_type, true)))
    };
    let columns = names.iter().map(column).collect::<Result<Vec<_>>>()?;
    if !names
        .iter()
        .any(|name| schema.column_with_name(name).is_some())
    {
        return Ok((Arc::clone(schema), columns));
    }
    let kept = schema.fields().iter();
    let kept = kept.filter(|field| !names.contains(field.name())).cloned();
    let kept = Schema::new_with_metadata(kept.collect::<Vec<_>>(), schema.metadata().clone());
    Ok((Arc::new(kept), columns))
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let store = state.runtime_env().object_store(&self.place.store)?;
        let files = self.files(state, &store).await?;
        let files = self.pruned(files, filters)?;
        if files.is_empty() {
            let schema = project_schema(&self.schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let collects = state.config().collect_statistics();
        let schema = self.schema.file_schema();
        let with_statistics = async |file: PartitionedFile| -> Result<_> {
            if !collects {
                return Ok(file);
            }
            let meta = &file.object_meta;
            let statistics = self
                .format
                .infer_stats(state, &store, Arc::clone(schema), meta)
                .await?;
            Ok(file.with_statistics(Arc::new(statistics)))
        };
        let at_once = state
            .config_options()
            .execution
            .meta_fetch_concurrency
            .get();
        let mut found = futures::stream::iter(files)
            .map(with_statistics)
            .buffered(at_once);
        // The first files may hold all rows that are asked for.
        let mut missing = limit.filter(|_| filters.iter().all(|of| self.is_of_folders(of)));
        let mut files = Vec::new();
        while let Some(file) = found.try_next().await? {
            let rows = file.statistics.as_ref().and_then(|of| match of.num_rows {
                Precision::Exact(rows) => Some(rows),
                _ => None,
            });
            missing = missing.map(|missing| missing.saturating_sub(rows.unwrap_or(0)));
            files.push(file);
            if missing == Some(0) {
                break;
            }
        }
        drop(found);
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let (groups, statistics) =
            compute_all_files_statistics(groups, self.schema(), collects, false)?;
        let source = self.format.file_source(self.schema.clone());
        let config = FileScanConfigBuilder::new(self.place.store.clone(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        self.format.create_physical_plan(state, config).await
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let pushed = filters
            .iter()
            .map(|filter| match self.is_of_folders(filter) {
                true => TableProviderFilterPushDown::Exact,
                false => TableProviderFilterPushDown::Inexact,
            });
        Ok(pushed.collect())
    }
}
