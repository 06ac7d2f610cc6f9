//! Where models are: a path, or a URL whose files are brought to this machine once.

#[cfg(feature = "remote")]
mod cache;
#[cfg(feature = "remote")]
mod hub;
#[cfg(feature = "remote")]
mod object_store;

use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// The local path of the model at a place: itself, unless the place is a URL. What is at a URL
/// is looked up once a process.
///
/// # Errors
/// When it cannot be brought here.
pub fn local(place: &str) -> Result<PathBuf, ModelError> {
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

    type Found = Arc<Mutex<Option<PathBuf>>>;
    static FOUND: LazyLock<Mutex<HashMap<String, Found>>> = LazyLock::new(Mutex::default);

    let found = {
        let mut places = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(place.to_owned()).or_default())
    };
    // Whoever else asks for this place waits here for the one download.
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = found.as_ref().filter(|path| path.exists()) {
        return Ok(path.clone());
    }
    let refuse = |reason: String| ModelError::new(Path::new(place), reason);
    let path = match scheme {
        "hf" => hub::fetch(rest),
        "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" | "adl" | "http" | "https" => {
            object_store::fetch(place)
        }
        other => Err(format!(
            "scheme '{other}'; accepted: a path, s3://, gs://, az://, http://, https://, \
             hf://org/name[@revision]"
        )),
    };
    let path = path.map_err(refuse)?;
    *found = Some(path.clone());
    Ok(path)
}
