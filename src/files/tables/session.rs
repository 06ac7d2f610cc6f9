//! A session in which paths and URLs are tables.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{DynamicFileCatalog, Session, TableProvider, UrlTableFactory};
use datafusion::common::GetExt;
use datafusion::datasource::dynamic_file::DynamicListTableFactory;
use datafusion::datasource::file_format::csv::CsvFormatFactory;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;

use super::json::JsonFormatFactory;
use super::open;

/// The options of CSV that say what stands between values.
const DELIMITER: [&str; 2] = ["format.delimiter", "delimiter"];

/// Lets paths and URLs be tables of a session: `SELECT * FROM 'pairs.jsonl'`, as [`open`] reads them. JSON Lines
/// and TSV are formats of `CREATE EXTERNAL TABLE` and `COPY`, too.
///
/// Stores are the session's: a URL is read where one is registered for it.
///
/// # Errors
/// When the session refuses a format.
pub fn enable(ctx: SessionContext) -> Result<SessionContext> {
    let tables = Arc::new(Tables::default());
    let ctx = enable_with(ctx, Arc::clone(&tables) as _);
    tables.belong_to(&ctx);
    register_formats(&ctx)?;
    Ok(ctx)
}

/// Lets a session's unknown names be tables of a factory.
pub fn enable_with(ctx: SessionContext, factory: Arc<dyn UrlTableFactory>) -> SessionContext {
    let catalogs = Arc::clone(ctx.state().catalog_list());
    let catalogs = Arc::new(DynamicFileCatalog::new(catalogs, factory));
    let id = ctx.session_id();
    let builder = ctx.into_state_builder().with_session_id(id);
    builder.with_catalog_list(catalogs).build().into()
}

/// Adds the formats that a session does not have, and JSON as this crate reads it.
///
/// # Errors
/// When the session refuses one.
pub fn register_formats(ctx: &SessionContext) -> Result<()> {
    let state = ctx.state_ref();
    let mut state = state.write();
    for extension in ["json", "jsonl", "ndjson"] {
        state.register_file_format(Arc::new(JsonFormatFactory::new(extension)), true)?;
    }
    state.register_file_format(Arc::new(TsvFormatFactory), true)?;
    for format in ["JSONL", "NDJSON", "TSV"] {
        let factories = state.table_factories_mut();
        factories.insert(format.into(), Arc::new(ListingTableFactory::new()));
    }
    Ok(())
}

/// Tables by path and URL.
#[derive(Debug, Default)]
pub struct Tables {
    inner: DynamicListTableFactory,
}

impl Tables {
    /// Whose stores and options are meant.
    pub fn belong_to(&self, ctx: &SessionContext) {
        self.inner.session_store().with_state(ctx.state_weak_ref());
    }

    /// The session's, as it is now.
    pub fn state(&self) -> Option<SessionState> {
        let session = self.inner.session_store().get_session().upgrade()?;
        let session = session.read();
        session.as_any().downcast_ref::<SessionState>().cloned()
    }
}

#[async_trait]
impl UrlTableFactory for Tables {
    async fn try_new(&self, url: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.state() {
            Some(state) => open(&state, url).await,
            None => Ok(None),
        }
    }
}

/// CSV with tabs.
#[derive(Debug)]
struct TsvFormatFactory;

impl GetExt for TsvFormatFactory {
    fn get_ext(&self) -> String {
        "tsv".into()
    }
}

impl FileFormatFactory for TsvFormatFactory {
    fn create(
        &self,
        state: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        let mut options = options.clone();
        if !DELIMITER.iter().any(|key| options.contains_key(*key)) {
            options.insert(DELIMITER[0].into(), "\t".into());
        }
        CsvFormatFactory::new().create(state, &options)
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        CsvFormatFactory::new().default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    async fn sum(ctx: &SessionContext, table: &str) -> i64 {
        let sql = format!("SELECT sum(n) FROM {table}");
        let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    #[tokio::test]
    async fn a_session_reads_paths_and_a_view_what_is_there_now() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, n: u32| {
            std::fs::write(folder.path().join(name), format!("{{\"n\": {n}}}\n")).unwrap();
        };
        write("1.jsonl", 1);
        let ctx = enable(SessionContext::new()).unwrap();
        let place = format!("'{}/*.jsonl'", folder.path().display());
        let view = format!("CREATE VIEW v AS SELECT n FROM {place}");
        ctx.sql(&view).await.unwrap();
        assert_eq!(sum(&ctx, "v").await, 1);
        write("2.jsonl", 20);
        assert_eq!(sum(&ctx, &place).await, 21);
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert_eq!(sum(&ctx, "v").await, 21);

        let declared = format!(
            "CREATE EXTERNAL TABLE t STORED AS JSONL LOCATION '{}'",
            folder.path().join("2.jsonl").display()
        );
        ctx.sql(&declared).await.unwrap();
        assert_eq!(sum(&ctx, "t").await, 20);
    }
}
