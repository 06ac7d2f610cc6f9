//! A file's bytes as they come, asked for again from where they were cut.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::{Response, StatusCode};

use super::client::{ATTEMPTS, Client, HubError, Kind, pause, said};

/// Where a file is.
#[derive(Debug, Clone)]
pub struct Located {
    /// What its repository holds.
    pub kind: Kind,
    /// The repository, `org/name`.
    pub id: String,
    /// A commit of it.
    pub commit: String,
    /// The file's path in the repository.
    pub file: String,
}

impl Located {
    fn commit(&self) -> (Kind, &str, &str) {
        (self.kind, &self.id, &self.commit)
    }
}

/// The bytes of a file in a range, of the file's `bytes`.
#[derive(Debug)]
pub struct Body {
    /// Which bytes of the file.
    pub range: Range<u64>,
    /// How many the whole file has.
    pub bytes: u64,
    answer: Response,
}

/// Asks for a file, or for a range of it in the form of the header.
///
/// # Errors
/// When the Hub does not give it.
pub async fn open(
    client: &Client,
    located: &Located,
    range: Option<&str>,
) -> Result<Body, HubError> {
    let answer = client.bytes(located.commit(), &located.file, range).await?;
    let header = |name: &str| answer.headers().get(name)?.to_str().ok();
    let refused = |reason: &str| {
        let file = &located.file;
        HubError::Refused(format!("{}/{file}: {reason}", located.id))
    };
    let (range, bytes) = match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = header("content-range").and_then(content_range);
            range.ok_or_else(|| refused("the server does not say which part it gives"))?
        }
        _ if range.is_some() => return Err(refused("the server gives no parts of files")),
        _ => {
            let bytes = header("content-length").and_then(|bytes| bytes.parse().ok());
            let bytes = bytes.ok_or_else(|| refused("the server does not tell its size"))?;
            (0..bytes, bytes)
        }
    };
    Ok(Body {
        range,
        bytes,
        answer,
    })
}

/// `bytes a-b/n`
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, bytes) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((first..last.checked_add(1)?, bytes.parse().ok()?))
}

impl Body {
    /// All bytes of the range, or an error.
    pub fn into_stream(
        self,
        client: Client,
        located: Located,
    ) -> BoxStream<'static, Result<Bytes, HubError>> {
        let reading = Reading {
            client,
            located,
            left: self.range,
            bytes: self.bytes,
            stream: body(self.answer),
            attempt: 1,
        };
        futures::stream::try_unfold(reading, |mut reading| async {
            let bytes = reading.next().await?;
            Ok(bytes.map(|bytes| (bytes, reading)))
        })
        .boxed()
    }
}

type Chunks = BoxStream<'static, Result<Bytes, String>>;

fn body(answer: Response) -> Chunks {
    answer.bytes_stream().map_err(|error| said(&error)).boxed()
}

struct Reading {
    client: Client,
    located: Located,
    left: Range<u64>,
    bytes: u64,
    stream: Chunks,
    attempt: u32,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, HubError> {
        while !self.left.is_empty() {
            let reason = match self.stream.try_next().await {
                Ok(Some(mut bytes)) => {
                    let wanted = usize::try_from(self.left.end - self.left.start);
                    bytes.truncate(wanted.unwrap_or(usize::MAX));
                    self.left.start += bytes.len() as u64;
                    self.attempt = 1;
                    return Ok(Some(bytes));
                }
                Ok(None) => "the file was cut".to_owned(),
                Err(reason) => reason,
            };
            let of = || format!("{}/{}", self.located.id, self.located.file);
            if self.attempt == ATTEMPTS {
                let reason = format!("{}: {reason}, {ATTEMPTS} times", of());
                return Err(HubError::Unreachable(reason));
            }
            tokio::time::sleep(pause(self.attempt)).await;
            self.attempt += 1;
            let range = format!("{}-{}", self.left.start, self.left.end - 1);
            let again = open(&self.client, &self.located, Some(&range)).await?;
            if again.range != self.left || again.bytes != self.bytes {
                return Err(HubError::Refused(format!(
                    "{}: it has changed meanwhile",
                    of()
                )));
            }
            self.stream = body(again.answer);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(content_range("bytes 2-5/10"), Some((2..6, 10)));
        for wrong in ["bytes */10", "2-5/10", "bytes 2-/10", "bytes 2-5/*"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
