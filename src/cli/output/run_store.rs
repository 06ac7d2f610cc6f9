//! The store that one run writes through: it names files after the run, remembers them, and takes
//! nothing any more once the run is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

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

    fn add(&self, path: Path, bytes: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path, bytes);
    }
}

/// Another store, for the files of one run.
#[derive(Debug)]
pub struct RunStore {
    inner: Arc<dyn ObjectStore>,
    /// Begins the names of files. None where a name is given: such a file appears when the run is
    /// published, since DataFusion ends the file of a query that fails as if it were whole.
    prefix: Option<String>,
    written: Arc<Written>,
}

impl RunStore {
    /// The files that are written through it have names that begin with `prefix`.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: Option<String>) -> Self {
        Self {
            inner,
            prefix,
            written: Arc::default(),
        }
    }

    /// The files that were written whole, with their bytes.
    pub fn files(&self) -> BTreeMap<Path, u64> {
        let files = self.written.files.lock();
        files.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the last step of what was held back.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn publish(&self) -> Result<()> {
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
    pub async fn abort(&self) {
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
    pub fn end(&self) {
        self.written.is_over.store(true, Ordering::SeqCst);
    }

    fn renamed(&self, path: &Path) -> Path {
        let Some(prefix) = &self.prefix else {
            return path.clone();
        };
        let raw = path.as_ref();
        let (folder, name) = raw.rsplit_once('/').unwrap_or(("", raw));
        let renamed = Path::parse(format!("{folder}/{prefix}{name}"));
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
        if self.prefix.is_none() {
            let put = Held::Put(location.clone(), payload, opts);
            return Ok(self.written.hold(put));
        }
        let (path, bytes) = (self.renamed(location), payload.content_length() as u64);
        let put = self.inner.put_opts(&path, payload, opts).await?;
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
        let upload = self.inner.put_multipart_opts(&path, opts).await?;
        Ok(Box::new(RunUpload {
            upload,
            path,
            bytes: AtomicU64::new(0),
            is_held: self.prefix.is_none(),
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
        let done = self.upload.complete().await?;
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
        self.upload.put_part(data)
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
