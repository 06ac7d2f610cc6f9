//! Tables that a scheduler knows: those of DataFusion's own formats.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::listing::{
    ListingTable, ListingTableConfig, ListingTableConfigExt, ListingTableUrl,
};
use datafusion::error::Result;
use datafusion::execution::SessionState;

/// The files of a path or a URL. None: there are none of a format that the session knows.
///
/// # Errors
/// When they cannot be read.
pub(crate) async fn open(
    state: &SessionState,
    place: &str,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let files = match split_glob(place) {
        Some((base, glob)) => ListingTableUrl::parse(base)?.with_glob(glob)?,
        None => match ListingTableUrl::parse(place) {
            Ok(files) => files,
            Err(_) => return Ok(None),
        },
    };
    let Ok(config) = ListingTableConfig::new(files).infer_options(state).await else {
        return Ok(None);
    };
    let config = config.infer_partitions_from_path(state).await?;
    let table = ListingTable::try_new(config.infer_schema(state).await?)?;
    Ok(Some(Arc::new(table)))
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
            ("s3://bucket/a/", None),
            ("s3://bucket", None),
            ("a/*.parquet", None),
        ] {
            assert_eq!(split_glob(url), expected, "{url}");
        }
    }
}
