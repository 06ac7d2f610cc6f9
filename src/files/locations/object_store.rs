//! Models in object stores and on web servers.

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::cache::{self, DownloadSlot, Entry};
use crate::files::gguf;
use crate::files::model_directory::{
    ADAPTER, CONFIG, INDEX, MAX_JSON_BYTES, TOKENIZER, WEIGHTS, shard_names,
};
use crate::files::stores;
use crate::files::tokenizer_files::{ADDED_TOKENS, SPECIAL_TOKENS_MAP, TEMPLATE, TOKENIZER_CONFIG};

/// A file is read in pieces of this size, so many of them at once.
const PIECE_BYTES: u64 = 16 << 20;
const PIECES_AT_ONCE: usize = 4;

/// How often a piece is asked for, on top of what the store itself tries again.
const ATTEMPTS: u32 = 4;

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);

/// Brings the model at a URL to the cache: a directory, or a file if it ends in `.gguf`, with its
/// other shards if its name says that it has some.
///
/// # Errors
/// When the URL or the account is wrong, a file is missing, or the store keeps failing.
pub(super) fn fetch(place: &str) -> Result<PathBuf, String> {
    // Silence is what ends a request, not its length.
    let (store, base) = stores::open_url(place, &[("timeout", "1day")])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(fetch_from(&*store, &base, place))
}

async fn fetch_from(store: &dyn ObjectStore, base: &Path, place: &str) -> Result<PathBuf, String> {
    let is_file = base.as_ref().to_ascii_lowercase().ends_with(".gguf");
    let files = if is_file {
        gguf_files(store, base).await?
    } else {
        directory(store, base).await?
    };
    let first = match files.first() {
        Some(first) if is_file => &first.location,
        _ => base,
    };
    let place = place_of(place, base, first);
    let (name, version) = name_and_version(first, &place, &files)?;
    let entry = cache::entry(&format!("{name}-{version}"))?;
    let folder = match entry {
        Entry::Filled(folder) => folder,
        Entry::Vacant(vacancy) => {
            for file in &files {
                download(store, file, &vacancy).await?;
            }
            vacancy.fill()?
        }
    };
    Ok(match base.filename() {
        Some(file) if is_file => folder.join(file),
        _ => folder,
    })
}

/// The place of a file beside another one, so that each shard of a model names the same place.
fn place_of(place: &str, file: &Path, beside: &Path) -> String {
    match (file.filename(), beside.filename()) {
        (Some(from), Some(to)) if from != to => match place.rsplit_once(from) {
            Some((before, after)) => format!("{before}{to}{after}"),
            None => place.to_owned(),
        },
        _ => place.to_owned(),
    }
}

/// A GGUF file, and all shards if it is one of several.
async fn gguf_files(store: &dyn ObjectStore, file: &Path) -> Result<Vec<ObjectMeta>, String> {
    let Some(names) = file.filename().and_then(gguf::shard_names) else {
        return Ok(vec![required(store, file).await?]);
    };
    let parts: Vec<_> = file.parts().collect();
    let folder: Path = parts[..parts.len() - 1].iter().cloned().collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        files.push(required(store, &folder.clone().join(name)).await?);
    }
    Ok(files)
}

/// The files of a model directory that are there.
async fn directory(store: &dyn ObjectStore, base: &Path) -> Result<Vec<ObjectMeta>, String> {
    let place = |name: &str| base.clone().join(name);
    let mut files = vec![
        required(store, &place(CONFIG)).await?,
        required(store, &place(TOKENIZER)).await?,
    ];
    // An adapter is refused by whoever opens the directory.
    for name in [
        TOKENIZER_CONFIG,
        SPECIAL_TOKENS_MAP,
        ADDED_TOKENS,
        TEMPLATE,
        ADAPTER,
    ] {
        files.extend(optional(store, &place(name)).await?);
    }
    if let Some(weights) = optional(store, &place(WEIGHTS)).await? {
        files.push(weights);
        return Ok(files);
    }
    let Some(index) = optional(store, &place(INDEX)).await? else {
        return Err(format!("no {WEIGHTS} and no {INDEX}"));
    };
    if index.size > MAX_JSON_BYTES {
        return Err(format!(
            "{INDEX} has {} bytes; accepted: up to {MAX_JSON_BYTES}",
            index.size
        ));
    }
    let bytes = piece(store, &index, 0..index.size).await;
    let bytes = bytes.map_err(|failure| format!("{INDEX}: {failure}"))?;
    files.push(index);
    let shards = shard_names(&bytes).map_err(|reason| format!("{INDEX}: {reason}"))?;
    for shard in shards {
        files.push(required(store, &place(&shard)).await?);
    }
    Ok(files)
}

