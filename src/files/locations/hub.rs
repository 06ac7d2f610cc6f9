//! Models of the Hugging Face Hub, in the Hub's own cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
//!
//! The cache is laid out as `huggingface_hub` 1.x does (`file_download.py`): what one has fetched the other finds.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;

use crate::files::hub::{Client, HubError, Kind, Located, open};
use crate::files::model_directory::{
    ADAPTER, CONFIG, INDEX, MAX_JSON_BYTES, TOKENIZER, WEIGHTS, shard_names,
};
use crate::files::tokenizer_files::{ADDED_TOKENS, SPECIAL_TOKENS_MAP, TEMPLATE, TOKENIZER_CONFIG};

/// Brings the model `org/name[@revision]` to the Hub's cache. Without an answer of the Hub what is
/// cached of that revision is taken.
///
/// # Errors
/// When the Hub has no such model or does not answer, and nothing is cached.
pub(super) fn fetch(place: &str) -> Result<PathBuf, String> {
    let (id, revision) = place.split_once('@').unwrap_or((place, "main"));
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let is_id = id.split('/').all(is_name) && (1..=2).contains(&id.split('/').count());
    if !is_id || !revision.split('/').all(is_name) {
        return Err("accepted: hf://org/name or hf://org/name@revision".into());
    }
    let cache = Cache::of(id)?;
    let (id, revision) = (id.to_owned(), revision.to_owned());
    // Whoever asks may be within a runtime of its own.
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(fetch_revision(&id, &revision, &cache))
    };
    let thread = std::thread::Builder::new().name("ches-hub".into());
    let thread = thread.spawn(work).map_err(|error| error.to_string())?;
    let panicked = |_| Err("the download ended".into());
    thread.join().unwrap_or_else(panicked)
}

async fn fetch_revision(id: &str, revision: &str, cache: &Cache) -> Result<PathBuf, String> {
    let client = Client::from_env().map_err(|error| error.to_string())?;
    let info = match client.info(Kind::Model, id, revision).await {
        Ok(info) => info,
        Err(HubError::Unreachable(reason)) => {
            let cached = cache.commit(revision).map(|commit| cache.snapshot(&commit));
            return match cached.filter(|snapshot| snapshot.join(CONFIG).exists()) {
                Some(snapshot) => Ok(snapshot),
                None => Err(format!("{reason}; and nothing of it is cached")),
            };
        }
        Err(error) => return Err(error.to_string()),
    };
    let names: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    let _lock = cache.lock()?;
    // One commit for all files, whatever is pushed meanwhile.
    let commit = Commit {
        client,
        cache,
        id,
        sha: &info.sha,
    };
    for name in [
        CONFIG,
        TOKENIZER,
        TOKENIZER_CONFIG,
        SPECIAL_TOKENS_MAP,
        ADDED_TOKENS,
        TEMPLATE,
        // Refused by whoever opens the directory.
        ADAPTER,
    ] {
        if has(name) {
            commit.get(name).await?;
        }
    }
    if has(WEIGHTS) {
        commit.get(WEIGHTS).await?;
    } else if has(INDEX) {
        let index = commit.get(INDEX).await?;
        let bytes = index.metadata().map_or(0, |index| index.len());
        if bytes > MAX_JSON_BYTES {
            return Err(format!(
                "{INDEX} has {bytes} bytes; accepted: up to {MAX_JSON_BYTES}"
            ));
        }
        let index = std::fs::read(index).map_err(|error| format!("{INDEX}: {error}"))?;
        let shards = shard_names(&index).map_err(|reason| format!("{INDEX}: {reason}"))?;
        for shard in shards {
            commit.get(&shard).await?;
        }
    } else {
        let found = names.join(", ");
        return Err(format!("no {WEIGHTS} and no {INDEX}; found: {found}"));
    }
    cache.refer(revision, &info.sha)?;
    Ok(cache.snapshot(&info.sha))
}

