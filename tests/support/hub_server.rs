//! As much of the Hugging Face Hub as reading data sets takes, on this machine: its API on one port, and
//! the host that it redirects to for the bytes of files on another. It can be told to fail.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// This status and nothing else.
    Status(u16),
    /// 429, and how many seconds to wait.
    RetryAfter(u64),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
}

#[derive(Debug, Default)]
struct State {
    /// By data set and commit: paths and contents.
    files: HashMap<(String, String), BTreeMap<String, Vec<u8>>>,
    /// What may read a data set: the token, and whether it is gated.
    tokens: HashMap<String, (String, bool)>,
    of_files: VecDeque<Fault>,
    of_api: VecDeque<Fault>,
    requests: Vec<String>,
    bytes: u64,
}

/// The server; it goes with the process.
#[derive(Debug)]
pub(crate) struct HubServer {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// Items of a page of a listing.
const PAGE: usize = 7;

/// The commit that a revision is.
fn commit(revision: &str) -> String {
    let digest = revision
        .bytes()
        .fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    format!("{digest:040x}")
}

impl HubServer {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, files) = (listen(), listen());
        let port = hub.local_addr().unwrap().port();
        let port_of_files = files.local_addr().unwrap().port();
        for (listener, is_hub) in [(hub, true), (files, false)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let state = Arc::clone(&state);
                    let ports = (port, port_of_files);
                    std::thread::spawn(move || {
                        drop(answer(stream.unwrap(), is_hub, ports, &state))
                    });
                }
            });
        }
        Self { port, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a file to a revision of a data set.
    pub(crate) fn add(&self, id: &str, revision: &str, path: &str, content: impl Into<Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        let files = state.files.entry((id.to_owned(), commit(revision)));
        files.or_default().insert(path.to_owned(), content.into());
    }

    /// Only who has the token may read a data set.
    pub(crate) fn require_token(&self, id: &str, token: &str, is_gated: bool) {
        let mut state = self.state.lock().unwrap();
        state.tokens.insert(id.into(), (token.into(), is_gated));
    }

    /// The next answers with files go wrong.
    pub(crate) fn fail_files(&self, faults: &[Fault]) {
        self.state.lock().unwrap().of_files.extend(faults);
    }

    /// The next other answers go wrong.
    pub(crate) fn fail_api(&self, faults: &[Fault]) {
        self.state.lock().unwrap().of_api.extend(faults);
    }

    /// The requests since the last call, such as `GET /path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// The bytes of files that were sent since the last call.
    pub(crate) fn bytes(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap().bytes)
    }
}

struct Request {
    method: String,
    /// With its escapes.
    path: String,
    query: String,
    token: Option<String>,
    range: Option<String>,
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        token: None,
        range: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match &name.to_ascii_lowercase()[..] {
            "authorization" => request.token = Some(value.replace("Bearer ", "")),
            "range" => request.range = Some(value.replace("bytes=", "")),
            _ => {}
        }
    }
    Ok(request)
}

fn decoded(part: &str) -> String {
    part.replace("%2F", "/")
        .replace("%20", " ")
        .replace("%40", "@")
}