async fn required(store: &dyn ObjectStore, file: &Path) -> Result<ObjectMeta, String> {
    let head = in_time(store.head(file)).await;
    let head = head.map_err(|reason| format!("{file}: {reason}"))?;
    head.map_err(|error| format!("{file}: {error}"))
}

/// What comes before nothing has come for too long.
async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, String> {
    let answer = tokio::time::timeout(SILENCE, answer).await;
    answer.map_err(|_| format!("nothing came for {} s", SILENCE.as_secs()))
}

/// A file that may be missing. To whom a bucket may not be listed, some stores say of a missing
/// file that it is forbidden.
async fn optional(store: &dyn ObjectStore, file: &Path) -> Result<Option<ObjectMeta>, String> {
    let head = in_time(store.head(file)).await;
    match head.map_err(|reason| format!("{file}: {reason}"))? {
        Ok(meta) => Ok(Some(meta)),
        Err(
            Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. },
        ) => Ok(None),
        Err(error) => Err(format!("{file}: {error}")),
    }
}

/// A readable name, and a hash of the place and of what tells these files from others there.
///
/// # Errors
/// When the server says nothing by which a changed model could be told from this one.
fn name_and_version(
    base: &Path,
    place: &str,
    files: &[ObjectMeta],
) -> Result<(String, String), String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(place.as_bytes());
    for file in files {
        let tag = match &file.e_tag {
            Some(tag) => tag.clone(),
            None if file.last_modified.timestamp() == 0 => {
                return Err(format!(
                    "{}: the server tells neither ETag nor Last-Modified, so that a changed \
                     model could not be noticed; accepted: either",
                    file.location
                ));
            }
            None => file.last_modified.to_rfc3339(),
        };
        hasher.update(format!("\n{} {} {tag}", file.location, file.size).as_bytes());
    }
    let last = base.filename().unwrap_or("model");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = last.chars().map(|c| if is_plain(c) { c } else { '_' });
    let name: String = name.take(80).collect();
    let version = hasher.finalize().to_hex()[..16].to_owned();
    Ok((name.trim_start_matches('.').to_owned(), version))
}

async fn download(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    vacancy: &DownloadSlot,
) -> Result<(), String> {
    let name = file.location.filename().unwrap_or("model");
    let whole = vacancy.place(name);
    let has_size = |path: &FilePath| path.metadata().is_ok_and(|found| found.len() == file.size);
    if has_size(&whole) {
        return Ok(());
    }
    let part = vacancy.place(&format!("{name}.part"));
    let failed = |error: std::io::Error| format!("{}: {error}", part.display());
    let starts = (0..file.size).step_by(PIECE_BYTES as usize);
    let pieces = starts.map(|start| {
        let range = start..file.size.min(start + PIECE_BYTES);
        piece(store, file, range)
    });
    let mut pieces = futures::stream::iter(pieces).buffered(PIECES_AT_ONCE);
    let mut written = File::create(&part).map_err(failed)?;
    loop {
        match pieces.try_next().await {
            Ok(Some(bytes)) => written.write_all(&bytes).map_err(failed)?,
            Ok(None) => break,
            Err(Failure::NoRanges) => {
                whole_to(store, file, &written).await?;
                break;
            }
            Err(failure) => return Err(format!("{}: {failure}", file.location)),
        }
    }
    written.sync_all().map_err(failed)?;
    if !has_size(&part) {
        let found = written.metadata().map_err(failed)?.len();
        return Err(format!(
            "{}: {found} bytes came, not {}",
            file.location, file.size
        ));
    }
    std::fs::rename(&part, &whole).map_err(failed)
}

