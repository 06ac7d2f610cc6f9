//! Scores that outlive the process (`ches.cache`): Parquet files in a directory or bucket, which any
//! number of processes add to.
//!
//! Scores of one model and type lie in a directory of their own, in files that are never changed. Each
//! process adds files of random names, at least every [`FLUSH_AFTER`] while it computes, and looks for
//! those of others every [`REFRESH_AFTER`]. In memory are the first eight bytes of every key with its
//! place, and the files that were used last.

pub(crate) mod compact;
mod file;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lru::LruCache;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::sync::Notify;

use crate::files::stores;
use crate::scoring::accounting::Accounted;
use crate::scoring::memo::{Key, ModelScores, Wanted};
use ches_udfs::Needs;
use datafusion::execution::memory_pool::MemoryPool;

/// Scores are in no file for so long at most, where the store takes them.
const FLUSH_AFTER: Duration = Duration::from_secs(20);

/// In the beginning for less: for this part of the time since the cache was opened, at least [`IDLE`].
const FLUSH_PART: u32 = 4;

/// They are written, too, when nothing is computed for so long,
const IDLE: Duration = Duration::from_secs(1);

/// or when they take so many bytes.
const FLUSH_BYTES: usize = 8 << 20;

/// What a store that fails is kept for, at most.
const PENDING_BYTES: usize = 256 << 20;

/// How often files of other processes are looked for.
const REFRESH_AFTER: Duration = Duration::from_secs(60);

/// Bytes of files that are kept in memory.
const LOADED_BYTES: usize = 256 << 20;

/// No file of scores is larger.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Files that are fetched at the same time.
const FETCHES: usize = 16;

/// Changes whenever a release computes other numbers, or lays out files in another way.
const VERSION: &str = "v1";

const EXTENSION: &str = "parquet";

/// The scores of a file.
type Entries = Arc<[(Key, ModelScores)]>;

/// The cache of one model in one place. Dropping it writes what is not written yet, on a thread of its
/// own.
#[derive(Debug)]
pub(crate) struct ScoreCache {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    base: Path,
    /// As it is shown.
    place: String,
    state: Mutex<State>,
    /// Something was written, or could not be.
    written: Condvar,
    /// Something is to be done at once.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    /// What is in no file yet.
    pending: HashMap<Key, ModelScores>,
    pending_bytes: usize,
    /// Since when.
    since: Option<Instant>,
    /// What files have of rows that are being computed for more.
    partial: HashMap<Key, ModelScores>,
    /// What is being written.
    flushing: HashMap<Key, ModelScores>,
    /// Calls that may add something.
    users: usize,
    last_used: Instant,
    opened: Instant,
    /// The file and row of a key, by its first eight bytes.
    index: HashMap<u64, (u32, u32)>,
    files: Vec<Path>,
    known: HashSet<Path>,
    loaded: LruCache<u32, Entries>,
    loaded_bytes: usize,
    accounted: Accounted,
    refreshed: Instant,
    /// How often flushing was tried, and how the last time ended.
    flushes: usize,
    failure: Option<String>,
    is_wanted_now: bool,
    is_closed: bool,
}

fn prefix(key: &Key) -> u64 {
    let first = key.bytes().first_chunk().expect("a key has 32 bytes");
    u64::from_le_bytes(*first)
}

fn entry_bytes(entries: &[(Key, ModelScores)]) -> usize {
    entries.iter().map(|(_, scores)| scores.bytes()).sum()
}

impl State {
    fn new() -> Self {
        Self {
            pending: HashMap::new(),
            pending_bytes: 0,
            since: None,
            partial: HashMap::new(),
            flushing: HashMap::new(),
            users: 0,
            last_used: Instant::now(),
            opened: Instant::now(),
            index: HashMap::new(),
            files: Vec::new(),
            known: HashSet::new(),
            loaded: LruCache::unbounded(),
            loaded_bytes: 0,
            accounted: Accounted::new("ches cache"),
            refreshed: Instant::now(),
            flushes: 0,
            failure: None,
            is_wanted_now: false,
            is_closed: false,
        }
    }

    /// Makes a file's rows known.
    fn add_file(&mut self, path: Path, entries: &Entries) {
        let number = self.files.len() as u32;
        for (row, (key, _)) in entries.iter().enumerate() {
            self.index.insert(prefix(key), (number, row as u32));
        }
        self.known.insert(path.clone());
        self.files.push(path);
        self.keep(number, entries);
    }

