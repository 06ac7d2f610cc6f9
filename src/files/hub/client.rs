//! Requests to the Hub.
//!
//! Endpoints, headers and error codes are those of `huggingface_hub` 1.x (`hf_api.py`, `file_download.py`,
//! `utils/_http.py`).

use std::fmt;
use std::time::Duration;

use reqwest::header::{HeaderMap, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

/// How often something is asked for.
pub(super) const ATTEMPTS: u32 = 5;

/// How often a host is called that nobody answers at: this machine may be offline.
const ATTEMPTS_TO_CONNECT: u32 = 2;

/// The longest pause that a server's `Retry-After` is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a connection may take, and how long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Pages of one listing.
const MAX_PAGES: usize = 10_000;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    fn api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// Before the name in the addresses of pages and files.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// Why the Hub did not give something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubError {
    /// There is no such file or folder.
    Absent(String),
    /// It answered, and asking again does not help.
    Refused(String),
    /// It did not answer, or answers were cut or asked for patience to the last.
    Unreachable(String),
}

impl fmt::Display for HubError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(reason) | Self::Refused(reason) | Self::Unreachable(reason) => {
                to.write_str(reason)
            }
        }
    }
}

impl std::error::Error for HubError {}

/// A commit and its files.
#[derive(Debug, Deserialize)]
pub struct Info {
    pub sha: String,
    #[serde(default)]
    pub siblings: Vec<Sibling>,
}

/// A file by its path.
#[derive(Debug, Deserialize)]
pub struct Sibling {
    pub rfilename: String,
}

/// An item of a listing.
#[derive(Debug, Deserialize)]
pub struct Item {
    #[serde(rename = "type")]
    pub kind: String,
    pub path: String,
    #[serde(default)]
    pub size: u64,
    pub oid: String,
}

/// A client of one Hub.
#[derive(Debug, Clone)]
pub struct Client {
    /// Follows redirects.
    http: reqwest::Client,
    /// Follows those within one host.
    at_home: reqwest::Client,
    endpoint: Url,
    token: Option<String>,
    is_offline: bool,
}

