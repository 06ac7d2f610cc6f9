//! The store that one run writes through: it names files after the run, remembers them and why the first
//! could not be written, and takes nothing any more once the run is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

/// Under which names files are written.
#[derive(Debug)]
pub(super) enum Naming {
    /// Names that begin with this.
    Prefixed(String),
    /// Names that end with this, until the run is published: then it is taken off by a rename. A query
    /// that fails ends its file as if it were whole, so that no file may appear by itself.
    Renamed(String),
    /// Their own, but they appear when the run is published: uploads of object stores take their last
    /// step then.
    Held,
}

fn over() -> Error {
    Error::Generic {
        store: "ches",
        source: "the run is over".into(),
    }
}

/// A file that is written but for its last step.
#[derive(Debug)]
enum Held {
    Upload(RunUpload),
    Put(Path, PutPayload, PutOptions),
}

/// What a run wrote, shared with the uploads that are on their way.
#[derive(Debug, Default)]
struct Written {
    /// Bytes of each file.
    files: Mutex<BTreeMap<Path, u64>>,
    is_over: AtomicBool,
    /// Files that appear when the run is published.
    held: Mutex<Vec<Held>>,
    failure: Mutex<Option<String>>,
}

impl Written {
    fn check(&self) -> Result<()> {
        if self.is_over.load(Ordering::SeqCst) {
            return Err(over());
        }
        Ok(())
    }

    fn hold(&self, file: Held) -> PutResult {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(file);
        PutResult {
            e_tag: None,
            version: None,
        }
    }

    /// Remembers the first failure.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.to_string());
        }
        result
    }

    fn add(&self, path: Path, bytes: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path, bytes);
    }
}

/// Another store, for the files of one run.
#[derive(Debug)]
pub(super) struct RunStore {
    inner: Arc<dyn ObjectStore>,
    naming: Naming,
    written: Arc<Written>,
}

impl RunStore {
    /// Nothing is written yet.
    pub(super) fn new(inner: Arc<dyn ObjectStore>, naming: Naming) -> Self {
        Self {
            inner,
            naming,
            written: Arc::default(),
        }
    }

    /// The files that were written whole, with their bytes.
    pub(super) fn files(&self) -> BTreeMap<Path, u64> {
        let files = self.written.files.lock();
        files.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the first file that could not be written could not.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.written.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets what was written appear under its own name.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn publish(&self) -> Result<()> {
        if let Naming::Renamed(suffix) = &self.naming {
            for path in self.files().into_keys() {
                let name = path.as_ref().strip_suffix(suffix.as_str());
                let name = Path::parse(name.unwrap_or(path.as_ref()))?;
                self.inner.rename(&path, &name).await?;
            }
        }
        for held in self.take_held() {
            match held {
                Held::Upload(mut upload) => upload.publish().await.map(drop)?,
                Held::Put(path, payload, options) => {
                    let bytes = payload.content_length() as u64;
                    self.inner.put_opts(&path, payload, options).await?;
                    self.written.add(path, bytes);
                }
            }
        }
        Ok(())
    }

    /// Gives up what was held back.
    pub(super) async fn abort(&self) {
        for held in self.take_held() {
            if let Held::Upload(mut upload) = held {
                let _ = upload.upload.abort().await;
            }
        }
    }

    fn take_held(&self) -> Vec<Held> {
        let held = self.written.held.lock();
        std::mem::take(&mut *held.unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes nothing any more.
    pub(super) fn end(&self) {
        self.written.is_over.store(true, Ordering::SeqCst);
    }

    fn is_held(&self) -> bool {
        matches!(self.naming, Naming::Held)
    }

    fn renamed(&self, path: &Path) -> Path {
        let raw = path.as_ref();
        let renamed = match &self.naming {
            Naming::Prefixed(prefix) => {
                let (folder, name) = raw.rsplit_once('/').unwrap_or(("", raw));
                Path::parse(format!("{folder}/{prefix}{name}"))
            }
            Naming::Renamed(suffix) => Path::parse(format!("{raw}{suffix}")),
            Naming::Held => return path.clone(),
        };
        renamed.unwrap_or_else(|_| path.clone())
    }
}

impl fmt::Display for RunStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for RunStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.written.check()?;
        if self.is_held() {
            let put = Held::Put(location.clone(), payload, opts);
            return Ok(self.written.hold(put));
        }
        let (path, bytes) = (self.renamed(location), payload.content_length() as u64);
        let put = self.inner.put_opts(&path, payload, opts).await;
        let put = self.written.noted(put)?;
        self.written.add(path, bytes);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.written.check()?;
        let path = self.renamed(location);
        let upload = self.inner.put_multipart_opts(&path, opts).await;
        let upload = self.written.noted(upload)?;
        Ok(Box::new(RunUpload {
            upload,
            path,
            bytes: AtomicU64::new(0),
            is_held: self.is_held(),
            written: Arc::clone(&self.written),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A file on its way.
#[derive(Debug)]
struct RunUpload {
    upload: Box<dyn MultipartUpload>,
    path: Path,
    bytes: AtomicU64,
    is_held: bool,
    written: Arc<Written>,
}

impl RunUpload {
    async fn publish(&mut self) -> Result<PutResult> {
        let done = self.upload.complete().await;
        let done = self.written.noted(done)?;
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.written.add(self.path.clone(), bytes);
        Ok(done)
    }
}

/// In the place of an upload that is held.
#[derive(Debug)]
struct HeldElsewhere;

#[async_trait]
impl MultipartUpload for HeldElsewhere {
    fn put_part(&mut self, _data: PutPayload) -> UploadPart {
        Box::pin(std::future::ready(Err(over())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Err(over())
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl MultipartUpload for RunUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let bytes = data.content_length() as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (part, written) = (self.upload.put_part(data), Arc::clone(&self.written));
        Box::pin(async move { written.noted(part.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.written.check()?;
        if !self.is_held {
            return self.publish().await;
        }
        let held = Self {
            upload: std::mem::replace(&mut self.upload, Box::new(HeldElsewhere)),
            path: self.path.clone(),
            bytes: AtomicU64::new(self.bytes.load(Ordering::Relaxed)),
            is_held: true,
            written: Arc::clone(&self.written),
        };
        Ok(self.written.hold(Held::Upload(held)))
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
