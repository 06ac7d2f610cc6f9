//! The folder that models of URLs are kept in: below `CHES_CACHE_DIR`, or else `ches` in the
//! user's cache directory.
//!
//! A model is a folder there that appears whole, under a name made of its URL and of what the
//! server says of its files; a changed model is another folder.

use std::fs::File;
use std::path::{Path, PathBuf};

/// A folder of the cache that is not there yet, and that no other process is filling.
#[derive(Debug)]
pub(super) struct DownloadSlot {
    folder: PathBuf,
    part: PathBuf,
    /// Locked until this is dropped, also by the end of the process.
    _lock: File,
}

/// The folder of that name, if it is there, or the right to fill it.
#[derive(Debug)]
pub(super) enum Entry {
    Filled(PathBuf),
    Vacant(DownloadSlot),
}

fn root() -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("CHES_CACHE_DIR") {
        return Ok(folder.into());
    }
    let of_user = match set("XDG_CACHE_HOME") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => std::env::home_dir().map(|home| home.join(".cache")),
    };
    let of_user = of_user.ok_or("there is no home directory; set CHES_CACHE_DIR")?;
    Ok(of_user.join("ches"))
}

/// Looks a folder up; waits while another process fills it.
///
/// # Errors
/// When the cache cannot be written.
pub(super) fn entry(name: &str) -> Result<Entry, String> {
    let models = root()?.join("models");
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&models).map_err(|error| failed(&models, error))?;
    let folder = models.join(name);
    if folder.is_dir() {
        return Ok(Entry::Filled(folder));
    }
    let lock = models.join(format!("{name}.lock"));
    let file = File::create(&lock).map_err(|error| failed(&lock, error))?;
    file.lock().map_err(|error| failed(&lock, error))?;
    if folder.is_dir() {
        return Ok(Entry::Filled(folder));
    }
    let part = models.join(format!("{name}.part"));
    std::fs::create_dir_all(&part).map_err(|error| failed(&part, error))?;
    Ok(Entry::Vacant(DownloadSlot {
        folder,
        part,
        _lock: file,
    }))
}

impl DownloadSlot {
    /// Where a file of the folder goes before the folder is there. A file that an earlier process
    /// finished there is still right: the folder's name says which version it is.
    pub(super) fn place(&self, file: &str) -> PathBuf {
        self.part.join(file)
    }

    /// Makes the folder appear.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(super) fn fill(self) -> Result<PathBuf, String> {
        std::fs::rename(&self.part, &self.folder)
            .map_err(|error| format!("{}: {error}", self.folder.display()))?;
        Ok(self.folder)
    }
}
