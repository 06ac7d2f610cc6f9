//! Data sets of the Hub as an object store: `hf://datasets/org/name[@revision]/path`.
//!
//! A place in the store is `org/name[@revision]/path`. `@~parquet` is `refs/convert/parquet`, where the Hub keeps
//! Parquet files that it has made itself. What one query reads is of one commit.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::DateTime;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use super::body::{self, Located};
use super::client::{Client, HubError, Item, Kind};

/// How long a revision is believed to be the same commit.
const SAME_COMMIT: Duration = Duration::from_secs(60);

/// What `@~parquet` is.
const CONVERTED: &str = "refs/convert/parquet";

const NAME: &str = "Hugging Face Hub";

/// The data sets of a Hub, to read.
#[derive(Debug)]
pub struct DatasetStore {
    client: Client,
    commits: Mutex<HashMap<String, (String, Instant)>>,
}

/// A place in the store.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    /// `org/name`
    id: String,
    /// As it is written in the place, with its `@`.
    revision: String,
    /// Within the data set.
    path: String,
}

impl Location {
    fn parse(location: &Path) -> Result<Self> {
        let parts: Vec<_> = location
            .parts()
            .map(|part| part.as_ref().to_owned())
            .collect();
        let refused = || {
            failed(HubError::Refused(format!(
                "'hf://datasets/{location}'; accepted: hf://datasets/org/name[@revision]/path"
            )))
        };
        let [org, name, path @ ..] = parts.as_slice() else {
            return Err(refused());
        };
        let (name, revision) = match name.find('@') {
            Some(at) => name.split_at(at),
            None => (name.as_str(), ""),
        };
        // The Hub's own references have slashes.
        let (revision, path) = match (revision, path) {
            ("@refs", [kind, reference, path @ ..]) => (format!("@refs/{kind}/{reference}"), path),
            _ => (revision.to_owned(), path),
        };
        if org.is_empty() || name.is_empty() || org.contains('@') || revision == "@" {
            return Err(refused());
        }
        Ok(Self {
            id: format!("{org}/{name}"),
            revision,
            path: path.join("/"),
        })
    }

    fn revision(&self) -> String {
        match self.revision.strip_prefix('@') {
            None => "main".into(),
            Some("~parquet") => CONVERTED.into(),
            Some(revision) => {
                let decoded = percent_encoding::percent_decode_str(revision);
                decoded.decode_utf8_lossy().into_owned()
            }
        }
    }

    /// Refuses what the Hub has converted in part.
    fn refuse_partial(&self) -> Result<()> {
        let mut folders = self.path.split('/');
        let is_partial = |folder: &str| folder.starts_with("partial-");
        match self.revision() == CONVERTED && folders.any(is_partial) {
            false => Ok(()),
            true => Err(failed(HubError::Refused(format!(
                "hf://datasets/{}@~parquet/{}: the Hub has converted only a part of this data set; accepted: its \
                 own files, without @~parquet",
                self.id, self.path
            )))),
        }
    }
}

fn failed(error: HubError) -> Error {
    match error {
        HubError::Absent(path) => Error::NotFound {
            source: path.clone().into(),
            path,
        },
        other => Error::Generic {
            store: NAME,
            source: Box::new(other),
        },
    }
}

impl DatasetStore {
    /// As the environment says.
    ///
    /// # Errors
    /// When `HF_ENDPOINT` is no URL.
    pub fn from_env() -> Result<Self, HubError> {
        Ok(Self {
            client: Client::from_env()?,
            commits: Mutex::default(),
        })
    }

    /// The commit that a place's revision is.
    async fn commit(&self, place: &Location) -> Result<String> {
        let key = format!("{}{}", place.id, place.revision);
        let lock = || self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((commit, since)) = lock().get(&key)
            && since.elapsed() < SAME_COMMIT
        {
            return Ok(commit.clone());
        }
        let info = self
            .client
            .info(Kind::Dataset, &place.id, &place.revision())
            .await
            .map_err(failed)?;
        lock().insert(key, (info.sha.clone(), Instant::now()));
        Ok(info.sha)
    }

    async fn located(&self, location: &Path) -> Result<Located> {
        let place = Location::parse(location)?;
        place.refuse_partial()?;
        Ok(Located {
            kind: Kind::Dataset,
            commit: self.commit(&place).await?,
            id: place.id,
            file: place.path,
        })
    }

    async fn items(&self, place: &Location, recursive: bool) -> Result<Vec<Item>> {
        let commit = self.commit(place).await?;
        let mut items = Vec::new();
        let listed = self
            .client
            .list(
                (Kind::Dataset, &place.id, &commit),
                &place.path,
                recursive,
                |page| items.extend(page),
            )
            .await;
        match listed {
            Ok(()) => Ok(items),
            // As of a prefix that nothing has.
            Err(HubError::Absent(_)) => Ok(vec![]),
            Err(error) => Err(failed(error)),
        }
    }
}