    /// Keeps a file in memory, instead of those that were used longest ago.
    fn keep(&mut self, number: u32, entries: &Entries) {
        self.loaded_bytes += entry_bytes(entries);
        if let Some(before) = self.loaded.put(number, Arc::clone(entries)) {
            self.loaded_bytes -= entry_bytes(&before);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        const SLOT: usize = size_of::<(u64, (u32, u32))>() + 1;
        loop {
            let index = self.index.capacity() * SLOT;
            let in_all = index + self.loaded_bytes + self.pending_bytes;
            if self.loaded_bytes <= LOADED_BYTES && self.accounted.resize(in_all) {
                return;
            }
            match self.loaded.pop_lru() {
                Some((_, entries)) => self.loaded_bytes -= entry_bytes(&entries),
                None => return,
            }
        }
    }

    /// A file that is there no more.
    fn forget_file(&mut self, number: u32) {
        self.index.retain(|_, (file, _)| *file != number);
        if let Some(entries) = self.loaded.pop(&number) {
            self.loaded_bytes -= entry_bytes(&entries);
        }
        if let Some(path) = self.files.get(number as usize) {
            self.known.remove(path);
        }
    }

    /// How long scores may be in no file now.
    fn flush_after(&self) -> Duration {
        (self.opened.elapsed() / FLUSH_PART).clamp(IDLE, FLUSH_AFTER)
    }

    fn is_due(&self) -> bool {
        !self.pending.is_empty()
            && (self.is_wanted_now
                || self.is_closed
                || self.pending_bytes >= FLUSH_BYTES
                || self
                    .since
                    .is_some_and(|since| since.elapsed() >= self.flush_after())
                || self.users == 0 && self.last_used.elapsed() >= IDLE)
    }
}

/// Caches that are open in this process.
type Open = HashMap<(String, String), Weak<ScoreCache>>;
static OPEN: LazyLock<Mutex<Open>> = LazyLock::new(Mutex::default);

/// The cache of a model at a place: `of_model` is what its keys begin with.
///
/// # Errors
/// When the place cannot be listed or written.
pub(crate) fn open(place: &str, of_model: &str) -> Result<Arc<ScoreCache>, String> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|_, cache| cache.strong_count() > 0);
    let name = (place.to_owned(), of_model.to_owned());
    if let Some(cache) = open.get(&name).and_then(Weak::upgrade) {
        return Ok(cache);
    }
    let cache = ScoreCache::open(place, of_model).map_err(|reason| format!("{place}: {reason}"))?;
    let cache = Arc::new(cache);
    open.insert(name, Arc::downgrade(&cache));
    Ok(cache)
}

/// Writes what no open cache of this process has written yet, and waits for that.
///
/// # Errors
/// When a store did not take it, or not within this time.
pub fn flush(within: Duration) -> Result<(), String> {
    let open: Vec<_> = {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().filter_map(Weak::upgrade).collect()
    };
    let deadline = Instant::now() + within;
    let flushed = open.iter().map(|cache| cache.flush(deadline));
    flushed.collect()
}

/// A call that looks up and adds scores.
#[derive(Debug)]
pub(crate) struct Use(Arc<ScoreCache>);

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.0.shared.lock();
        state.users -= 1;
        state.last_used = Instant::now();
    }
}

impl Drop for ScoreCache {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.wake.notify_one();
    }
}

impl ScoreCache {
    fn open(place: &str, of_model: &str) -> Result<Self, String> {
        let (store, base) = stores::open_directory(place, true)?;
        let name: String = of_model.replace(' ', "-");
        let base = base.join(VERSION).join(name.as_str());
        let shared = Arc::new(Shared {
            store,
            base,
            place: place.to_owned(),
            state: Mutex::new(State::new()),
            written: Condvar::new(),
            wake: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let handle = runtime.handle().clone();
        runtime.block_on(shared.prepare())?;
        let working = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("ches-cache".into())
            .spawn(move || runtime.block_on(working.work()))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            shared,
            runtime: handle,
        })
    }

    /// The right to look up and to add, for the time of a call whose memory is of this pool.
    pub(crate) fn begin(self: &Arc<Self>, pool: Option<&Arc<dyn MemoryPool>>) -> Use {
        let mut state = self.shared.lock();
        state.users += 1;
        if let Some(pool) = pool {
            state.accounted.belong_to(pool);
            state.shrink();
        }
        Use(Arc::clone(self))
    }

