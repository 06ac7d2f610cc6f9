//! Object stores by path or URL, their accounts from the environment variables of their clouds.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

/// The store of a URL and the place in it.
///
/// # Errors
/// When the URL holds a user, a password or a query, or the account is wrong.
#[cfg(feature = "remote")]
pub(crate) fn open_url(
    place: &str,
    more_options: &[(&str, &str)],
) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let url = Url::parse(place).map_err(|error| error.to_string())?;
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

/// The store of a directory, by path or URL, and its place there. `is_made`: a path that is not there is
/// made.
///
/// # Errors
/// Those of [`open_url`], and when the directory is not there or cannot be made.
pub(crate) fn open_directory(
    place: &str,
    is_made: bool,
) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let path = match place.split_once("://") {
        None => path_of(place)?,
        Some(("file", _)) => path_of_url(place)?,
        Some(_) => return open_url(place, &[]),
    };
    if is_made {
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
    }
    let whole = std::fs::canonicalize(path).map_err(|error| error.to_string())?;
    let path = Path::from_absolute_path(whole).map_err(|error| error.to_string())?;
    Ok((Arc::new(LocalFileSystem::new()), path))
}

/// A path, unless something else must have been meant.
fn path_of(place: &str) -> Result<PathBuf, String> {
    let scheme = place.split_once(':').map(|(scheme, _)| scheme);
    // One letter is a drive.
    let is_scheme = |scheme: &str| {
        scheme.len() > 1
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'+')
    };
    if let Some(scheme) = scheme.filter(|scheme| is_scheme(scheme)) {
        return Err(format!(
            "neither a URL nor a path; accepted: {scheme}://…, or ./{place} for a path"
        ));
    }
    if place == "~" || place.starts_with("~/") {
        return Err("'~' is a shell's; accepted: a whole path, or one within this folder".into());
    }
    Ok(place.into())
}

/// The path of a `file://` URL.
fn path_of_url(place: &str) -> Result<PathBuf, String> {
    let url = Url::parse(place).map_err(|error| error.to_string())?;
    let not_local = |()| "accepted: file:///path, with the escapes of a URL".to_owned();
    if url.query().is_some() || url.fragment().is_some() {
        return Err(not_local(()));
    }
    url.to_file_path().map_err(not_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_by_path_and_url() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let path = folder.join("a b");
        let url = format!("file://{}/a%20b", folder.display());
        assert!(open_directory(&url, false).is_err() && !path.exists());
        let (_, by_url) = open_directory(&url, true).unwrap();
        let (_, by_path) = open_directory(path.to_str().unwrap(), false).unwrap();
        assert_eq!(by_url, by_path);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        for place in [
            "s3:/bucket/a",
            "file:/tmp",
            "~/scores",
            "file://elsewhere/a",
            "file:///a?b",
        ] {
            assert!(
                open_directory(place, false)
                    .unwrap_err()
                    .contains("accepted: "),
                "{place}"
            );
        }
    }
}
