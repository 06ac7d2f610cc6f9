//! Making few files of scores out of many.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::{EXTENSION, MAX_FILE_BYTES, VERSION, file, new_name};
use crate::files::stores;
use crate::scoring::memo::{Key, ModelScores};

/// Files of fewer bytes are put together,
const SMALL_BYTES: u64 = 8 << 20;

/// into files of about so many.
const WHOLE_BYTES: usize = 32 << 20;

/// What was done to the scores of one model.
#[derive(Debug, Default)]
pub struct Compacted {
    /// The model's fingerprint and type.
    pub model: String,
    /// Files before and after.
    pub files: [usize; 2],
    /// Rows that were put together, and in how many they are now.
    pub rows: [usize; 2],
    /// Files that could not be read and stay where they are, and why.
    pub ignored: Vec<(String, String)>,
}

/// Puts small files of every model's scores together. Those that others add meanwhile are left alone,
/// and a file is removed when its rows stand in another: at no time is a score in none.
///
/// # Errors
/// When the place cannot be listed, written, or cleared.
pub async fn compact(place: &str) -> Result<Vec<Compacted>, String> {
    let failed = |error: Error| format!("{place}: {error}");
    let (store, base) =
        stores::open_directory(place, false).map_err(|reason| format!("{place}: {reason}"))?;
    let base = base.join(VERSION);
    let models = store
        .list_with_delimiter(Some(&base))
        .await
        .map_err(failed)?;
    let mut done = Vec::new();
    for model in models.common_prefixes {
        done.push(compact_model(&*store, &model).await.map_err(failed)?);
    }
    Ok(done)
}

async fn compact_model(
    store: &dyn ObjectStore,
    directory: &Path,
) -> object_store::Result<Compacted> {
    let mut done = Compacted {
        model: directory.filename().unwrap_or_default().to_owned(),
        ..Compacted::default()
    };
    let mut files: Vec<ObjectMeta> = store.list(Some(directory)).try_collect().await?;
    files.retain(|file| file.location.extension() == Some(EXTENSION));
    files.sort_by(|a, b| a.location.cmp(&b.location));
    done.files = [files.len(); 2];
    files.retain(|file| file.size < SMALL_BYTES.min(MAX_FILE_BYTES));
    let mut merging = Merging::default();
    let mut files = files.into_iter().peekable();
    while let Some(found) = files.next() {
        match read(store, &found.location).await {
            Ok(entries) => merging.add(found.location, entries),
            Err(reason) => {
                let name = found.location.filename().unwrap_or_default().to_owned();
                done.ignored.push((name, reason));
            }
        }
        let is_last = files.peek().is_none();
        if merging.files.len() > 1 && (is_last || merging.bytes >= WHOLE_BYTES) {
            std::mem::take(&mut merging)
                .write(store, directory, &mut done)
                .await?;
        }
    }
    Ok(done)
}

async fn read(store: &dyn ObjectStore, path: &Path) -> Result<Vec<(Key, ModelScores)>, String> {
    let got = store.get(path).await.map_err(|error| error.to_string())?;
    let bytes = got.bytes().await.map_err(|error| error.to_string())?;
    match file::decode(bytes)? {
        (entries, 0) => Ok(entries),
        (_, damaged) => Err(format!("{damaged} of its rows are damaged")),
    }
}

/// Files that become one.
#[derive(Debug, Default)]
struct Merging {
    files: Vec<Path>,
    /// In the order in which they were first seen: that of the queries that will ask for them.
    entries: Vec<(Key, ModelScores)>,
    places: HashMap<Key, usize>,
    rows: usize,
    bytes: usize,
}

impl Merging {
    fn add(&mut self, path: Path, entries: Vec<(Key, ModelScores)>) {
        self.files.push(path);
        self.rows += entries.len();
        for (key, scores) in entries {
            match self.places.entry(key) {
                Entry::Occupied(place) => self.entries[*place.get()].1.add(scores),
                Entry::Vacant(place) => {
                    place.insert(self.entries.len());
                    self.bytes += scores.bytes();
                    self.entries.push((key, scores));
                }
            }
        }
    }

    async fn write(
        self,
        store: &dyn ObjectStore,
        directory: &Path,
        done: &mut Compacted,
    ) -> object_store::Result<()> {
        let bytes = file::encode(&self.entries).map_err(|reason| Error::Generic {
            store: "scores",
            source: reason.into(),
        })?;
        let path = directory.clone().join(new_name());
        store.put(&path, bytes.into()).await?;
        for old in &self.files {
            match store.delete(old).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        done.files[1] -= self.files.len() - 1;
        done.rows[0] += self.rows;
        done.rows[1] += self.entries.len();
        Ok(())
    }
}
