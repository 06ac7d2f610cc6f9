//! Reading files that are small whatever they claim.

use std::io::ErrorKind;
use std::path::Path;

use crate::files::error::ModelError;

/// The bytes of a file, if it is there.
///
/// # Errors
/// When it is no regular file, larger than `most` bytes, or cannot be read.
pub(super) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, ModelError> {
    let refuse = |reason: String| ModelError::new(path, reason);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error.to_string())),
    };
    if !metadata.is_file() {
        return Err(refuse("not a regular file".into()));
    }
    if metadata.len() > most {
        let found = metadata.len();
        return Err(refuse(format!("{found} bytes; accepted: up to {most}")));
    }
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    Ok(Some(bytes))
}
