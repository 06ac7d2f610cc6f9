//! Where a COPY writes, and what is there already.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::dml::CopyTo;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use url::Url;

use super::claim::Claim;
use super::run_names::suffix_of;

/// Beside a directory, its manifest.
pub(super) const MANIFEST: &str = ".ches-manifest.json";

/// Beside a directory in an object store, the claim of the run that writes it.
pub(super) const CLAIM: &str = ".ches-run.json";

/// Beside a local directory or file, the same.
pub(super) const LOCK: &str = ".ches-run.lock";

/// Where a COPY writes.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    pub(super) store: Arc<dyn ObjectStore>,
    /// Within the store.
    pub(super) path: Path,
    pub(super) is_directory: bool,
    /// On this machine.
    pub(super) local: Option<PathBuf>,
    /// The first folder above a local one that is not there yet.
    pub(super) made: Option<PathBuf>,
}

impl Target {
    pub(super) fn of(ctx: &SessionContext, copy: &CopyTo) -> Result<Self> {
        let url = ListingTableUrl::parse(&copy.output_url)?;
        let is_directory = match copy.options.get("single_file_output").map(|of| of.trim()) {
            _ if !copy.partition_by.is_empty() => true,
            Some("true") => false,
            Some("false") => true,
            _ => url.is_collection() || url.file_extension().is_none(),
        };
        if let Some(glob) = url.get_glob() {
            let reason = format!("'{glob}' is a pattern; accepted: a name");
            return Err(refused(url.as_str(), &reason));
        }
        let is_file_url = url.scheme() == "file";
        let local = is_file_url
            .then(|| url.get_url().to_file_path().ok())
            .flatten();
        let missing = |folder: &&FilePath| !folder.exists();
        let made = local.as_deref().map(FilePath::ancestors);
        let made = made.and_then(|folders| folders.take_while(missing).last());
        Ok(Self {
            made: made.map(FilePath::to_owned),
            store: ctx.runtime_env().object_store(&url)?,
            path: url.prefix().clone(),
            url: url.get_url().clone(),
            is_directory,
            local,
        })
    }

    /// The place of something beside it.
    pub(super) fn beside(&self, suffix: &str) -> Result<Path, String> {
        if self.path.as_ref().is_empty() {
            let reason = "the root of a store has no place beside it for the manifest; accepted: a \
                          directory below";
            return Err(reason.into());
        }
        Path::parse(format!("{}{suffix}", self.path)).map_err(|error| error.to_string())
    }

    pub(super) fn lock_path(&self, local: &FilePath) -> Result<PathBuf, String> {
        let Some(name) = local.file_name() else {
            return Err("accepted: a directory below the root".into());
        };
        let mut name = name.to_owned();
        name.push(LOCK);
        Ok(local.with_file_name(name))
    }

    /// The claim that a run needs to write here. A single object needs none: it appears whole, and the
    /// last one stays.
    pub(super) async fn claim(&self, run: &str) -> Result<Option<Claim>, String> {
        match &self.local {
            Some(local) => Claim::lock(self.lock_path(local)?, run).map(Some),
            None if self.is_directory => {
                let place = self.beside(CLAIM)?;
                let claim = Claim::lease(Arc::clone(&self.store), place, run).await;
                claim.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Every file that is there, by path within the directory; those of unfinished local writes too.
    pub(super) async fn files(&self) -> Result<Vec<String>, String> {
        if let Some(local) = &self.local {
            let mut files = Vec::new();
            let walked = files_below(local, &mut files);
            walked.map_err(|error| format!("{}: {error}", local.display()))?;
            let within = |file: &PathBuf| Some(file.strip_prefix(local).ok()?.to_str()?.to_owned());
            let names: Option<Vec<String>> = files.iter().map(within).collect();
            return names.ok_or_else(|| "the name of a file there is not Unicode".into());
        }
        let listed: object_store::Result<Vec<_>> =
            self.store.list(Some(&self.path)).try_collect().await;
        let listed = listed.map_err(|error| error.to_string())?;
        let within = listed.iter().filter_map(|file| {
            let rest = file.location.as_ref().strip_prefix(self.path.as_ref())?;
            Some(rest.trim_start_matches('/').to_owned())
        });
        Ok(within.filter(|name| !name.is_empty()).collect())
    }

    /// Removes a file by its path within the directory.
    pub(super) async fn remove(&self, file: &str) -> Result<(), String> {
        if let Some(local) = &self.local {
            let path = local.join(file);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
            // Partitions that are empty now; one that is not stays.
            let mut folder = path.parent();
            while let Some(empty) = folder.filter(|folder| *folder != local) {
                if std::fs::remove_dir(empty).is_err() {
                    break;
                }
                folder = empty.parent();
            }
            return Ok(());
        }
        let path = Path::parse(format!("{}/{file}", self.path));
        let path = path.map_err(|error| error.to_string())?;
        match self.store.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Begins an upload of a single object and gives it up: a place that cannot be written is noticed
    /// before anything is computed.
    pub(super) async fn try_upload(&self) -> Result<(), String> {
        if self.local.is_some() {
            return Ok(());
        }
        match self.store.put_multipart(&self.path).await {
            Ok(mut upload) => upload.abort().await.map_err(|error| error.to_string()),
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes what runs left of a single local file.
    pub(super) fn remove_unfinished(&self, runs: &[String]) -> std::io::Result<()> {
        let Some(local) = &self.local else {
            return Ok(());
        };
        let (Some(folder), Some(name)) = (local.parent(), local.file_name()) else {
            return Ok(());
        };
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.file_name();
            let suffix = file.to_str().zip(name.to_str());
            let suffix = suffix.and_then(|(file, name)| file.strip_prefix(name));
            // What follows the run's name is of the store, while it writes.
            if suffix.is_some_and(|found| runs.iter().any(|run| found.starts_with(&suffix_of(run))))
            {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes folders that were not there before the run and are empty.
    pub(super) fn remove_empty(&self) {
        let Some(first) = &self.made else {
            return;
        };
        let mut folder = self.local.as_deref();
        while let Some(empty) = folder.filter(|folder| folder.starts_with(first)) {
            // What is not there need not be removed.
            let _ = std::fs::remove_dir(empty);
            folder = empty.parent();
        }
    }
}

fn files_below(folder: &FilePath, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The error of a place that cannot be written.
pub(super) fn refused(place: &str, reason: &str) -> DataFusionError {
    DataFusionError::Execution(format!("{place}: {reason}"))
}
