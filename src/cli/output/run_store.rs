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

/// What a run wrote, shared with the uploads that are on their way.
#[derive(Debug, Default)]
struct Written {
    /// Bytes of each file.
    files: Mutex<BTreeMap<Path, u64>>,
    is_over: AtomicBool,
}

impl Written {
    fn check(&self) -> Result<()> {
        if self.is_over.load(Ordering::SeqCst) {
            return Err(Error::Generic {
                store: "ches",
                source: "the run is over".into(),
            });
        }
        Ok(())
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
    /// Begins the names of files; empty where a name is given.
    prefix: String,
    written: Arc<Written>,
}

impl RunStore {
    /// The files that are written through it have names that begin with `prefix`.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: String) -> Self {
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

    /// Takes nothing any more.
    pub fn end(&self) {
        self.written.is_over.store(true, Ordering::SeqCst);
    }

    fn renamed(&self, path: &Path) -> Path {
        let mut parts: Vec<_> = path.parts().collect();
        let name = parts.pop();
        let name = name.map_or(String::new(), |name| name.as_ref().to_owned());
        let renamed = format!("{}{name}", self.prefix);
        Path::from_iter(parts).join(renamed.as_str())
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
    written: Arc<Written>,
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
        let done = self.upload.complete().await?;
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.written.add(self.path.clone(), bytes);
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
