//! Delta Lake tables: read at any version, appended to, and overwritten.
//!
//! A statement sees one version of a table, the newest when it began, in all the places that name it: what
//! `INSERT OVERWRITE` replaces is what its query read, and rows that others append meanwhile are theirs.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateExternalTable, Expr, LogicalPlan, TableProviderFilterPushDown, TableSource, TableType,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories,
};
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaResult, DeltaTable, DeltaTableBuilder};
use url::Url;

use super::output::is_of_an_account;

/// What `STORED AS` calls such tables; the second name is delta-rs's own.
pub(super) const FORMATS: [&str; 2] = ["DELTA", "DELTATABLE"];

/// The version to read, from 0 on.
const VERSION: &str = "delta.version";

/// Reads the version that was the newest at this time (RFC 3339).
const TIMESTAMP: &str = "delta.timestamp";

/// Options of `CREATE EXTERNAL TABLE … STORED AS DELTA`: which ones there are. Their values are read where
/// the table is made.
#[derive(Debug, Clone, Default)]
pub(super) struct DeltaOptions;

impl ExtensionOptions for DeltaOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _value: &str) -> Result<()> {
        if matches!(key, VERSION | TIMESTAMP) {
            return Ok(());
        }
        Err(DataFusionError::Configuration(format!(
            "option '{key}' of a Delta table; accepted: {VERSION}, {TIMESTAMP}"
        )))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

impl ConfigExtension for DeltaOptions {
    const PREFIX: &'static str = "delta";
}

/// Which version of a table is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Newest,
    Version(u64),
    Time(DateTime<Utc>),
}

impl At {
    /// By the options of CREATE EXTERNAL TABLE.
    fn of(options: &HashMap<String, String>) -> Result<Self> {
        let mut at = Self::Newest;
        for (name, value) in options {
            let refused = |accepted: &str| {
                let found = format!("'{name}' = '{value}'");
                DataFusionError::Configuration(format!(
                    "option {found} of a Delta table; accepted: {accepted}"
                ))
            };
            let named = match name.to_ascii_lowercase().as_str() {
                "delta.version" => {
                    Self::Version(value.parse().map_err(|_| refused("a number from 0 on"))?)
                }
                TIMESTAMP => {
                    let time = DateTime::parse_from_rfc3339(value);
                    let time = time.map_err(|_| refused("a time such as 2026-01-31T12:00:00Z"))?;
                    Self::Time(time.to_utc())
                }
                _ if is_of_an_account(name) => continue,
                _ => return Err(refused("delta.version, delta.timestamp")),
            };
            if at != Self::Newest {
                return Err(refused("either delta.version or delta.timestamp"));
            }
            at = named;
        }
        Ok(at)
    }
}

/// The URL of a table's directory, without a slash at its end.
fn directory_url(place: &str) -> Result<Url> {
    let refused = || {
        DataFusionError::Configuration(format!(
            "'{place}' is no place of a Delta table; accepted: a directory by path or URL"
        ))
    };
    let mut url = match place.contains("://") {
        true => Url::parse(place).map_err(|_| refused())?,
        false => {
            let path = std::path::absolute(place).map_err(|_| refused())?;
            Url::from_directory_path(path).map_err(|()| refused())?
        }
    };
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// A table at one version.
#[derive(Debug)]
pub(super) struct LakeTable {
    url: Url,
    at: At,
    version: Option<u64>,
    scan: Arc<dyn TableProvider>,
}

/// Schemes of the object stores whose conditional requests decide which of two commits is the next.
const BUCKETS: [&str; 7] = ["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"];

/// Logs in buckets, through the session's stores.
struct BucketLogs;

impl LogStoreFactory for BucketLogs {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(
            prefixed_store,
            root_store,
            location,
            options,
        ))
    }
}

