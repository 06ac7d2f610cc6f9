//! Models of the Hugging Face Hub, by the hf-hub crate: in the Hub's own cache (`HF_HOME`,
//! `HF_HUB_CACHE`), by the Hub's own token (`HF_TOKEN`, or the one that `hf auth login` stored).

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::model_directory::{
    ADAPTER, CONFIG, INDEX, MAX_JSON_BYTES, TOKENIZER, WEIGHTS, shard_names,
};
use crate::tokenizer_files::{ADDED_TOKENS, SPECIAL_TOKENS_MAP, TEMPLATE, TOKENIZER_CONFIG};

/// How often a file is asked for.
const ATTEMPTS: u32 = 4;

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);

/// Brings the model `org/name[@revision]` to the Hub's cache. Without an answer of the Hub what is
/// cached of that revision is taken.
///
/// # Errors
/// When the Hub has no such model or does not answer, and nothing is cached.
pub fn fetch(place: &str) -> Result<PathBuf, String> {
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
    let (id, revision) = (id.to_owned(), revision.to_owned());
    let (beat, beats) = std::sync::mpsc::channel();
    let (result, results) = std::sync::mpsc::channel();
    // The crate's requests have no end of their own; one that falls silent is left behind.
    let work = move || {
        let beat = || {
            let _ = beat.send(());
        };
        let _ = result.send(fetch_revision(&id, &revision, &beat));
    };
    let thread = std::thread::Builder::new().name("ches-hub".into());
    let thread = thread.spawn(work).map_err(|error| error.to_string())?;
    loop {
        match beats.recv_timeout(SILENCE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("nothing came for {} s", SILENCE.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // The crate asserts what servers and file systems usually hold to.
    let _ = thread.join();
    results
        .recv()
        .unwrap_or_else(|_| Err("the Hub's answer or its cache makes no sense".into()))
}

fn fetch_revision(id: &str, revision: &str, beat: &dyn Fn()) -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let cache = match set("HF_HUB_CACHE") {
        Some(folder) => Cache::new(folder.into()),
        None => Cache::from_env(),
    };
    let repo =
        |revision: &str| Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(false);
    if let Some(endpoint) = set("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(token) = set("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|error| error.to_string())?;
    let is_offline = set("HF_HUB_OFFLINE")
        .is_some_and(|value| ["1", "on", "yes", "true"].contains(&&value.to_ascii_lowercase()[..]));
    let info = if is_offline {
        Err("HF_HUB_OFFLINE is set".to_owned())
    } else {
        let info = api.repo(repo(revision)).info();
        info.map_err(|error| error.to_string())
    };
    let info = match info {
        Ok(info) => info,
        Err(reason) if is_refusal(&reason) => return Err(reason),
        Err(reason) => {
            let config = cache.repo(repo(revision)).get(CONFIG);
            let snapshot = config.as_deref().and_then(Path::parent);
            return match snapshot {
                Some(snapshot) => Ok(snapshot.to_owned()),
                None => Err(format!("{reason}; and nothing of it is cached")),
            };
        }
    };
    if !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(format!("the Hub calls the commit '{}'", info.sha));
    }
    let names: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    // One commit for all files, whatever is pushed meanwhile.
    let of_commit = repo(&info.sha);
    let _lock = lock(&cache, &of_commit, beat)?;
    let commit = Commit {
        api: &api,
        files: api.repo(of_commit.clone()),
        cached: cache.repo(of_commit),
        beat,
    };
    // What another tool has fetched of the commit is found by this.
    let referred = commit.cached.create_ref(&info.sha);
    referred.map_err(|error| error.to_string())?;
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
            commit.get(name)?;
        }
    }
    if has(WEIGHTS) {
        commit.get(WEIGHTS)?;
    } else if has(INDEX) {
        let index = commit.get(INDEX)?;
        let bytes = index.metadata().map_or(0, |index| index.len());
        if bytes > MAX_JSON_BYTES {
            return Err(format!(
                "{INDEX} has {bytes} bytes; accepted: up to {MAX_JSON_BYTES}"
            ));
        }
        let index = std::fs::read(index).map_err(|error| format!("{INDEX}: {error}"))?;
        let shards = shard_names(&index).map_err(|reason| format!("{INDEX}: {reason}"))?;
        for shard in shards {
            commit.get(&shard)?;
        }
    } else {
        let found = names.join(", ");
        return Err(format!("no {WEIGHTS} and no {INDEX}; found: {found}"));
    }
    let of_revision = cache.repo(repo(revision));
    of_revision
        .create_ref(&info.sha)
        .map_err(|error| error.to_string())?;
    Ok(of_revision.pointer_path(&info.sha))
}

/// Held while one process fetches a model.
fn lock(cache: &Cache, repo: &Repo, beat: &dyn Fn()) -> Result<File, String> {
    let path = cache
        .path()
        .join(format!(".{}.ches.lock", repo.folder_name()));
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(cache.path()).map_err(failed)?;
    let file = File::create(&path).map_err(failed)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                beat();
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Whether the Hub answered: there is no such thing, or it is not for everybody.
fn is_refusal(reason: &str) -> bool {
    reason.contains("http status: 4")
}

/// The files of one commit.
struct Commit<'a> {
    api: &'a Api,
    files: ApiRepo,
    cached: CacheRepo,
    beat: &'a dyn Fn(),
}

impl Commit<'_> {
    /// A file, from the cache or else from the Hub.
    fn get(&self, name: &str) -> Result<PathBuf, String> {
        if let Some(path) = self.cached.get(name) {
            return Ok(path);
        }
        let mut wait = Duration::from_millis(500);
        let mut attempt = 0;
        loop {
            attempt += 1;
            (self.beat)();
            let reason = match self.download(name) {
                Ok(path) => return Ok(path),
                Err(reason) => reason,
            };
            if attempt == ATTEMPTS || is_refusal(&reason) {
                return Err(format!("{name}: {reason}"));
            }
            std::thread::sleep(wait);
            wait *= 3;
        }
    }

    /// What an interrupted download left is removed first, and a download of the wrong size is,
    /// too: the crate appends to such files without looking at them.
    fn download(&self, name: &str) -> Result<PathBuf, String> {
        let metadata = self.api.metadata(&self.files.url(name));
        let metadata = metadata.map_err(|error| error.to_string())?;
        let tag = metadata.etag();
        if tag.is_empty() || !tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(format!("the Hub tags it '{tag}'"));
        }
        let blob = self.cached.blob_path(tag);
        let has_size = |path: &Path| {
            let found = path.metadata().map(|found| found.len());
            found.is_ok_and(|found| found == metadata.size() as u64)
        };
        let forget = || {
            for file in [&blob, &blob.with_extension("part")] {
                let _ = std::fs::remove_file(file);
            }
        };
        if !has_size(&blob) {
            forget();
        }
        (self.beat)();
        let path = self.files.download_with_progress(name, Beats(self.beat));
        let path = path.map_err(|error| error.to_string())?;
        if has_size(&path) {
            return Ok(path);
        }
        let found = path.metadata().map_or(0, |found| found.len());
        let _ = std::fs::remove_file(&path);
        forget();
        Err(format!("{found} bytes came, not {}", metadata.size()))
    }
}

/// Says that bytes are coming.
struct Beats<'a>(&'a dyn Fn());

impl Progress for Beats<'_> {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.0();
    }

    fn update(&mut self, _size: usize) {
        self.0();
    }

    fn finish(&mut self) {
        self.0();
    }
}
