//! Files and URLs as tables, and Delta tables among them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{TableProvider, UrlTableFactory};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;
use datafusion_ches::tables::{self, Tables, enable_with, refuse_account, register_formats};

#[cfg(feature = "cluster")]
use super::cluster::listing;
#[cfg(feature = "delta")]
use super::delta::LakeTable;

/// Lets URLs and paths be tables of a session, whose queries may run on a cluster.
///
/// # Errors
/// When the session refuses a format.
pub(super) fn enable_url_tables(ctx: SessionContext, on_cluster: bool) -> Result<SessionContext> {
    let tables = Arc::new(UrlTables {
        inner: Tables::default(),
        on_cluster,
    });
    let ctx = enable_with(ctx, Arc::clone(&tables) as _);
    tables.inner.belong_to(&ctx);
    if !on_cluster {
        register_formats(&ctx)?;
    }
    Ok(ctx)
}

#[derive(Debug)]
struct UrlTables {
    inner: Tables,
    #[cfg_attr(not(feature = "cluster"), allow(dead_code))]
    on_cluster: bool,
}

/// Whether a URL or path may be a directory's: it is no pattern, and does not end like a file of a known format.
#[cfg(feature = "delta")]
fn may_be_directory(state: &SessionState, url: &str) -> bool {
    let extension = std::path::Path::new(url).extension();
    let extension = extension.and_then(|extension| extension.to_str());
    let is_known = |extension: &str| state.get_file_format_factory(extension).is_some();
    let is_file = extension.is_some_and(is_known) || url.contains(['*', '?', '[', '{']);
    !is_file || std::path::Path::new(url).is_dir()
}

fn has_store(state: &SessionState, url: &ListingTableUrl) -> bool {
    state.runtime_env().object_store(url).is_ok()
}

#[async_trait]
impl UrlTableFactory for UrlTables {
    async fn try_new(&self, url: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        refuse_account(url)?;
        let Some(state) = self.inner.state() else {
            return Ok(None);
        };
        // The catalog around this opens the store, and asks again.
        let is_url = url.contains("://");
        if is_url && ListingTableUrl::parse(url).is_ok_and(|url| !has_store(&state, &url)) {
            return Ok(None);
        }
        #[cfg(feature = "delta")]
        if may_be_directory(&state, url)
            && !url.starts_with("hf://")
            && let Some(table) = LakeTable::at_url(&state, url).await?
        {
            return Ok(Some(table));
        }
        #[cfg(feature = "cluster")]
        if self.on_cluster {
            return listing::open(&state, url).await;
        }
        tables::open(&state, url).await
    }
}
