//! The session that statements run in.

use std::sync::Arc;
use std::time::Duration;

use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_ches::{Ches, ModelScorer};
use datafusion_cli::catalog::DynamicObjectStoreCatalog;
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;

use super::args::Args;
use super::object_stores::ObjectStores;
use super::output::names;
use super::tables::enable_url_tables;
use super::watch::{Watch, WatchPlans};

/// How long a directory's files are believed to be the same: other jobs may replace them.
const LISTED: Duration = Duration::from_secs(60);

/// A session in which files and URLs are tables, with the CHES functions.
pub(super) async fn start(
    args: &Args,
    scorer: Arc<ModelScorer>,
    watch: Arc<Watch>,
    stores: Arc<InstrumentedObjectStoreRegistry>,
) -> Result<SessionContext> {
    let mut options = ConfigOptions::from_env()?;
    options.format.null = "NULL".into();
    let is_free = |variable: &str| std::env::var_os(variable).is_none();
    // Texts are wide: they are read for the rows that the cheap conditions keep.
    if is_free("DATAFUSION_EXECUTION_PARQUET_PUSHDOWN_FILTERS") {
        options.execution.parquet.pushdown_filters = true;
    }
    // What is written has the strings that every reader knows.
    if is_free("DATAFUSION_EXECUTION_PARQUET_SCHEMA_FORCE_VIEW_TYPES") {
        options.execution.parquet.schema_force_view_types = false;
    }
    if is_free("DATAFUSION_SQL_PARSER_MAP_STRING_TYPES_TO_UTF8VIEW") {
        options.sql_parser.map_string_types_to_utf8view = false;
    }
    let config = SessionConfig::from(options).with_information_schema(true);
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(ObjectStores::new(stores)))
        .with_object_list_cache_ttl(Some(LISTED))
        .build_arc()?;
    #[cfg(feature = "cluster")]
    let on_cluster = args.cluster.is_some();
    #[cfg(not(feature = "cluster"))]
    let on_cluster = false;
    let ctx = SessionContext::new_with_config_rt(config, runtime);
    let ctx = enable_url_tables(ctx, on_cluster)?;
    ctx.refresh_catalogs().await?;
    ctx.register_catalog_list(Arc::new(DynamicObjectStoreCatalog::new(
        Arc::clone(ctx.state().catalog_list()),
        ctx.state_weak_ref(),
    )));
    let mut ches = Ches::new().with_scorer(scorer);
    for (key, value) in [("model", &args.model), ("device", &args.device)] {
        if let Some(value) = value {
            ches = ches.with_setting(key, value)?;
        }
    }
    ches.register(&ctx)?;
    let state = ctx.state_ref();
    let mut state = state.write();
    let id = state.session_id().to_owned();
    let builder = SessionStateBuilder::new_from_existing(state.clone()).with_session_id(id);
    let watching = builder.with_physical_optimizer_rule(Arc::new(WatchPlans(watch)));
    *state = watching.build();
    names::register(&mut state)?;
    #[cfg(feature = "delta")]
    state.register_table_options_extension(super::delta::DeltaOptions);
    #[cfg(feature = "delta")]
    for format in super::delta::FORMATS {
        let factories = state.table_factories_mut();
        factories.insert(format.into(), Arc::new(super::delta::LakeTables));
    }
    for (key, value) in &args.set {
        state.config_mut().options_mut().set(key, value)?;
    }
    drop(state);
    Ok(ctx)
}