/// Tells delta-rs, which without its own cloud stores knows of no buckets.
static KNOWN: LazyLock<()> = LazyLock::new(|| {
    for scheme in BUCKETS {
        let url = Url::parse(&format!("{scheme}://")).expect("a URL");
        logstore_factories().insert(url, Arc::new(BucketLogs));
    }
});

/// The table at a place, nothing of which is read yet.
fn at_place(session: &dyn Session, url: &Url) -> Result<DeltaTableBuilder> {
    LazyLock::force(&KNOWN);
    let store = session.runtime_env().object_store_registry.get_store(url)?;
    let builder = DeltaTableBuilder::from_url(url.clone()).map_err(|error| told(url, error))?;
    Ok(builder.with_storage_backend(store, url.clone()))
}

fn told(url: &Url, error: impl std::fmt::Display) -> DataFusionError {
    DataFusionError::Execution(format!("Delta table {url}: {error}"))
}

async fn is_table(session: &dyn Session, url: &Url) -> Result<bool> {
    let store = at_place(session, url)?.build_storage();
    let store = store.map_err(|error| told(url, error))?;
    let found = store.is_delta_table_location().await;
    found.map_err(|error| told(url, error))
}

impl LakeTable {
    async fn open(session: &SessionState, url: Url, at: At) -> Result<Self> {
        let builder = at_place(session, &url)?;
        let builder = match at {
            At::Newest => builder,
            At::Version(version) => builder.with_version(version),
            At::Time(time) => builder.with_timestamp(time),
        };
        let table = builder.load().await.map_err(|error| told(&url, error))?;
        Self::of(session, url, at, &table).await
    }

    async fn of(session: &SessionState, url: Url, at: At, table: &DeltaTable) -> Result<Self> {
        let provider = table
            .table_provider()
            .with_session(Arc::new(session.clone()));
        let scan = provider.await.map_err(|error| told(&url, error))?;
        let version = table.version();
        Ok(Self {
            url,
            at,
            version,
            scan,
        })
    }

    /// The table at a path or URL, if there is one.
    ///
    /// # Errors
    /// When the place cannot be looked at, or what is there cannot be read.
    pub(super) async fn at_url(session: &SessionState, place: &str) -> Result<Option<Arc<Self>>> {
        let Ok(url) = directory_url(place) else {
            return Ok(None);
        };
        if !is_table(session, &url).await.unwrap_or(false) {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self::open(session, url, At::Newest).await?)))
    }

    /// A new table without rows.
    async fn create(
        session: &SessionState,
        url: Url,
        schema: &Schema,
        partitioned_by: &[String],
    ) -> Result<Self> {
        let columns: StructType = schema
            .try_into_kernel()
            .map_err(|error: datafusion::arrow::error::ArrowError| told(&url, error))?;
        let store = at_place(session, &url)?.build_storage();
        let store = store.map_err(|error| told(&url, error))?;
        let create = CreateBuilder::new()
            .with_log_store(store)
            .with_columns(columns.fields().cloned())
            .with_partition_columns(partitioned_by.to_vec());
        let table = create.await.map_err(|error| told(&url, error))?;
        Self::of(session, url, At::Newest, &table).await
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }

    fn table_type(&self) -> TableType {
        self.scan.table_type()
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.scan.scan(session, projection, filters, limit).await
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.scan.supports_filters_pushdown(filters)
    }

    async fn insert_into(
        &self,
        session: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        insert: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.at != At::Newest {
            let version = self.version.unwrap_or_default();
            let reason = format!(
                "version {version} is history; accepted: the table without delta.version and delta.timestamp"
            );
            return Err(told(&self.url, reason));
        }
        self.scan.insert_into(session, input, insert).await
    }
}

/// Makes tables for `CREATE EXTERNAL TABLE … STORED AS DELTA`.
#[derive(Debug)]
pub(super) struct LakeTables;

