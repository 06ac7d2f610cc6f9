//! Models of the Hugging Face Hub, by the hf-hub crate: in the Hub's own cache (`HF_HOME`,
//! `HF_HUB_CACHE`), by the Hub's own token (`HF_TOKEN`, or the one that `hf auth login` stored).

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::model_directory::{
    CONFIG, INDEX, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, shard_names,
};

const RETRIES: usize = 5;

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
    // The crate asserts what servers and file systems usually hold to.
    let fetched = std::panic::catch_unwind(AssertUnwindSafe(|| fetch_revision(id, revision)));
    fetched.unwrap_or_else(|_| Err("the Hub's answer makes no sense".into()))
}

fn fetch_revision(id: &str, revision: &str) -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let cache = match set("HF_HUB_CACHE") {
        Some(folder) => Cache::new(folder.into()),
        None => Cache::from_env(),
    };
    let repo =
        |revision: &str| Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let mut builder = ApiBuilder::from_cache(cache.clone())
        .with_progress(false)
        .with_retries(RETRIES);
    if let Some(endpoint) = set("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(token) = set("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|error| error.to_string())?;
    let is_offline = set("HF_HUB_OFFLINE").is_some_and(|value| value != "0");
    let info = if is_offline {
        Err("HF_HUB_OFFLINE is set".to_owned())
    } else {
        let info = api.repo(repo(revision)).info();
        info.map_err(|error| error.to_string())
    };
    let info = match info {
        Ok(info) => info,
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
    let files = api.repo(repo(&info.sha));
    let get = |name: &str| files.get(name).map_err(|error| format!("{name}: {error}"));
    for name in [CONFIG, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE] {
        if has(name) {
            get(name)?;
        }
    }
    if has(WEIGHTS) {
        get(WEIGHTS)?;
    } else if has(INDEX) {
        let index = std::fs::read(get(INDEX)?).map_err(|error| format!("{INDEX}: {error}"))?;
        let shards = shard_names(&index).map_err(|reason| format!("{INDEX}: {reason}"))?;
        for shard in shards {
            get(&shard)?;
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