impl Client {
    /// As the environment says.
    ///
    /// # Errors
    /// When `HF_ENDPOINT` is no URL.
    pub fn from_env() -> Result<Self, HubError> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let refused = |reason: &dyn fmt::Display| HubError::Refused(format!("{reason}"));
        let endpoint = Url::parse(&format!("{}/", endpoint.trim_end_matches('/')))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| refused(&"HF_ENDPOINT is no URL; accepted: https://host"))?;
        let is_yes =
            |value: String| ["1", "on", "yes", "true"].contains(&&value.to_ascii_lowercase()[..]);
        let client = |redirects| {
            reqwest::Client::builder()
                .user_agent(concat!("datafusion-ches/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(SILENCE)
                .read_timeout(SILENCE)
                .redirect(redirects)
                .build()
                .map_err(|error| refused(&error))
        };
        let within_host = Policy::custom(|attempt| {
            let before = attempt.previous().last();
            let same = before.is_some_and(|url| url.origin() == attempt.url().origin());
            match same && attempt.previous().len() < REDIRECTS {
                true => attempt.follow(),
                false => attempt.stop(),
            }
        });
        Ok(Self {
            http: client(Policy::limited(REDIRECTS))?,
            at_home: client(within_host)?,
            endpoint,
            token: set("HF_TOKEN")
                .map(|token| token.trim().to_owned())
                .or_else(stored_token),
            is_offline: set("HF_HUB_OFFLINE").is_some_and(is_yes),
        })
    }

    /// The commit of a revision, and its files.
    ///
    /// # Errors
    /// When there is none, or the account may not see it, or the Hub does not answer.
    pub async fn info(&self, kind: Kind, id: &str, revision: &str) -> Result<Info, HubError> {
        let place = ["api", kind.api(), id, "revision", &encoded(revision)].join("/");
        let about = About {
            kind,
            id,
            file: None,
        };
        let answer = self.get(&self.url(&place)?, None, &about).await?;
        let info: Info = json(answer, &about).await?;
        match info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            true => Err(HubError::Refused(format!(
                "the Hub calls the commit '{}'",
                info.sha
            ))),
            false => Ok(info),
        }
    }

    /// What a commit has below a folder: all files, or what stands in the folder itself. Calls `each` page by page.
    ///
    /// # Errors
    /// As [`info`](Self::info); [`HubError::Absent`] where there is no such folder.
    pub async fn list(
        &self,
        (kind, id, commit): (Kind, &str, &str),
        folder: &str,
        recursive: bool,
        mut each: impl FnMut(Vec<Item>),
    ) -> Result<(), HubError> {
        let place = ["api", kind.api(), id, "tree", &encoded(commit)].join("/");
        let mut url = self.url(&place)?;
        extend(&mut url, folder);
        url.query_pairs_mut()
            .append_pair("recursive", if recursive { "true" } else { "false" })
            .append_pair("expand", "false");
        let about = About {
            kind,
            id,
            file: Some(folder),
        };
        for _ in 0..MAX_PAGES {
            let answer = self.get(&url, None, &about).await?;
            let next = next_page(answer.headers(), &url);
            each(json(answer, &about).await?);
            match next {
                None => return Ok(()),
                Some(next) if next.origin() == url.origin() && next != url => url = next,
                Some(next) => {
                    return Err(HubError::Refused(format!(
                        "{about}: the next page of its listing is {}",
                        next.host_str().unwrap_or_default()
                    )));
                }
            }
        }
        Err(HubError::Refused(format!(
            "{about}: its listing has more than {MAX_PAGES} pages"
        )))
    }

    /// The bytes of a file that it has.
    ///
    /// # Errors
    /// As [`info`](Self::info); [`HubError::Absent`] where there is no such file.
    pub async fn size(&self, of: (Kind, &str, &str), file: &str) -> Result<FileMeta, HubError> {
        let (kind, id, _) = of;
        let about = About {
            kind,
            id,
            file: Some(file),
        };
        let url = self.file_url(of, file)?;
        let answer = self
            .request(&self.at_home, Method::HEAD, &url, None, &about)
            .await?;
        let headers = answer.headers();
        let text = |name: &str| headers.get(name)?.to_str().ok();
        // The length of a redirect is its own.
        let of_answer = || text("content-length").filter(|_| answer.status().is_success());
        let bytes = text("x-linked-size").or_else(of_answer);
        let bytes = bytes.and_then(|bytes| bytes.parse().ok());
        let tag = text("x-linked-etag").or_else(|| text("etag"));
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        match bytes {
            Some(bytes) => Ok(FileMeta { bytes, tag }),
            None => Err(HubError::Refused(format!(
                "{about}: the Hub does not tell its size"
            ))),
        }
    }

    /// The answer with a file's bytes, those of `range` (last one included) if it is given.
    ///
    /// # Errors
    /// As [`size`](Self::size).
    pub async fn bytes(
        &self,
        of: (Kind, &str, &str),
        file: &str,
        range: Option<&str>,
    ) -> Result<Response, HubError> {
        let (kind, id, _) = of;
        let about = About {
            kind,
            id,
            file: Some(file),
        };
        self.get(&self.file_url(of, file)?, range, &about).await
    }

    fn file_url(
        &self,
        (kind, id, commit): (Kind, &str, &str),
        file: &str,
    ) -> Result<Url, HubError> {
        let place = format!("{}{id}/resolve/{}", kind.prefix(), encoded(commit));
        let mut url = self.url(&place)?;
        extend(&mut url, file);
        Ok(url)
    }

    fn url(&self, place: &str) -> Result<Url, HubError> {
        let joined = self.endpoint.join(place);
        joined.map_err(|error| HubError::Refused(error.to_string()))
    }

    async fn get(
        &self,
        url: &Url,
        range: Option<&str>,
        about: &About<'_>,
    ) -> Result<Response, HubError> {
        self.request(&self.http, Method::GET, url, range, about)
            .await
    }

    async fn request(
        &self,
        http: &reqwest::Client,
        method: Method,
        url: &Url,
        range: Option<&str>,
        about: &About<'_>,
    ) -> Result<Response, HubError> {
        if self.is_offline {
            return Err(HubError::Unreachable(format!(
                "{about}: HF_HUB_OFFLINE is set"
            )));
        }
        let mut attempt = 1;
        loop {
            let mut request = http.request(method.clone(), url.clone());
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            if let Some(range) = range {
                request = request.header(RANGE, format!("bytes={range}"));
            }
            let mut asked = None;
            let mut attempts = ATTEMPTS;
            let reason = match request.send().await {
                Ok(answer) if is_given(&answer) => return Ok(answer),
                Ok(answer) if !may_help(answer.status()) => {
                    return Err(self.refusal(&answer, about));
                }
                Ok(answer) => {
                    asked = retry_after(answer.headers());
                    format!("the Hub answers {}", answer.status())
                }
                Err(error) => {
                    if error.is_connect() {
                        attempts = ATTEMPTS_TO_CONNECT;
                    }
                    said(&error)
                }
            };
            if attempt >= attempts {
                let reason = format!("{about}: {reason}, {attempt} times");
                return Err(HubError::Unreachable(reason));
            }
            tokio::time::sleep(asked.unwrap_or_else(|| pause(attempt))).await;
            attempt += 1;
        }
    }

    /// What an answer says that is none.
    fn refusal(&self, answer: &Response, about: &About<'_>) -> HubError {
        let header = |name: &str| answer.headers().get(name)?.to_str().ok();
        let code = header("x-error-code").unwrap_or_default();
        let page = format!("{}{}{}", self.endpoint, about.kind.prefix(), about.id);
        let account = match &self.token {
            Some(_) => "the account of HF_TOKEN",
            None => "an account (HF_TOKEN)",
        };
        let status = answer.status();
        let said = header("x-error-message").unwrap_or_default();
        if status == StatusCode::UNAUTHORIZED && said.starts_with("Invalid credentials") {
            return HubError::Refused(format!(
                "{about}: the Hub does not know the token (HF_TOKEN)"
            ));
        }
        match (code, status.as_u16()) {
            ("GatedRepo", _) => HubError::Refused(format!(
                "{about} is gated: accept its conditions at {page} with {account}"
            )),
            ("RevisionNotFound", _) => {
                HubError::Refused(format!("{about}: there is no such revision; see {page}"))
            }
            ("RepoNotFound", _) | ("", 401) => HubError::Refused(format!(
                "{about} is not there, or is private and needs {account} that may read it: {page}"
            )),
            ("" | "EntryNotFound", 404) => HubError::Absent(format!("{about} is not there")),
            (_, 403) => {
                HubError::Refused(format!("{about}: {account} may not read it; see {page}"))
            }
            _ => HubError::Refused(format!("{about}: the Hub answers {status} {said}")),
        }
    }
}

