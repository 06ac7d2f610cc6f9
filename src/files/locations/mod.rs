//! Where models are: a path, or a URL whose files are brought to this machine once.

#[cfg(feature = "remote")]
mod cache;
#[cfg(feature = "remote")]
mod hub;
#[cfg(feature = "remote")]
mod object_store;

use std::path::{Path, PathBuf};

use crate::files::error::ModelError;

/// The local path of the model at a place: itself, unless the place is a URL. What is at a URL
/// is looked up once a process.
///
/// # Errors
/// When it cannot be brought here.
pub(crate) fn local(place: &str) -> Result<PathBuf, ModelError> {
    match place.split_once("://") {
        None => Ok(Path::new(place).to_owned()),
        Some((scheme, rest)) => remote(place, scheme, rest),
    }
}

#[cfg(not(feature = "remote"))]
fn remote(place: &str, _scheme: &str, _rest: &str) -> Result<PathBuf, ModelError> {
    Err(ModelError::new(
        Path::new(place),
        "a URL; this build opens paths only (cargo feature remote)",
    ))
}

#[cfg(feature = "remote")]
fn remote(place: &str, scheme: &str, rest: &str) -> Result<PathBuf, ModelError> {
    use std::collections::HashMap;
    use std::sync::{Arc, LazyLock, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    /// How long a failure is remembered: one query asks several times.
    const REMEMBERED: Duration = Duration::from_secs(5);

    type Found = Arc<Mutex<Option<Result<PathBuf, (ModelError, Instant)>>>>;
    static FOUND: LazyLock<Mutex<HashMap<String, Found>>> = LazyLock::new(Mutex::default);

    let found = {
        let mut places = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(place.to_owned()).or_default())
    };
    // Other calls for this location wait here for the one download.
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    match &*found {
        Some(Ok(path)) if path.exists() => return Ok(path.clone()),
        Some(Err((error, since))) if since.elapsed() < REMEMBERED => return Err(error.clone()),
        _ => {}
    }
    // Without what may be secret.
    let (before_query, _) = place.split_once('?').unwrap_or((place, ""));
    let shown = match rest.split_once('@') {
        Some((_, after)) if scheme.starts_with("http") => format!("{scheme}://{after}"),
        _ => before_query.to_owned(),
    };
    let refuse = |reason: String| ModelError::new(Path::new(&shown), reason);
    let path = match &scheme.to_ascii_lowercase()[..] {
        "hf" => hub::fetch(rest),
        "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" | "adl" | "http" | "https" => {
            object_store::fetch(place)
        }
        other => Err(format!(
            "scheme '{other}'; accepted: a path, s3://, gs://, az://, http://, https://, \
             hf://org/name[@revision]"
        )),
    };
    let path = path.map_err(refuse);
    *found = Some(path.clone().map_err(|error| (error, Instant::now())));
    path
}
