//! Models in object stores and on web servers.

use std::fs::File;
use std::io::Write;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::cache::{self, Entry, Vacancy};
use crate::model_directory::{
    CONFIG, INDEX, MAX_JSON_BYTES, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, shard_names,
};

/// A file is read in pieces of this size, so many of them at once.
const PIECE_BYTES: u64 = 16 << 20;
const PIECES_AT_ONCE: usize = 4;

/// How often a piece is asked for, on top of what the store itself tries again.
const ATTEMPTS: u32 = 4;

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);

/// Brings the model at a URL to the cache: a directory, or one file if it ends in `.gguf`.
///
/// # Errors
/// When the URL or the account is wrong, a file is missing, or the store keeps failing.
pub fn fetch(place: &str) -> Result<PathBuf, String> {
    let url = Url::parse(place).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (store, base) = open(&url)?;
        fetch_from(&*store, &base, place).await
    })
}

/// The store of a URL, its account from the environment variables of its cloud.
fn open(url: &Url) -> Result<(Box<dyn ObjectStore>, Path), String> {
    let is_of_a_cloud = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["aws_", "google_", "azure_"]
            .iter()
            .any(|cloud| name.starts_with(cloud))
    };
    let mut options: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_of_a_cloud(name))
        .collect();
    // Silence is what ends a request, not its length.
    options.push(("timeout".into(), "1day".into()));
    if url.scheme() == "http" {
        options.push(("allow_http".into(), "true".into()));
    }
    object_store::parse_url_opts(url, options).map_err(|error| error.to_string())
}

async fn fetch_from(store: &dyn ObjectStore, base: &Path, place: &str) -> Result<PathBuf, String> {
    let is_file = base.as_ref().ends_with(".gguf");
    let files = if is_file {
        vec![required(store, base).await?]
    } else {
        directory(store, base).await?
    };
    let (name, version) = name_and_version(base, place, &files);
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
    Ok(
        match files.first().and_then(|file| file.location.filename()) {
            Some(file) if is_file => folder.join(file),
            _ => folder,
        },
    )
}

/// The files of a model directory that are there.
async fn directory(store: &dyn ObjectStore, base: &Path) -> Result<Vec<ObjectMeta>, String> {
    let place = |name: &str| base.clone().join(name);
    let mut files = vec![
        required(store, &place(CONFIG)).await?,
        required(store, &place(TOKENIZER)).await?,
    ];
    for name in [TOKENIZER_CONFIG, TEMPLATE] {
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
    let bytes = piece(store, &index, 0..index.size).await?;
    files.push(index);
    let shards = shard_names(&bytes).map_err(|reason| format!("{INDEX}: {reason}"))?;
    for shard in shards {
        files.push(required(store, &place(&shard)).await?);
    }
    Ok(files)
}

async fn required(store: &dyn ObjectStore, file: &Path) -> Result<ObjectMeta, String> {
    store
        .head(file)
        .await
        .map_err(|error| format!("{file}: {error}"))
}

/// A file that may be missing. To whom a bucket may not be listed, some stores say of a missing
/// file that it is forbidden.
async fn optional(store: &dyn ObjectStore, file: &Path) -> Result<Option<ObjectMeta>, String> {
    match store.head(file).await {
        Ok(meta) => Ok(Some(meta)),
        Err(
            Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. },
        ) => Ok(None),
        Err(error) => Err(format!("{file}: {error}")),
    }
}

/// A readable name, and a hash of the place and of what tells these files from others there.
fn name_and_version(base: &Path, place: &str, files: &[ObjectMeta]) -> (String, String) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(place.as_bytes());
    for file in files {
        let tag = match &file.e_tag {
            Some(tag) => tag.clone(),
            None => file.last_modified.to_rfc3339(),
        };
        hasher.update(format!("\n{} {} {tag}", file.location, file.size).as_bytes());
    }
    let last = base.filename().unwrap_or("model");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = last.chars().map(|c| if is_plain(c) { c } else { '_' });
    let name: String = name.take(80).collect();
    let version = hasher.finalize().to_hex()[..16].to_owned();
    (name.trim_start_matches('.').to_owned(), version)
}

async fn download(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    vacancy: &Vacancy,
) -> Result<(), String> {
    let name = file.location.filename().unwrap_or("model");
    let whole = vacancy.place(name);
    let has_size = |path: &FilePath| path.metadata().is_ok_and(|found| found.len() == file.size);
    if has_size(&whole) {
        return Ok(());
    }
    let part = vacancy.place(&format!("{name}.part"));
    let failed = |error: std::io::Error| format!("{}: {error}", part.display());
    let mut written = File::create(&part).map_err(failed)?;
    let starts = (0..file.size).step_by(PIECE_BYTES as usize);
    let pieces = starts.map(|start| piece(store, file, start..file.size.min(start + PIECE_BYTES)));
    let mut pieces = futures::stream::iter(pieces).buffered(PIECES_AT_ONCE);
    while let Some(bytes) = pieces.try_next().await? {
        written.write_all(&bytes).map_err(failed)?;
    }
    written.sync_all().map_err(failed)?;
    if !has_size(&part) {
        return Err(format!(
            "{}: {} bytes came, not {}",
            file.location,
            written.metadata().map_err(failed)?.len(),
            file.size
        ));
    }
    std::fs::rename(&part, &whole).map_err(failed)
}

/// Some bytes of a file, asked for again when they do not come.
async fn piece(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, String> {
    let mut wait = Duration::from_millis(500);
    let mut attempt = 1;
    loop {
        let error = match try_piece(store, file, range.clone()).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        if attempt == ATTEMPTS {
            return Err(format!("{}: {error}", file.location));
        }
        attempt += 1;
        tokio::time::sleep(wait).await;
        wait *= 3;
    }
}

async fn try_piece(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, String> {
    let length = (range.end - range.start) as usize;
    let is_whole = range == (0..file.size);
    let options = GetOptions {
        // A server need not know of ranges when all is wanted.
        range: (!is_whole).then_some(GetRange::Bounded(range)),
        if_match: file.e_tag.clone(),
        ..GetOptions::default()
    };
    let silent = |_| format!("nothing came for {} s", SILENCE.as_secs());
    let answer = tokio::time::timeout(SILENCE, store.get_opts(&file.location, options));
    let answer = answer.await.map_err(silent)?;
    let mut stream = answer.map_err(|error| error.to_string())?.into_stream();
    let mut bytes = Vec::with_capacity(length);
    loop {
        let next = tokio::time::timeout(SILENCE, stream.try_next());
        let next = next.await.map_err(silent)?;
        match next.map_err(|error| error.to_string())? {
            Some(chunk) if bytes.len() + chunk.len() <= length => bytes.extend_from_slice(&chunk),
            Some(_) => return Err(format!("more than the {length} bytes that were asked for")),
            None if bytes.len() == length => return Ok(bytes),
            None => return Err(format!("{} bytes came, not {length}", bytes.len())),
        }
    }
}
