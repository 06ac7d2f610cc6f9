//! What is refused in the URLs of data.

use datafusion::common::plan_err;
use datafusion::error::Result;
use url::Url;

/// Refuses a URL with a user or a password, which messages, plans and logs would show.
///
/// # Errors
/// When it has one; the message shows neither.
pub fn refuse_account(place: &str) -> Result<()> {
    let Ok(url) = Url::parse(place) else {
        return Ok(());
    };
    if url.username().is_empty() && url.password().is_none() {
        return Ok(());
    }
    plan_err!(
        "{}://***@{}{}: accepted: a URL without user and password; accounts are taken from the \
         environment, or from OPTIONS of CREATE EXTERNAL TABLE",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_not_shown() {
        for url in ["s3://me:hush@bucket/a", "https://hush@host/a.parquet"] {
            let error = refuse_account(url).unwrap_err().to_string();
            assert!(error.contains("://***@"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        for url in [
            "s3://bucket/a",
            "a/b@c.parquet",
            "az://container/a",
            "C:\\a@b",
        ] {
            refuse_account(url).unwrap();
        }
    }
}
