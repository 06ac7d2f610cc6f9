//! Files as tables: a path or a URL in the place of a table's name.
//!
//! What comes in is a place: a file, a folder, or a pattern with `*`, `**`, `?`, `[ab]` and `{a,b}`, on this
//! machine or in an object store that the session knows. What goes out is a table of the files there: Parquet,
//! Arrow, CSV, TSV and JSON, the last three compressed or not, told by their names.

mod bytes;
mod csv;
mod files_table;
mod formats;
mod json;
mod listing;
mod place;
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
use listing::Files;
use place::Place;

pub use formats::{Format, Kind};
pub use json::JsonFormat;
pub use place::refuse_account;
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
    let Some(place) = Place::parse(place)? else {
        return Ok(None);
    };
    let store = state.runtime_env().object_store(&place.store)?;
    let is_known = |extension: &str| state.get_file_format_factory(extension).is_some();
    let found = listing::list(&store, &place, is_known).await?;
    let table = table(state, &store, &place, found).await?;
    Ok(Some(Arc::new(table)))
}

async fn table(
    state: &SessionState,
    store: &Arc<dyn ObjectStore>,
    place: &Place,
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
    let (format, schema): (Arc<dyn FileFormat>, _) = match format.kind {
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
        kind => {
            let format: Arc<dyn FileFormat> = match kind {
                Kind::Parquet => Arc::new(ParquetFormat::default().with_options(options.parquet)),
                Kind::Other(extension) => match state.get_file_format_factory(&extension) {
                    Some(factory) => factory.create(state, &Default::default())?,
                    None => Arc::new(ArrowFormat),
                },
                _ => Arc::new(ArrowFormat),
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
    FilesTable::try_new(place.store.clone(), format, files, schema, columns)
}