/// What is cached of a model.
#[derive(Debug)]
struct Cache {
    /// Of all models.
    root: PathBuf,
    /// `models--org--name`
    name: String,
}

impl Cache {
    fn of(id: &str) -> Result<Self, String> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = match (set("HF_HUB_CACHE"), set("HF_HOME")) {
            (Some(root), _) => root.into(),
            (None, Some(home)) => PathBuf::from(home).join("hub"),
            (None, None) => {
                let home = std::env::home_dir();
                let home = home.ok_or("there is no home directory; set HF_HOME")?;
                home.join(".cache/huggingface/hub")
            }
        };
        Ok(Self {
            root,
            name: format!("models--{}", id.replace('/', "--")),
        })
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The commit that a revision was when it was last asked for.
    fn commit(&self, revision: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| {
            !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric())
        })
    }

    fn refer(&self, revision: &str, commit: &str) -> Result<(), String> {
        let path = self.folder().join("refs").join(revision);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        std::fs::write(&path, commit).map_err(failed)
    }

    /// Held while one process fetches a model.
    fn lock(&self) -> Result<File, String> {
        let path = self.root.join(format!(".{}.ches.lock", self.name));
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(&self.root).map_err(failed)?;
        let file = File::create(&path).map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(200)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }
}

/// The files of one commit.
struct Commit<'a> {
    client: Client,
    cache: &'a Cache,
    id: &'a str,
    sha: &'a str,
}

impl Commit<'_> {
    /// A file, from the cache or else from the Hub.
    async fn get(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.cache.snapshot(self.sha).join(name);
        if path.exists() {
            return Ok(path);
        }
        let of = (Kind::Model, self.id, self.sha);
        let meta = self.client.size(of, name).await;
        let meta = meta.map_err(|error| error.to_string())?;
        let tag = meta.tag.unwrap_or_default();
        if tag.is_empty() || !tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(format!("{name}: the Hub tags it '{tag}'"));
        }
        let blobs = self.cache.folder().join("blobs");
        let blob = blobs.join(&tag);
        let failed = |error: std::io::Error| format!("{}: {error}", blob.display());
        std::fs::create_dir_all(&blobs).map_err(failed)?;
        let has_size = |path: &Path| path.metadata().is_ok_and(|found| found.len() == meta.bytes);
        if !has_size(&blob) {
            // Only one process is here.
            let part = blob.with_extension("part");
            self.download(name, &part).await?;
            if !has_size(&part) {
                let found = part.metadata().map_or(0, |found| found.len());
                let _ = std::fs::remove_file(&part);
                return Err(format!("{name}: {found} bytes came, not {}", meta.bytes));
            }
            std::fs::rename(&part, &blob).map_err(failed)?;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        point(&path, &blob, name).map_err(failed)?;
        Ok(path)
    }

    async fn download(&self, name: &str, to: &Path) -> Result<(), String> {
        let located = Located {
            kind: Kind::Model,
            id: self.id.to_owned(),
            commit: self.sha.to_owned(),
            file: name.to_owned(),
        };
        let body = open(&self.client, &located, None).await;
        let body = body.map_err(|error| error.to_string())?;
        let mut bytes = body.into_stream(self.client.clone(), located);
        let failed = |error: std::io::Error| format!("{}: {error}", to.display());
        let mut file = File::create(to).map_err(failed)?;
        while let Some(bytes) = bytes.try_next().await.map_err(|error| error.to_string())? {
            file.write_all(&bytes).map_err(failed)?;
        }
        file.flush().map_err(failed)
    }
}

/// Makes `path`, of a file `name` in a snapshot, stand for a blob.
#[cfg(unix)]
fn point(path: &Path, blob: &Path, name: &str) -> std::io::Result<()> {
    // From the file's folder up to the model's.
    let up = "../".repeat(2 + name.matches('/').count());
    let blob = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(blob), path)
}

#[cfg(not(unix))]
fn point(path: &Path, blob: &Path, _name: &str) -> std::io::Result<()> {
    std::fs::hard_link(blob, path)
}