/// Why bytes did not come.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the server gives whole files only")]
    NoRanges,
    #[error("{0}")]
    Other(String),
}

/// What asking again cannot change.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::NotSupported { .. }
            | Error::PermissionDenied { .. }
            | Error::Precondition { .. }
            | Error::Unauthenticated { .. }
    )
}

/// Calls `attempt` until it succeeds, fails for good, or has failed too often. It says whether a
/// failure is for good.
async fn tried<T>(attempt: impl AsyncFn() -> Result<T, (Failure, bool)>) -> Result<T, Failure> {
    let mut wait = Duration::from_millis(500);
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Ok(found) => return Ok(found),
            Err((failure, true)) => return Err(failure),
            Err((_, false)) => {
                tokio::time::sleep(wait).await;
                wait *= 3;
            }
        }
    }
    attempt().await.map_err(|(failure, _)| failure)
}

fn failure(error: Error) -> (Failure, bool) {
    let is_final = is_final(&error);
    match error {
        Error::NotSupported { .. } => (Failure::NoRanges, is_final),
        other => (Failure::Other(other.to_string()), is_final),
    }
}

fn passing(reason: String) -> (Failure, bool) {
    (Failure::Other(reason), false)
}

/// Some bytes of a file, asked for again when they do not come.
async fn piece(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    range: Range<u64>,
) -> Result<Vec<u8>, Failure> {
    let length = (range.end - range.start) as usize;
    // A server need not know of ranges when all is wanted.
    let is_whole = range == (0..file.size);
    tried(async || {
        let wanted = (!is_whole).then(|| GetRange::Bounded(range.clone()));
        let mut stream = get(store, file, wanted).await?;
        let mut bytes = Vec::with_capacity(length);
        while let Some(chunk) = next(&mut stream).await? {
            if bytes.len() + chunk.len() > length {
                return Err(passing(format!("more than {length} bytes came")));
            }
            bytes.extend_from_slice(&chunk);
        }
        match bytes.len() {
            found if found == length => Ok(bytes),
            found => Err(passing(format!("{found} bytes came, not {length}"))),
        }
    })
    .await
}

/// All bytes of a file in one answer, for servers that give no parts.
async fn whole_to(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    written: &File,
) -> Result<(), String> {
    let got = tried(async || {
        let failed = |error: std::io::Error| passing(error.to_string());
        let mut written = written;
        written.set_len(0).map_err(failed)?;
        written.rewind().map_err(failed)?;
        let mut stream = get(store, file, None).await?;
        let mut came = 0;
        while let Some(chunk) = next(&mut stream).await? {
            came += chunk.len() as u64;
            if came > file.size {
                break;
            }
            written.write_all(&chunk).map_err(failed)?;
        }
        if came == file.size {
            Ok(())
        } else {
            Err(passing(format!("{came} bytes came, not {}", file.size)))
        }
    });
    let got = got.await;
    got.map_err(|failure| format!("{}: {failure}", file.location))
}

type Bytes = BoxStream<'static, object_store::Result<bytes::Bytes>>;

async fn get(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    range: Option<GetRange>,
) -> Result<Bytes, (Failure, bool)> {
    let options = GetOptions {
        range,
        // A weak tag matches nothing.
        if_match: file.e_tag.clone().filter(|tag| !tag.starts_with("W/")),
        ..GetOptions::default()
    };
    let answer = in_time(store.get_opts(&file.location, options)).await;
    let answer = answer.map_err(passing)?.map_err(failure)?;
    Ok(answer.into_stream())
}

async fn next(stream: &mut Bytes) -> Result<Option<bytes::Bytes>, (Failure, bool)> {
    let next = in_time(stream.try_next()).await;
    next.map_err(passing)?.map_err(failure)
}