#[async_trait]
impl TableProviderFactory for LakeTables {
    async fn create(
        &self,
        session: &dyn Session,
        command: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        let at = At::of(&command.options)?;
        let [place] = command.locations.as_slice() else {
            let many = command.locations.len();
            return Err(DataFusionError::Configuration(format!(
                "{many} locations of a Delta table; accepted: one"
            )));
        };
        let url = directory_url(place)?;
        let state = session.as_any().downcast_ref::<SessionState>();
        let Some(state) = state else {
            return Err(DataFusionError::Internal("a session without state".into()));
        };
        let declared = command.schema.as_arrow();
        if !is_table(session, &url).await? {
            if declared.fields().is_empty() || at != At::Newest {
                let reason =
                    "there is none; with columns in CREATE EXTERNAL TABLE it would be made";
                return Err(told(&url, reason));
            }
            let partitions = &command.table_partition_cols;
            return Ok(Arc::new(
                LakeTable::create(state, url, declared, partitions).await?,
            ));
        }
        let table = LakeTable::open(state, url, at).await?;
        let found = table.schema();
        let names = |schema: &Schema| {
            let fields = schema.fields().iter();
            let mut names: Vec<_> = fields.map(|field| field.name().clone()).collect();
            names.sort();
            names
        };
        if !declared.fields().is_empty() && names(declared) != names(&found) {
            let (found, declared) = (names(&found).join(", "), names(declared).join(", "));
            let reason =
                format!("it has the columns {found}, not {declared}; accepted: none, or its own");
            return Err(told(&table.url, reason));
        }
        Ok(Arc::new(table))
    }
}

fn lake_table(source: &Arc<dyn TableSource>) -> Option<Arc<dyn TableProvider>> {
    let provider = source_as_provider(source).ok()?;
    provider.downcast_ref::<LakeTable>()?;
    Some(provider)
}

/// The same plan over the versions that are the newest now.
///
/// # Errors
/// When a table cannot be read, or has other columns than it had.
pub(super) async fn at_one_version(ctx: &SessionContext, plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut sources: Vec<Arc<dyn TableProvider>> = Vec::new();
    plan.apply_with_subqueries(|node| {
        let source = match node {
            LogicalPlan::TableScan(scan) => lake_table(&scan.source),
            LogicalPlan::Dml(dml) => lake_table(&dml.target),
            _ => None,
        };
        sources.extend(source);
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut newest: HashMap<Url, Arc<dyn TableSource>> = HashMap::new();
    let state = ctx.state();
    for source in sources {
        let table = source.downcast_ref::<LakeTable>();
        let Some(table) = table.filter(|table| table.at == At::Newest) else {
            continue;
        };
        if newest.contains_key(&table.url) {
            continue;
        }
        let now = LakeTable::open(&state, table.url.clone(), At::Newest).await?;
        if now.schema() != table.schema() {
            let reason = "its columns have changed since it was named; accepted: to create the external table again";
            return Err(told(&table.url, reason));
        }
        let source = provider_as_source(Arc::new(now));
        newest.insert(table.url.clone(), source);
    }
    if newest.is_empty() {
        return Ok(plan);
    }
    let of_now = |source: &Arc<dyn TableSource>| {
        let provider = lake_table(source)?;
        let table = provider.downcast_ref::<LakeTable>()?;
        let now = newest.get(&table.url).filter(|_| table.at == At::Newest);
        now.cloned()
    };
    let plan = plan.transform_down_with_subqueries(|mut node| {
        match &mut node {
            LogicalPlan::TableScan(scan) => {
                if let Some(source) = of_now(&scan.source) {
                    scan.source = source;
                    return Ok(Transformed::yes(node));
                }
            }
            LogicalPlan::Dml(dml) => {
                if let Some(source) = of_now(&dml.target) {
                    dml.target = source;
                    return Ok(Transformed::yes(node));
                }
            }
            _ => {}
        }
        Ok(Transformed::no(node))
    })?;
    Ok(plan.data)
}
