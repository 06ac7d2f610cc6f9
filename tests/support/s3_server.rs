//! An S3 server on this machine: moto's, in a process of its own.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// The bucket that is there.
pub(crate) const BUCKET: &str = "bucket";

/// The python with moto and pyarrow.
pub(crate) fn python() -> String {
    std::env::var("CHES_TEST_PYTHON").expect(
        "CHES_TEST_PYTHON names a python with moto and pyarrow; run the tests by `make test`",
    )
}

/// A server with an empty bucket, which ends with this.
pub(crate) struct S3Server {
    process: Child,
    port: u16,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = Command::new(python())
            .args(["-m", "moto.server", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "moto does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(
            stream,
            "PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// By which a process finds the server, or a proxy of it at another port.
    pub(crate) fn environment(port: u16) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://127.0.0.1:{port}");
        let variables = [
            ("AWS_ENDPOINT", &endpoint[..]),
            ("AWS_ENDPOINT_URL", &endpoint),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hidden-secret-1"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ];
        variables
            .map(|(name, value)| (name, value.to_owned()))
            .into()
    }

    fn store(&self) -> Arc<AmazonS3> {
        let builder = AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_access_key_id("key")
            .with_secret_access_key("secret");
        Arc::new(builder.build().unwrap())
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(work)
    }

    /// Every key that begins with this, in order.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let store = self.store();
        let listed: Vec<_> = Self::block_on(store.list(None).try_collect()).unwrap();
        let keys = listed.into_iter().map(|file| file.location.to_string());
        let mut keys: Vec<String> = keys.filter(|key| key.starts_with(prefix)).collect();
        keys.sort();
        keys
    }

    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        let store = self.store();
        Self::block_on(async {
            let got = store.get(&Path::from(key)).await.unwrap();
            got.bytes().await.unwrap().to_vec()
        })
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        let content = content.to_vec();
        Self::block_on(self.store().put(&Path::from(key), content.into())).unwrap();
    }
}
