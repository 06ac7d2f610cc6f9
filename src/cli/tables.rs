//! Files by URL as tables: what DataFusion reads, and globs in object stores besides.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{DynamicFileCatalog, TableProvider, UrlTableFactory};
use datafusion::datasource::dynamic_file::DynamicListTableFactory;
use datafusion::datasource::listing::{
    ListingTable, ListingTableConfig, ListingTableConfigExt, ListingTableUrl,
};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;

#[cfg(feature = "delta")]
use super::delta::LakeTable;
use super::urls::refuse_account;

/// Lets URLs and paths be tables of a session.
pub fn enable_url_tables(ctx: SessionContext) -> SessionContext {
    let tables = Arc::new(UrlTables::default());
    let catalogs = Arc::clone(ctx.state().catalog_list());
    let factory = Arc::clone(&tables) as Arc<dyn UrlTableFactory>;
    let catalogs = Arc::new(DynamicFileCatalog::new(catalogs, factory));
    let id = ctx.session_id();
    let builder = ctx.into_state_builder().with_session_id(id);
    let ctx: SessionContext = builder.with_catalog_list(catalogs).build().into();
    let sessions = tables.inner.session_store();
    sessions.with_state(ctx.state_weak_ref());
    ctx
}

#[derive(Debug, Default)]
struct UrlTables {
    inner: DynamicListTableFactory,
}

impl UrlTables {
    /// The session's, as it is now.
    fn state(&self) -> Option<SessionState> {
        let session = self.inner.session_store().get_session().upgrade()?;
        let session = session.read();
        session.as_any().downcast_ref::<SessionState>().cloned()
    }
}

/// Whether a URL or path may be a directory's: it does not end like a file of a known format.
#[cfg(feature = "delta")]
fn may_be_directory(state: &SessionState, url: &str) -> bool {
    let extension = std::path::Path::new(url).extension();
    let extension = extension.and_then(|extension| extension.to_str());
    let is_known = |extension: &str| state.get_file_format_factory(extension).is_some();
    !extension.is_some_and(is_known) || std::path::Path::new(url).is_dir()
}

#[async_trait]
impl UrlTableFactory for UrlTables {
    async fn try_new(&self, url: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        refuse_account(url)?;
        let Some((base, glob)) = split_glob(url) else {
            #[cfg(feature = "delta")]
            if let Some(state) = self.state()
                && may_be_directory(&state, url)
                && let Some(table) = LakeTable::at_url(&state, url).await?
            {
                return Ok(Some(table));
            }
            return self.inner.try_new(url).await;
        };
        let Some(state) = self.state() else {
            return Ok(None);
        };
        let files = ListingTableUrl::parse(base)?.with_glob(glob)?;
        let config = ListingTableConfig::new(files).infer_options(&state).await?;
        let config = config.infer_partitions_from_path(&state).await?;
        let table = ListingTable::try_new(config.infer_schema(&state).await?)?;
        Ok(Some(Arc::new(table)))
    }
}

/// The folder and the pattern of a URL that has one. Paths are DataFusion's to split.
fn split_glob(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let path = scheme.len() + 3 + rest.find('/')?;
    let first = path + url[path..].find(['*', '['])?;
    let folder = url[..first].rfind('/')? + 1;
    Some(url.split_at(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_of_urls() {
        for (url, expected) in [
            (
                "s3://bucket/a/b-*.parquet",
                Some(("s3://bucket/a/", "b-*.parquet")),
            ),
            ("s3://bucket/*/c", Some(("s3://bucket/", "*/c"))),
            ("gs://bucket/a/[bc]/", Some(("gs://bucket/a/", "[bc]/"))),
            ("s3://bucket/a/", None),
            ("s3://bucket", None),
            ("a/*.parquet", None),
        ] {
            assert_eq!(split_glob(url), expected, "{url}");
        }
    }
}