/// What is known of a file before it is read.
#[derive(Debug, Clone)]
pub struct FileMeta {
    pub bytes: u64,
    pub tag: Option<String>,
}

/// What a message is about.
struct About<'a> {
    kind: Kind,
    id: &'a str,
    file: Option<&'a str>,
}

impl fmt::Display for About<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "hf://{}{}", self.kind.prefix(), self.id)?;
        match self.file {
            Some(file) if !file.is_empty() => write!(to, "/{file}"),
            _ => Ok(()),
        }
    }
}

/// A revision as one part of a path.
fn encoded(revision: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    percent_encoding::utf8_percent_encode(revision, KEPT).to_string()
}

fn extend(url: &mut Url, path: &str) {
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.extend(path.split('/').filter(|part| !part.is_empty()));
    }
}

/// Whether an answer is what was asked for: a redirect that is not followed tells of a file, too.
fn is_given(answer: &Response) -> bool {
    answer.status().is_success() || answer.status().is_redirection()
}

/// Whether asking again may help.
fn may_help(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// How long a server asks to wait: `Retry-After: 5`, or `RateLimit: "api";r=0;t=55`, as the Hub says it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let of_limit = || {
        let (_, parameters) = text("ratelimit")?.split_once(';')?;
        let reset = parameters
            .split(';')
            .find_map(|of| of.trim().strip_prefix("t="));
        reset?.parse().ok()
    };
    let seconds = text("retry-after").and_then(|seconds| seconds.parse().ok());
    let seconds = seconds.or_else(of_limit)?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// Before the next attempt.
