//! JSON: objects, one to a line or in one array, of which each is a row.
//!
//! A file's form is told by its bytes and not by its name. Columns are those of all records that were looked
//! at; a later record with a field that none of them had is an error, since a row would lose it otherwise.

mod decoder;
mod framing;
mod shape;
mod source;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::config::{ConfigFileType, JsonOptions};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{GetExt, Statistics};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat as Writer;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, FileSinkConfig, FileSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::physical_expr::LexRequirement;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::bytes;
use super::sample::Sample;
use framing::{Form, Framing};
use shape::Records;
use source::JsonSource;

/// JSON files.
#[derive(Debug, Default, Clone)]
pub struct JsonFormat {
    options: JsonOptions,
    extension: &'static str,
    is_splittable: bool,
}

/// What was found in files.
#[derive(Debug)]
pub struct Found {
    pub schema: SchemaRef,
    /// Whether each record stands on a line of its own.
    pub is_lines: bool,
}

impl JsonFormat {
    /// Of files that are compressed in this way.
    pub fn new(options: JsonOptions, compression: CompressionTypeVariant) -> Self {
        let options = JsonOptions {
            compression,
            ..options
        };
        Self {
            options,
            extension: "json",
            is_splittable: false,
        }
    }

    /// Files may be read from any line on.
    pub fn with_splittable(mut self, is_splittable: bool) -> Self {
        self.is_splittable = is_splittable;
        self
    }

    fn compression(&self) -> FileCompressionType {
        self.options.compression.into()
    }

    /// Looks at the records of files.
    ///
    /// # Errors
    /// When one cannot be read or is no object; the message names the file.
    pub async fn look(
        &self,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<Found> {
        let mut records = Records::default();
        let mut is_lines = true;
        let mut sample = match self.options.schema_infer_max_rec {
            Some(records) => Sample::of_records(records),
            None => Sample::of(store, objects),
        };
        for object in objects {
            if !sample.begin_file() {
                break;
            }
            let name = bytes::name(store, &object.location);
            let failed = |reason: String| source::failed(&name, &reason);
            let mut framing = Framing::from(0);
            let chunks = bytes::of_file(store, &object.location, None, self.compression());
            let mut chunks = chunks.await.map_err(|error| failed(error.to_string()))?;
            let mut is_whole = true;
            while let Some(chunk) = chunks.try_next().await.map_err(|e| failed(e.to_string()))? {
                let pushed = framing.push::<String>(&chunk, |record| {
                    let added = records.add(record.text);
                    added.map_err(|error| {
                        let shown = decoder::beginning(record.text);
                        let offset = record.offset;
                        format!("the record at byte {offset}: {error}; it begins {shown}")
                    })?;
                    Ok(sample.take(record.text.len()))
                });
                if !pushed.map_err(failed)? {
                    is_whole = false;
                    break;
                }
            }
            if is_whole {
                framing.end().map_err(failed)?;
            }
            is_lines &= framing.form() == Form::Lines;
        }
        Ok(Found {
            schema: Arc::new(records.schema()),
            is_lines,
        })
    }
}

#[async_trait]
impl FileFormat for JsonFormat {
    fn get_ext(&self) -> String {
        self.extension.into()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        Ok(format!("{}{}", self.extension, compression.get_ext()))
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        Some(self.compression())
    }

    async fn infer_schema(
        &self,
        _state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        Ok(self.look(store, objects).await?.schema)
    }

    async fn infer_stats(
        &self,
        _state: &dyn Session,
        _store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        _object: &ObjectMeta,
    ) -> Result<Statistics> {
        Ok(Statistics::new_unknown(&table_schema))
    }

    async fn create_physical_plan(
        &self,
        _state: &dyn Session,
        config: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let config = FileScanConfigBuilder::from(config)
            .with_file_compression_type(self.compression())
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let writer = Writer::default().with_options(self.options.clone());
        writer
            .create_writer_physical_plan(input, state, config, order)
            .await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(JsonSource::new(table_schema, self.is_splittable))
    }
}

/// Makes [`JsonFormat`]s for files of one extension.
#[derive(Debug)]
pub(super) struct JsonFormatFactory {
    extension: &'static str,
}

impl JsonFormatFactory {
    /// For files that end in this.
    pub(super) fn new(extension: &'static str) -> Self {
        Self { extension }
    }
}

impl GetExt for JsonFormatFactory {
    fn get_ext(&self) -> String {
        self.extension.into()
    }
}

impl FileFormatFactory for JsonFormatFactory {
    fn create(
        &self,
        state: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        let mut defaults = state.default_table_options();
        defaults.set_config_format(ConfigFileType::JSON);
        defaults.alter_with_string_hash_map(options)?;
        Ok(Arc::new(JsonFormat {
            options: defaults.json,
            extension: self.extension,
            is_splittable: false,
        }))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(JsonFormat {
            extension: self.extension,
            ..JsonFormat::default()
        })
    }
}