    fn flush(&self, deadline: Instant) -> Result<(), String> {
        let mut state = self.shared.lock();
        state.is_wanted_now = true;
        let tried = state.flushes;
        self.shared.wake.notify_one();
        while !(state.pending.is_empty() && state.flushing.is_empty()) {
            if state.flushes > tried
                && let Some(failure) = &state.failure
            {
                return Err(failure.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{}: took too long to write", self.shared.place));
            }
            let waited = self.shared.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_wanted_now = false;
        Ok(())
    }
}

impl Use {
    /// The scores of keys, where they are enough.
    pub(crate) fn get(&self, keys: &[Key], wanted: Wanted) -> Vec<Option<ModelScores>> {
        let needs = wanted.needs & Needs::MODEL;
        let enough = |scores: &ModelScores| scores.gives(wanted.learning_rate).contains(needs);
        let shared = &self.0.shared;
        let mut found: Vec<Option<ModelScores>> = vec![None; keys.len()];
        // Where a row is that is in a file.
        let mut in_files: HashMap<u32, Vec<(usize, u32)>> = HashMap::new();
        let state = shared.lock();
        for (at, key) in keys.iter().enumerate() {
            let here = state.pending.get(key).or_else(|| state.flushing.get(key));
            if let Some(scores) = here {
                found[at] = Some(scores.clone());
            } else if let Some((file, row)) = state.index.get(&prefix(key)) {
                in_files.entry(*file).or_default().push((at, *row));
            }
        }
        drop(state);
        for (file, rows) in in_files {
            let Some(entries) = self.entries(file) else {
                continue;
            };
            for (at, row) in rows {
                let entry = entries.get(row as usize);
                found[at] = entry
                    .filter(|(key, _)| *key == keys[at])
                    .map(|(_, scores)| scores.clone());
            }
        }
        let is_partial = |scores: &ModelScores| !enough(scores);
        let mut state = shared.lock();
        for (key, scores) in keys.iter().zip(&mut found) {
            if let Some(scores) = scores.take_if(|scores| is_partial(scores)) {
                state.partial.insert(*key, scores);
            }
        }
        found
    }

    /// The rows of a file, from memory if they are there.
    fn entries(&self, file: u32) -> Option<Entries> {
        let shared = &self.0.shared;
        let path = {
            let mut state = shared.lock();
            if let Some(entries) = state.loaded.get(&file) {
                return Some(Arc::clone(entries));
            }
            state.files.get(file as usize)?.clone()
        };
        let read = self.0.runtime.block_on(shared.read(&path));
        let mut state = shared.lock();
        match read {
            Ok(entries) => {
                state.keep(file, &entries);
                Some(entries)
            }
            Err(failure) => {
                // Another process may have compacted it.
                if failure.is_gone {
                    state.forget_file(file);
                    state.refreshed = Instant::now() - REFRESH_AFTER;
                    shared.wake.notify_one();
                } else {
                    shared.warn(&path, &failure.reason);
                }
                None
            }
        }
    }

    /// Keeps the scores of a row.
    pub(crate) fn put(&self, key: Key, scores: &ModelScores) {
        let shared = &self.0.shared;
        let mut state = shared.lock();
        if state.pending_bytes >= PENDING_BYTES {
            return;
        }
        let before = state.pending.get(&key).map_or(0, ModelScores::bytes);
        let known = state.partial.remove(&key).unwrap_or_default();
        let entry = state.pending.entry(key).or_insert(known);
        entry.add(scores.clone());
        let after = entry.bytes();
        state.pending_bytes = state.pending_bytes + after - before;
        state.since.get_or_insert_with(Instant::now);
        state.last_used = Instant::now();
        if state.pending_bytes >= FLUSH_BYTES {
            shared.wake.notify_one();
        }
        if state.pending_bytes >= PENDING_BYTES {
            tracing::warn!(
                "ches.cache: {}: {} MiB of scores could not be written; further ones are not kept \
                 until it can be written again",
                shared.place,
                PENDING_BYTES >> 20
            );
        }
    }
}

/// Why a file could not be read.
#[derive(Debug)]
struct Failure {
    is_gone: bool,
    reason: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, path: &Path, reason: &str) {
        let name = path.filename().unwrap_or_default();
        tracing::warn!("ches.cache: {}: {name} is ignored: {reason}", self.place);
    }

    /// Says what lies here, by which a place that cannot be written is noticed before the night, and
    /// learns what is there.
    async fn prepare(&self) -> Result<(), String> {
        let model = self.base.filename().unwrap_or_default();
        let about = serde_json::json!({
            "what": "scores of datafusion-ches",
            "version": VERSION,
            "model": model,
        });
        let mut beside: Vec<_> = self.base.parts().collect();
        beside.pop();
        let place = Path::from_iter(beside).join(format!("{model}.json"));
        let put = self
            .store
            .put(&place, about.to_string().into_bytes().into());
        put.await.map_err(|error| error.to_string())?;
        self.refresh().await.map_err(|error| error.to_string())?;
        let state = self.lock();
        tracing::info!(
            "ches.cache: {}: {} rows in {} files",
            self.place,
            state.index.len(),
            state.files.len()
        );
        Ok(())
    }

    /// Flushes and refreshes when it is time, until it is closed and all is written.
    async fn work(self: Arc<Self>) {
        loop {
            let (is_due, is_closed, is_stale) = {
                let state = self.lock();
                let is_in_use = state.users > 0;
                let is_stale = is_in_use && state.refreshed.elapsed() >= REFRESH_AFTER;
                (state.is_due(), state.is_closed, is_stale)
            };
            if is_due {
                let is_written = self.flush().await;
                if is_closed && !is_written {
                    return;
                }
                continue;
            }
            if is_closed {
                return;
            }
            if is_stale {
                if let Err(error) = self.refresh().await {
                    tracing::warn!("ches.cache: {}: {error}", self.place);
                }
                self.lock().refreshed = Instant::now();
            }
            let waited = tokio::time::timeout(Duration::from_millis(200), self.wake.notified());
            let _ = waited.await;
        }
    }

    /// Writes what is pending into a file of its own; tells whether that went well.
    async fn flush(&self) -> bool {
        let entries: Entries = {
            let mut state = self.lock();
            let pending = std::mem::take(&mut state.pending);
            state.flushing = pending;
            state.partial.clear();
            state.pending_bytes = 0;
            state.since = None;
            let entries = state.flushing.iter();
            entries
                .map(|(key, scores)| (*key, scores.clone()))
                .collect()
        };
        let path = self.base.clone().join(new_name());
        let written = match file::encode(&entries) {
            Ok(bytes) => self.store.put(&path, bytes.into()).await,
            Err(reason) => Err(Error::Generic {
                store: "scores",
                source: reason.into(),
            }),
        };
        let is_written = written.is_ok();
        self.settle(path, &entries, written.map(drop));
        self.written.notify_all();
        if !is_written && !self.lock().is_closed {
            tokio::time::sleep(IDLE).await;
        }
        is_written
    }

    /// What was being written is in a file now, or is pending again.
    fn settle(&self, path: Path, entries: &Entries, written: object_store::Result<()>) {
        let mut state = self.lock();
        state.flushes += 1;
        let Err(error) = written else {
            state.flushing.clear();
            state.failure = None;
            state.add_file(path, entries);
            tracing::debug!(
                "ches.cache: {}: {} scores written",
                self.place,
                entries.len()
            );
            return;
        };
        for (key, mut scores) in std::mem::take(&mut state.flushing) {
            if let Some(newer) = state.pending.remove(&key) {
                scores.add(newer);
            }
            state.pending.insert(key, scores);
        }
        state.pending_bytes = state.pending.values().map(ModelScores::bytes).sum();
        // Tried again after a while, as if they were new.
        state.since = Some(Instant::now());
        state.is_wanted_now = false;
        let reason = format!("{}: {error}", self.place);
        // Said once, as long as it lasts.
        if state.failure.is_none() {
            tracing::warn!("ches.cache: {reason}; scores will be written later");
        }
        state.failure = Some(reason);
    }

    /// Learns of files that are new.
    async fn refresh(&self) -> object_store::Result<()> {
        let mut files: Vec<ObjectMeta> = self.store.list(Some(&self.base)).try_collect().await?;
        let is_new = |file: &ObjectMeta| {
            file.location.extension() == Some(EXTENSION)
                && !self.lock().known.contains(&file.location)
        };
        files.retain(is_new);
        // Later ones know more.
        files.sort_by(|a, b| a.location.cmp(&b.location));
        let reads = files.into_iter().map(|file| async move {
            if file.size > MAX_FILE_BYTES {
                let reason = format!("{} bytes", file.size);
                return (
                    file.location,
                    Err(Failure {
                        is_gone: false,
                        reason,
                    }),
                );
            }
            let read = self.read(&file.location).await;
            (file.location, read)
        });
        let mut reads = futures::stream::iter(reads).buffered(FETCHES);
        while let Some((path, read)) = reads.next().await {
            let mut state = self.lock();
            match read {
                Ok(entries) => state.add_file(path, &entries),
                Err(failure) if failure.is_gone => {}
                Err(failure) => {
                    self.warn(&path, &failure.reason);
                    state.known.insert(path);
                }
            }
        }
        Ok(())
    }

    async fn read(&self, path: &Path) -> Result<Entries, Failure> {
        let failed = |error: Error| Failure {
            is_gone: matches!(error, Error::NotFound { .. }),
            reason: error.to_string(),
        };
        let got = self.store.get(path).await.map_err(failed)?;
        let bytes: Bytes = got.bytes().await.map_err(failed)?;
        let decoded = file::decode(bytes).map_err(|reason| Failure {
            is_gone: false,
            reason,
        });
        let (entries, damaged) = decoded?;
        if damaged > 0 {
            let of = entries.len() + damaged;
            self.warn(path, &format!("{damaged} of its {of} rows are damaged"));
        }
        Ok(entries.into())
    }
}

/// A name that no other file has, later in order than those before.
fn new_name() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    let random = RandomState::new().build_hasher().finish();
    format!("{millis:013}-{random:016x}.{EXTENSION}")
}
