//! A web server on this machine, which is also as much of S3 and of the Hugging Face Hub as
//! reading files takes. It can be told to fail.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Header of a file that is not given in parts.
pub(crate) const WHOLE: &str = "X-Whole: yes\r\n";

/// Header of a file without a date.
pub(crate) const UNDATED: &str = "X-Undated: yes\r\n";

/// What goes wrong with one answer to a GET.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// This status and nothing else.
    Status(u16),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<HashMap<String, (Vec<u8>, String)>>,
    faults: Mutex<VecDeque<Fault>>,
    requests: Mutex<Vec<String>>,
}

/// The server; it goes with the process.
#[derive(Debug)]
pub(crate) struct FileServer {
    port: u16,
    shared: Arc<Shared>,
}

impl FileServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&of_thread);
                std::thread::spawn(move || drop(answer(stream.unwrap(), &shared)));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Serves a file at `/path`; `headers` are lines that end in a line break. With [`WHOLE`] among
    /// them it is never given in parts, with [`UNDATED`] without its date.
    pub(crate) fn serve(&self, path: &str, content: impl Into<Vec<u8>>, headers: &str) {
        let mut files = self.shared.files.lock().unwrap();
        files.insert(path.to_owned(), (content.into(), headers.to_owned()));
    }

    /// Serves the files of a folder below `/path`.
    pub(crate) fn serve_folder(&self, path: &str, folder: &Path, headers: &str) -> Vec<String> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let content = std::fs::read(entry.path()).unwrap();
            self.serve(&format!("{path}/{name}"), content, headers);
            names.push(name);
        }
        names
    }

    /// The next answers to GET requests go wrong.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.shared.faults.lock().unwrap().extend(faults);
    }

    /// The requests since the last call, such as `GET /path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }
}

fn answer(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            let (from, to) = bytes.split_once('-').unwrap();
            range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap_or("/"));
    let path = path.split('?').next().unwrap();
    let found = shared.files.lock().unwrap().get(path).cloned();
    let fault = match method {
        "GET" => shared.faults.lock().unwrap().pop_front(),
        _ => None,
    };
    shared
        .requests
        .lock()
        .unwrap()
        .push(format!("{method} {path}"));
    let mut stream = stream;
    let (content, headers) = match (found, fault) {
        (_, Some(Fault::Status(status))) => {
            return write!(
                stream,
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        (None, _) => {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        (Some(found), _) => found,
    };
    let range = range.filter(|_| !headers.contains(WHOLE));
    let date = if headers.contains(UNDATED) {
        ""
    } else {
        "Last-Modified: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
    };
    let (status, part, of_range) = match range {
        None => ("200 OK", &content[..], String::new()),
        Some((from, to)) => {
            let to = to.unwrap_or(usize::MAX).min(content.len() - 1);
            let of_range = format!("Content-Range: bytes {from}-{to}/{}\r\n", content.len());
            ("206 Partial Content", &content[from..=to], of_range)
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{of_range}{headers}{date}\
         Connection: close\r\n\r\n",
        part.len()
    )?;
    if method == "HEAD" {
        return Ok(());
    }
    match fault {
        Some(Fault::Cut(bytes)) => stream.write_all(&part[..bytes.min(part.len())]),
        _ => stream.write_all(part),
    }
}
