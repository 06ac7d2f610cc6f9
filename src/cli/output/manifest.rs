//! The manifest of a directory that was written: its files, and how they came to be. It is the commit.

use std::collections::BTreeMap;

use object_store::path::Path;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result, UpdateVersion,
};
use serde::{Deserialize, Serialize};

use crate::cli::scores::Scores;

/// Changes when a reader of an older one would misread it.
const FORMAT_VERSION: u32 = 1;

/// What a run wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Of the manifest's own form.
    pub format_version: u32,
    /// The run's name, with which the names of its files begin.
    pub run: String,
    /// When it began, RFC 3339.
    pub began: String,
    /// When it was committed.
    pub finished: String,
    /// Rows in all files.
    pub rows: u64,
    /// The files, by path within the directory.
    pub files: Vec<File>,
    /// The run whose files this one's took the place of, and which are removed after the commit.
    #[serde(default)]
    pub replaced: Vec<String>,
    /// What scoring came to; none where nothing was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// Where the scores come from: the model's fingerprint and more, as in the columns' metadata.
    pub provenance: BTreeMap<String, String>,
    /// The `ches.*` settings.
    pub settings: BTreeMap<String, Option<String>>,
    /// Of this command and of DataFusion.
    pub versions: BTreeMap<String, String>,
}

/// A file of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct File {
    /// Within the directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

impl Manifest {
    /// A run that has nothing yet.
    pub(super) fn begun(run: String, began: String) -> Self {
        let versions = [
            ("datafusion-ches", env!("CARGO_PKG_VERSION")),
            ("datafusion", datafusion::DATAFUSION_VERSION),
        ];
        let versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned()));
        Self {
            format_version: FORMAT_VERSION,
            run,
            began,
            finished: String::new(),
            rows: 0,
            files: Vec::new(),
            replaced: Vec::new(),
            scores: None,
            provenance: BTreeMap::new(),
            settings: BTreeMap::new(),
            versions: versions.into(),
        }
    }
}

/// A manifest that is there, and by what a change of it is noticed.
#[derive(Debug)]
pub(super) struct Committed {
    /// What it says.
    pub manifest: Manifest,
    version: UpdateVersion,
}

/// The manifest at a place, if there is one.
///
/// # Errors
/// When it cannot be read, or is none.
pub(super) async fn read(store: &dyn ObjectStore, place: &Path) -> Result<Option<Committed>> {
    let got = match store.get(place).await {
        Ok(got) => got,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let version = UpdateVersion {
        e_tag: got.meta.e_tag.clone(),
        version: got.meta.version.clone(),
    };
    let bytes = got.bytes().await?;
    let not_one = |reason: String| Error::Generic {
        store: "ches",
        source: format!("{place}: not a manifest of ches: {reason}").into(),
    };
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| not_one(error.to_string()))?;
    let is_own = |file: &File| {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let is_within = !folder.starts_with('/') && !folder.split('/').any(|part| part == "..");
        is_within && !manifest.run.is_empty() && name.starts_with(&manifest.run)
    };
    // What it names may be removed.
    if let Some(file) = manifest.files.iter().find(|file| !is_own(file)) {
        return Err(not_one(format!("'{}' is no file of its run", file.path)));
    }
    match manifest.format_version {
        FORMAT_VERSION => Ok(Some(Committed { manifest, version })),
        other => Err(not_one(format!(
            "format version {other}; accepted: {FORMAT_VERSION}"
        ))),
    }
}

/// Writes a manifest in the place of the one that was there when the run began, and of no other.
///
/// # Errors
/// When another run has committed meanwhile, or the store fails.
pub(super) async fn commit(
    store: &dyn ObjectStore,
    place: &Path,
    manifest: &Manifest,
    before: Option<&Committed>,
    is_locked: bool,
) -> Result<()> {
    let mode = match before {
        // Under the lock no other run writes.
        _ if is_locked => PutMode::Overwrite,
        None => PutMode::Create,
        Some(before) => PutMode::Update(before.version.clone()),
    };
    let bytes = serde_json::to_vec_pretty(manifest).map_err(|error| Error::Generic {
        store: "ches",
        source: error.into(),
    })?;
    put_if(store, place, bytes, mode).await.map(drop)
}

/// Writes an object on a condition. Where the answer to a request was lost, or it was sent again and the
/// condition failed because it was met before, what is there is what was to be written.
///
/// # Errors
/// When the condition is not met, or the store fails.
pub(super) async fn put_if(
    store: &dyn ObjectStore,
    place: &Path,
    bytes: Vec<u8>,
    mode: PutMode,
) -> Result<UpdateVersion> {
    let payload = PutPayload::from(bytes.clone());
    match store.put_opts(place, payload, PutOptions::from(mode)).await {
        Ok(put) => Ok(put.into()),
        Err(error) => {
            let there = version_of(store, place, &bytes).await;
            there.ok().flatten().ok_or(error)
        }
    }
}

/// The version of what is there, if it is these bytes.
async fn version_of(
    store: &dyn ObjectStore,
    place: &Path,
    bytes: &[u8],
) -> Result<Option<UpdateVersion>> {
    let got = store.get(place).await?;
    let version = UpdateVersion {
        e_tag: got.meta.e_tag.clone(),
        version: got.meta.version.clone(),
    };
    Ok((got.bytes().await? == bytes).then_some(version))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn place() -> Path {
        Path::from("out.ches-manifest.json")
    }

    fn manifest(run: &str) -> Manifest {
        Manifest::begun(run.into(), "2026-11-24T00:00:00Z".into())
    }

    #[tokio::test]
    async fn of_two_runs_that_began_together_one_is_committed() {
        let store = InMemory::new();
        assert!(read(&store, &place()).await.unwrap().is_none());
        commit(&store, &place(), &manifest("a"), None, false)
            .await
            .unwrap();
        let late = commit(&store, &place(), &manifest("b"), None, false).await;
        assert!(matches!(late, Err(Error::AlreadyExists { .. })), "{late:?}");

        let before = read(&store, &place()).await.unwrap();
        assert_eq!(before.as_ref().unwrap().manifest, manifest("a"));
        commit(&store, &place(), &manifest("c"), before.as_ref(), false)
            .await
            .unwrap();
        let late = commit(&store, &place(), &manifest("d"), before.as_ref(), false).await;
        assert!(matches!(late, Err(Error::Precondition { .. })), "{late:?}");
        let there = read(&store, &place()).await.unwrap().unwrap();
        assert_eq!(there.manifest.run, "c");
    }

    /// An answer was lost and the request sent again: the second time the condition fails.
    #[tokio::test]
    async fn what_was_written_before_is_written() {
        let store = InMemory::new();
        for _ in 0..2 {
            commit(&store, &place(), &manifest("a"), None, false)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_said() {
        let store = InMemory::new();
        for content in ["{}", "[", "{\"format_version\": 2}"] {
            store.put(&place(), content.into()).await.unwrap();
            let error = read(&store, &place()).await.unwrap_err().to_string();
            assert!(error.contains("not a manifest of ches"), "{error}");
        }
    }
}