fn answer(
    mut stream: TcpStream,
    is_hub: bool,
    (port, port_of_files): (u16, u16),
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let request = read(&stream)?;
    let host = if is_hub { "" } else { "files:" };
    let mut locked = state.lock().unwrap();
    locked
        .requests
        .push(format!("{} {host}{}", request.method, request.path));
    let parts: Vec<String> = request
        .path
        .trim_matches('/')
        .split('/')
        .map(decoded)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let mut plain = |status: &str, headers: &str, body: &str| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    if !is_hub {
        if request.token.is_some() {
            return plain("400 Bad Request", "", "the token went to another host");
        }
        let ["files", org, name, commit, path @ ..] = &parts[..] else {
            return plain("404 Not Found", "", "");
        };
        let key = (format!("{org}/{name}"), (*commit).to_owned());
        let found = locked
            .files
            .get(&key)
            .and_then(|files| files.get(&path.join("/")));
        let content = found.cloned().unwrap_or_default();
        let fault = locked.of_files.pop_front();
        drop(locked);
        return send(&mut stream, &request, &content, fault, state);
    }
    let is_api = parts.first() == Some(&"api");
    match if is_api {
        locked.of_api.pop_front()
    } else {
        None
    } {
        Some(Fault::RetryAfter(seconds)) => {
            let header = format!("RateLimit: \"api\";r=0;t={seconds}\r\n");
            return plain("429 Too Many Requests", &header, "");
        }
        Some(Fault::Status(status)) => return plain(&format!("{status} No"), "", ""),
        Some(Fault::Cut(_)) | None => {}
    }
    let (id, revision, rest, verb) = match &parts[..] {
        ["api", "datasets", org, name, verb, revision, rest @ ..] => {
            (format!("{org}/{name}"), *revision, rest, *verb)
        }
        ["datasets", org, name, "resolve", revision, rest @ ..] => {
            (format!("{org}/{name}"), *revision, rest, "resolve")
        }
        _ => return plain("404 Not Found", "", ""),
    };
    let refused = locked.tokens.get(&id);
    let refused = refused.filter(|(token, _)| request.token.as_ref() != Some(token));
    let is_there = locked.files.keys().any(|(of, _)| *of == id);
    match (refused, &request.token) {
        // Everybody sees which files there are.
        (Some((_, true)), _) if verb != "resolve" => {}
        (Some((_, true)), None) => {
            return plain("401 Unauthorized", "X-Error-Code: GatedRepo\r\n", "");
        }
        (Some((_, true)), Some(_)) => {
            return plain("403 Forbidden", "X-Error-Code: GatedRepo\r\n", "");
        }
        (None, _) if is_there => {}
        (_, None) => {
            return plain(
                "401 Unauthorized",
                "X-Error-Message: Invalid username or password.\r\n",
                "",
            );
        }
        (_, Some(token)) if token == "nonsense" => {
            let message = "X-Error-Message: Invalid credentials in Authorization header\r\n";
            return plain("401 Unauthorized", message, "");
        }
        (_, Some(_)) => return plain("404 Not Found", "X-Error-Code: RepoNotFound\r\n", ""),
    }
    let is_sha = revision.len() == 40;
    let sha = if is_sha {
        revision.to_owned()
    } else {
        commit(revision)
    };
    let Some(files) = locked.files.get(&(id.clone(), sha.clone())) else {
        return plain("404 Not Found", "X-Error-Code: RevisionNotFound\r\n", "");
    };
    let path = rest.join("/");
    match verb {
        "revision" => {
            let siblings: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({"rfilename": name}))
                .collect();
            let info = serde_json::json!({"id": id, "sha": sha, "siblings": siblings});
            plain("200 OK", "", &info.to_string())
        }
        "tree" => {
            let prefix = if path.is_empty() {
                path
            } else {
                format!("{path}/")
            };
            let below = files.iter().filter(|(name, _)| name.starts_with(&prefix));
            let recursive = request.query.contains("recursive=true");
            let mut items = Vec::new();
            for (name, content) in below {
                let within = &name[prefix.len()..];
                let folder = within.split_once('/').map(|(folder, _)| folder);
                let item = match folder {
                    Some(folder) if !recursive => serde_json::json!({
                        "type": "directory", "oid": "0", "size": 0, "path": format!("{prefix}{folder}"),
                    }),
                    _ => serde_json::json!({
                        "type": "file", "oid": "1", "size": content.len(), "path": name,
                    }),
                };
                if items.last() != Some(&item) {
                    items.push(item);
                }
            }
            if items.is_empty() && !prefix.is_empty() {
                return plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", "");
            }
            let cursor = request.query.split("cursor=").nth(1);
            let from: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
            let page = &items[from..items.len().min(from + PAGE)];
            let query = request.query.split("&cursor").next().unwrap_or_default();
            let next = match from + PAGE < items.len() {
                true => format!(
                    "Link: <http://127.0.0.1:{port}{}?{query}&cursor={}>; rel=\"next\"\r\n",
                    request.path,
                    from + PAGE
                ),
                false => String::new(),
            };
            plain("200 OK", &next, &serde_json::json!(page).to_string())
        }
        // What Git holds itself is given here, by way of another path.
        _ if path.ends_with(".md") && !request.query.contains("direct") => {
            let headers = format!("Location: {}?direct\r\n", request.path);
            plain("307 Temporary Redirect", &headers, "")
        }
        _ if path.ends_with(".md") => match files.get(&path) {
            None => plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", ""),
            Some(content) => plain("200 OK", "", &String::from_utf8_lossy(content)),
        },
        _ => match files.get(&path) {
            None => plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", ""),
            Some(content) => {
                let headers = format!(
                    "Location: http://localhost:{port_of_files}/files/{id}/{sha}/{path}?signature=1\r\n\
                     X-Linked-Size: {}\r\nX-Linked-ETag: \"1\"\r\nX-Repo-Commit: {sha}\r\n",
                    content.len()
                );
                plain("302 Found", &headers, "redirected")
            }
        },
    }
}

fn send(
    stream: &mut TcpStream,
    request: &Request,
    content: &[u8],
    fault: Option<Fault>,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let close = "Connection: close\r\n\r\n";
    match fault {
        Some(Fault::RetryAfter(seconds)) => {
            let status = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n";
            return write!(stream, "{status}Retry-After: {seconds}\r\n{close}");
        }
        Some(Fault::Status(status)) => {
            return write!(
                stream,
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n{close}"
            );
        }
        Some(Fault::Cut(_)) | None => {}
    }
    let all = content.len();
    let (status, part) = match request
        .range
        .as_deref()
        .and_then(|range| range.split_once('-'))
    {
        None => ("200 OK".to_owned(), content),
        Some(("", suffix)) => {
            let from = all.saturating_sub(suffix.parse().unwrap());
            partial(content, from, all)
        }
        Some((from, to)) => {
            let to = to.parse().map_or(all, |to: usize| (to + 1).min(all));
            partial(content, from.parse().unwrap(), to)
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{close}",
        part.len()
    )?;
    let part = match fault {
        Some(Fault::Cut(bytes)) => &part[..bytes.min(part.len())],
        _ => part,
    };
    for chunk in part.chunks(16 << 10) {
        stream.write_all(chunk)?;
        state.lock().unwrap().bytes += chunk.len() as u64;
        // Who hangs up is noticed.
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn partial(content: &[u8], from: usize, to: usize) -> (String, &[u8]) {
    let all = content.len();
    let status = format!(
        "206 Partial Content\r\nContent-Range: bytes {from}-{}/{all}",
        to - 1
    );
    (status, &content[from..to])
}