pub(super) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(300) * 3_u32.pow(attempt - 1)
}

/// What an error of the connection says, down to its cause, without the URL: it may hold a signature.
pub(super) fn said(error: &reqwest::Error) -> String {
    let mut said = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    said.dedup();
    match said.is_empty() {
        true => "the connection failed".into(),
        false => said.join(": "),
    }
}

/// The URL in `Link: <…>; rel="next"`.
fn next_page(headers: &HeaderMap, of: &Url) -> Option<Url> {
    let links = headers.get_all("link").iter();
    let links = links.filter_map(|link| link.to_str().ok());
    let next = links.flat_map(|links| links.split(',')).find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then_some(url)
    })?;
    of.join(next).ok()
}

async fn json<T: for<'de> Deserialize<'de>>(
    answer: Response,
    about: &About<'_>,
) -> Result<T, HubError> {
    let bytes = answer.bytes().await;
    let bytes =
        bytes.map_err(|error| HubError::Unreachable(format!("{about}: {}", said(&error))))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| HubError::Refused(format!("{about}: the Hub's answer: {error}")))
}

/// What `hf auth login` stored.
fn stored_token() -> Option<String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = match set("HF_TOKEN_PATH") {
        Some(path) => path.into(),
        None => match (set("HF_HOME"), set("XDG_CACHE_HOME")) {
            (Some(home), _) => std::path::PathBuf::from(home).join("token"),
            (None, Some(cache)) => std::path::PathBuf::from(cache).join("huggingface/token"),
            (None, None) => std::env::home_dir()?.join(".cache/huggingface/token"),
        },
    };
    let token = std::fs::read_to_string(path).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let url = Url::parse("https://hub/api/datasets/a/b/tree/main?x=1").unwrap();
        for (link, expected) in [
            (
                "<https://hub/c?cursor=2>; rel=\"next\"",
                Some("https://hub/c?cursor=2"),
            ),
            (
                "<https://hub/0>; rel=\"prev\", </d>; rel=\"next\"",
                Some("https://hub/d"),
            ),
            ("<https://hub/0>; rel=\"prev\"", None),
            ("nonsense", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("link", link.parse().unwrap());
            let found = next_page(&headers, &url);
            assert_eq!(found.as_ref().map(Url::as_str), expected, "{link}");
        }
    }

    #[test]
    fn pauses_that_are_asked_for() {
        for (name, value, seconds) in [
            ("retry-after", "5", Some(5)),
            ("retry-after", "86400", Some(60)),
            ("retry-after", "tomorrow", None),
            ("ratelimit", "\"api\";r=0;t=55", Some(55)),
            ("ratelimit", "nonsense", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(
                retry_after(&headers),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    #[test]
    fn revisions_are_one_part() {
        assert_eq!(encoded("refs/convert/parquet"), "refs%2Fconvert%2Fparquet");
        assert_eq!(encoded("v1.0-a_b"), "v1.0-a_b");
        let mut url = Url::parse("https://hub/resolve/main").unwrap();
        extend(&mut url, "data/a b#?.json");
        assert_eq!(
            url.as_str(),
            "https://hub/resolve/main/data/a%20b%23%3F.json"
        );
    }
}