/// An item's place in the store, if it can have one.
fn location(place: &Location, item: &Item) -> Option<Path> {
    Path::parse(format!("{}{}/{}", place.id, place.revision, item.path)).ok()
}

fn meta(place: &Location, item: &Item) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        location: location(place, item)?,
        last_modified: DateTime::default(),
        size: item.size,
        e_tag: Some(item.oid.clone()),
        version: None,
    })
}

fn read_only() -> Error {
    Error::NotImplemented {
        operation: "writing".into(),
        implementer: NAME.into(),
    }
}

impl fmt::Display for DatasetStore {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(NAME)
    }
}

#[async_trait]
impl ObjectStore for DatasetStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let located = self.located(location).await?;
        let meta = |bytes, tag| ObjectMeta {
            location: location.clone(),
            last_modified: DateTime::default(),
            size: bytes,
            e_tag: tag,
            version: None,
        };
        let is_empty = matches!(&options.range, Some(GetRange::Bounded(range)) if range.is_empty());
        if options.head || is_empty {
            let of = (located.kind, &located.id[..], &located.commit[..]);
            let found = self.client.size(of, &located.file).await.map_err(failed)?;
            return Ok(GetResult {
                payload: GetResultPayload::Stream(futures::stream::empty().boxed()),
                range: 0..0,
                meta: meta(found.bytes, found.tag),
                attributes: Attributes::new(),
            });
        }
        let range = options.range.map(|range| match range {
            GetRange::Bounded(range) => format!("{}-{}", range.start, range.end - 1),
            GetRange::Offset(from) => format!("{from}-"),
            GetRange::Suffix(bytes) => format!("-{bytes}"),
        });
        let body = body::open(&self.client, &located, range.as_deref());
        let body = body.await.map_err(failed)?;
        let (bytes, range) = (body.bytes, body.range.clone());
        let stream = body.into_stream(self.client.clone(), located);
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream.map_err(failed).boxed()),
            range,
            meta: meta(bytes, None),
            attributes: Attributes::new(),
        })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let place = Location::parse(prefix.unwrap_or(&Path::default()));
        let store = Self {
            client: self.client.clone(),
            commits: Mutex::new(
                self.commits
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            ),
        };
        let listed = async move {
            let place = place?;
            let items = store.items(&place, true).await?;
            let files = items.into_iter().filter(|item| item.kind == "file");
            let metas: Vec<_> = files
                .filter_map(|item| meta(&place, &item))
                .map(Ok)
                .collect();
            Ok::<_, Error>(futures::stream::iter(metas))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let place = Location::parse(prefix.unwrap_or(&Path::default()))?;
        let items = self.items(&place, false).await?;
        let (files, folders): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| item.kind == "file");
        Ok(ListResult {
            objects: files.iter().filter_map(|item| meta(&place, item)).collect(),
            common_prefixes: folders
                .iter()
                .filter_map(|item| location(&place, item))
                .collect(),
        })
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only())
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only())
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        futures::stream::once(async { Err(read_only()) }).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (location, id, revision, path) in [
            ("o/n", "o/n", "main", ""),
            ("o/n/data/a.json", "o/n", "main", "data/a.json"),
            ("o/n@v1/a.json", "o/n", "v1", "a.json"),
            ("o/n@~parquet/x", "o/n", CONVERTED, "x"),
            ("o/n@refs%2Fpr%2F1/x", "o/n", "refs/pr/1", "x"),
            ("o/n@refs/convert/parquet/x", "o/n", CONVERTED, "x"),
        ] {
            let place = Location::parse(&Path::parse(location).unwrap()).unwrap();
            let found = (&place.id[..], place.revision(), &place.path[..]);
            assert_eq!(found, (id, revision.to_owned(), path), "{location}");
        }
        for location in ["", "o", "o/@v1", "o/n@/x"] {
            assert!(
                Location::parse(&Path::parse(location).unwrap()).is_err(),
                "{location}"
            );
        }
    }

    #[test]
    fn parts_are_refused() {
        let place = |location: &str| Location::parse(&Path::parse(location).unwrap()).unwrap();
        let partial = place("o/n@~parquet/default/partial-train/0.parquet");
        let error = partial.refuse_partial().unwrap_err().to_string();
        assert!(error.contains("only a part"), "{error}");
        place("o/n/partial-train/0.parquet")
            .refuse_partial()
            .unwrap();
        place("o/n@~parquet/default/train/0.parquet")
            .refuse_partial()
            .unwrap();
    }
}
