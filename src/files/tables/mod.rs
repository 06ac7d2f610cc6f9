//! Files as tables: a path or a URL in the place of a table's name.
//!
//! What comes in is a place: a file, a folder, or a pattern with `*`, `**`, `?`, `[ab]` and `{a,b}`, on this
//! machine or in an object store that the session knows. What goes out is a table of the files there: Parquet,
//! Arrow, CSV, TSV and JSON, the last three compressed or not, told by their names.

mod bytes;
mod csv;
#[cfg(feature = "remote")]
mod dataset;
mod files_table;
mod formats;
mod found;
mod json;
mod listing;
mod location;
mod sample;
mod session;

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::config::CsvOptions;
use datafusion::common::plan_datafusion_err;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use object_store::{ObjectMeta, ObjectStore};

use files_table::{FilesTable, with_folders};
use found::found;
use listing::Files;
use location::Location;

pub use formats::{Format, Kind};
pub use json::JsonFormat;
pub use location::refuse_account;
pub use session::{Tables, enable, enable_with, register_formats};

/// The table at a place. None: what is written is a name and no place.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> datafusion::error::Result<()> {
/// use datafusion::prelude::SessionContext;
///
/// let ctx = SessionContext::new();
/// let pairs = datafusion_ches::tables::open(&ctx.state(), "examples/data/preferences.jsonl").await?;
/// let pairs = ctx.read_table(pairs.expect("a path"))?;
/// assert!(pairs.count().await? > 0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When nothing is there, or what is there cannot be read; the message tells what is there, and what can be
/// read.
pub async fn open(state: &SessionState, place: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(place) = Location::parse(place)? else {
        return Ok(None);
    };
    let store = store(state, &place)?;
    let found = found(state, &store, &place).await?;
    let table = table(state, &store, place, found).await?;
    Ok(Some(Arc::new(table)))
}

/// The session's store of a place; with the feature `remote`, one with the account of the environment where it has
/// none yet.
fn store(state: &SessionState, place: &Location) -> Result<Arc<dyn ObjectStore>> {
    let runtime = state.runtime_env();
    let found = runtime.object_store(&place.store);
    #[cfg(feature = "remote")]
    if found.is_err() {
        let refused = |reason: String| plan_datafusion_err!("'{}': {reason}", place.written);
        let url: &url::Url = place.store.as_ref();
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "hf" if url.host_str() == Some("datasets") => {
                let store = crate::files::hub::DatasetStore::from_env();
                Arc::new(store.map_err(|error| refused(error.to_string()))?)
            }
            _ => {
                crate::files::stores::open_url(url.as_str(), &[])
                    .map_err(refused)?
                    .0
            }
        };
        runtime.register_object_store(url, Arc::clone(&store));
        return Ok(store);
    }
    found
}

/// Bytes of a Parquet file's end that are read at first where each file is a request to the Hub.
const HUB_FOOTER: usize = 64 << 10;

fn is_of_hub(place: &Location) -> bool {
    place.store.as_str().starts_with("hf://")
}

async fn table(
    state: &SessionState,
    store: &Arc<dyn ObjectStore>,
    place: Location,
    found: Files,
) -> Result<FilesTable> {
    let Files {
        format,
        files,
        columns,
    } = found;
    let objects: Vec<ObjectMeta> = files.iter().map(|file| file.meta.clone()).collect();
    let options = state.default_table_options();
    let mut is_by_name = true;
    let compression = format.compression;
    let (reader, schema): (Arc<dyn FileFormat>, _) = match format.kind.clone() {
        Kind::Json => {
            is_by_name = false;
            let format = JsonFormat::new(options.json, compression);
            let found = format.look(store, &objects).await?;
            let format = format.with_splittable(found.is_lines);
            (Arc::new(format), found.schema)
        }
        kind @ (Kind::Csv | Kind::Tsv) => {
            is_by_name = false;
            let mut options = CsvOptions {
                compression,
                newlines_in_values: Some(true),
                ..options.csv
            };
            if kind == Kind::Tsv {
                options.delimiter = b'\t';
            }
            let has_header = options.has_header;
            let has_header =
                has_header.unwrap_or_else(|| state.config_options().catalog.has_header);
            let schema = csv::schema(store, &objects, &options, has_header).await?;
            (Arc::new(CsvFormat::default().with_options(options)), schema)
        }
        kind @ (Kind::Parquet | Kind::Arrow | Kind::Other(_)) => {
            let mut parquet = options.parquet;
            if is_of_hub(&place) {
                // The ends of many files are read to plan a query.
                let hint = &mut parquet.global.metadata_size_hint;
                *hint = hint.map(|bytes| bytes.min(HUB_FOOTER));
            }
            let format: Arc<dyn FileFormat> = match kind {
                Kind::Parquet => Arc::new(ParquetFormat::default().with_options(parquet)),
                Kind::Other(extension) => match state.get_file_format_factory(&extension) {
                    Some(factory) => factory.create(state, &Default::default())?,
                    None => Arc::new(ArrowFormat),
                },
                Kind::Arrow | Kind::Json | Kind::Csv | Kind::Tsv => Arc::new(ArrowFormat),
            };
            let schema = format.infer_schema(state, store, &objects).await;
            let schema =
                schema.map_err(|error| plan_datafusion_err!("'{}': {error}", place.written))?;
            (format, schema)
        }
    };
    let of_folders = DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8));
    let (schema, columns) = with_folders(&schema, &columns, &of_folders, is_by_name)
        .map_err(|error| plan_datafusion_err!("'{}': {error}", place.written))?;
    FilesTable::try_new(place, format, reader, files, schema, columns)
}
