//! A proxy in front of an HTTP server that fails at random: it delays, throttles, answers with errors,
//! and cuts connections before, within, and after an answer.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::seeded::Seeded;

pub(crate) struct FaultyProxy {
    port: u16,
    faults: Arc<AtomicUsize>,
}

impl FaultyProxy {
    /// In front of the server at a port of this machine. Of so many requests one fails.
    pub(crate) fn start(upstream: u16, one_of: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(AtomicUsize::new(0));
        let random = Arc::new(Mutex::new(Seeded(seed)));
        let counted = Arc::clone(&faults);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (random, faults) = (Arc::clone(&random), Arc::clone(&counted));
                std::thread::spawn(move || pass(stream, upstream, one_of, &random, &faults));
            }
        });
        Self { port, faults }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many requests failed.
    pub(crate) fn faults(&self) -> usize {
        self.faults.load(Ordering::SeqCst)
    }
}

/// One request and its answer; then the connection is closed.
fn pass(
    client: TcpStream,
    upstream: u16,
    one_of: usize,
    random: &Mutex<Seeded>,
    faults: &AtomicUsize,
) -> Result<()> {
    let below = |most: usize| random.lock().unwrap().below(most);
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let fault = match below(one_of) {
        0 => 1 + below(6),
        _ => 0,
    };
    if fault > 0 {
        faults.fetch_add(1, Ordering::SeqCst);
    }
    let mut client = client;
    match fault {
        1 => std::thread::sleep(Duration::from_millis(300)),
        2 | 3 => {
            let status = if fault == 2 {
                "503 Slow Down"
            } else {
                "500 Internal Server Error"
            };
            return write!(
                client,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        // Before the server has heard of it.
        4 => return Ok(()),
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    write!(server, "{head}Connection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match fault {
        // The answer is lost.
        5 => Ok(()),
        6 => client.write_all(&answer[..below(answer.len().max(1))]),
        _ => client.write_all(&answer),
    }
}
