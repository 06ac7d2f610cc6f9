//! Object stores by path or URL, their accounts from the environment variables of their clouds.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

/// The store of a URL and the place in it.
///
/// # Errors
/// When the URL holds a user, a password or a query, or the account is wrong.
#[cfg(feature = "remote")]
pub fn open_url(
    place: &str,
    more_options: &[(&str, &str)],
) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let url = url::Url::parse(place).map_err(|error| error.to_string())?;
    if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("accepted: a URL without user, password and query".into());
    }
    let is_of_a_cloud = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["aws_", "google_", "azure_"]
            .iter()
            .any(|cloud| name.starts_with(cloud))
    };
    let mut options: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_of_a_cloud(name))
        .collect();
    let more = more_options.iter();
    options.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    if url.scheme() == "http" {
        options.push(("allow_http".into(), "true".into()));
    }
    let (store, path) =
        object_store::parse_url_opts(&url, options).map_err(|error| error.to_string())?;
    Ok((store.into(), path))
}

#[cfg(not(feature = "remote"))]
fn open_url(_: &str, _: &[(&str, &str)]) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    Err("a URL; this build opens paths only (cargo feature remote)".into())
}

/// The store of a directory, by path or URL, and its place there. A path that is not there is made.
///
/// # Errors
/// Those of [`open_url`], and when the directory cannot be made.
pub fn open_directory(place: &str) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let path = match place.split_once("://") {
        None => place,
        Some(("file", path)) => path,
        Some(_) => return open_url(place, &[]),
    };
    std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    let whole = std::fs::canonicalize(path).map_err(|error| error.to_string())?;
    let path = Path::from_absolute_path(whole).map_err(|error| error.to_string())?;
    Ok((Arc::new(LocalFileSystem::new()), path))
}
