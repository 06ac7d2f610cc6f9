//! Where a table is: a file, a folder or a pattern, by path or URL.

use std::path::{Component, Path as FilePath, PathBuf};

use datafusion::common::{plan_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use glob::{MatchOptions, Pattern};
use object_store::path::Path;
use url::Url;

/// More alternatives than a pattern has.
const MAX_ALTERNATIVES: usize = 1_000;

/// A place, and what is meant of it.
#[derive(Debug)]
pub(super) struct Location {
    /// As it was written.
    pub written: String,
    pub store: ObjectStoreUrl,
    /// The file, or the folder.
    pub base: Path,
    /// Which files of the folder are meant; None: the file, or all.
    pub patterns: Option<Patterns>,
    /// On this machine.
    pub local: Option<PathBuf>,
}

/// The alternatives of a pattern with braces.
#[derive(Debug)]
pub(super) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// # Errors
    /// When it is none.
    pub(super) fn new(pattern: &str) -> Result<Self> {
        let mut alternatives = vec![];
        expand(pattern, &mut alternatives)?;
        let pattern = |text: String| {
            // A folder stands for what is in it.
            let text = match text.strip_suffix('/') {
                Some(folder) => format!("{folder}/**"),
                None => text,
            };
            Pattern::new(&text)
                .map_err(|error| plan_datafusion_err!("pattern '{pattern}': {error}"))
        };
        let patterns = alternatives.into_iter().map(pattern);
        Ok(Self(patterns.collect::<Result<_>>()?))
    }

    /// Whether a file is meant, by its path from the folder.
    pub(super) fn matches(&self, path: &str) -> bool {
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let mut patterns = self.0.iter();
        patterns.any(|pattern| pattern.matches_with(path, options))
    }
}

/// `{a,b}` as `a` and `b`, which may have braces themselves.
fn expand(pattern: &str, to: &mut Vec<String>) -> Result<()> {
    let Some(open) = pattern.find('{') else {
        if to.len() == MAX_ALTERNATIVES {
            return plan_err!("a pattern of more than {MAX_ALTERNATIVES} alternatives");
        }
        to.push(pattern.to_owned());
        return Ok(());
    };
    let (before, inner) = (&pattern[..open], &pattern[open + 1..]);
    let mut depth = 0;
    let mut choices = vec![];
    let mut begin = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                choices.push(&inner[begin..at]);
                begin = at + 1;
            }
            '}' if depth > 0 => depth -= 1,
            '}' => {
                choices.push(&inner[begin..at]);
                let after = &inner[at + 1..];
                for choice in choices {
                    expand(&format!("{before}{choice}{after}"), to)?;
                }
                return Ok(());
            }
            _ => {}
        }
    }
    plan_err!("pattern '{pattern}': '{{' without '}}'")
}

/// The folder and the pattern of a path that has one.
fn split_pattern(path: &str) -> Option<(&str, &str)> {
    let first = path.find(['*', '?', '[', '{'])?;
    let folder = path[..first].rfind('/').map_or(0, |slash| slash + 1);
    Some(path.split_at(folder))
}

impl Location {
    /// What is written in the place of a table's name. None: a name.
    ///
    /// # Errors
    /// When it is a path or a URL that cannot be one of a table.
    pub(super) fn parse(written: &str) -> Result<Option<Self>> {
        refuse_account(written)?;
        match written.split_once("://") {
            Some(("file", _)) => {
                let url = Url::parse(written);
                let path = url.ok().and_then(|url| url.to_file_path().ok());
                let path = path
                    .ok_or_else(|| plan_datafusion_err!("'{written}': accepted: file:///path"))?;
                let slash = if written.ends_with('/') { "/" } else { "" };
                let path = format!("{}{slash}", path.display());
                Self::of_path(written, &path).map(Some)
            }
            Some(_) => Self::of_url(written).map(Some),
            None => {
                let is_path = written.contains(['/', '.', '*', '?', '\\', '{'])
                    || FilePath::new(written).exists();
                match is_path && !written.is_empty() {
                    true => Self::of_path(written, written).map(Some),
                    false => Ok(None),
                }
            }
        }
    }

    fn of_path(written: &str, path: &str) -> Result<Self> {
        // A file may have a pattern's characters in its name.
        let (folder, pattern) = match split_pattern(path) {
            Some((folder, pattern)) if !FilePath::new(path).exists() => {
                (folder, Some(Patterns::new(pattern)?))
            }
            _ => (path, None),
        };
        let folder = if folder.is_empty() { "." } else { folder };
        let failed = |error: &dyn std::fmt::Display| plan_datafusion_err!("'{written}': {error}");
        // Without links and '..' where it is there.
        let whole = match std::fs::canonicalize(folder) {
            Ok(whole) => whole,
            Err(_) => {
                let whole = std::path::absolute(folder).map_err(|error| failed(&error))?;
                without_parents(&whole)
            }
        };
        let base = Path::from_absolute_path(&whole).map_err(|error| failed(&error))?;
        Ok(Self {
            written: written.to_owned(),
            store: ObjectStoreUrl::local_filesystem(),
            base,
            patterns: pattern,
            local: Some(whole),
        })
    }

    fn of_url(written: &str) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| plan_datafusion_err!("'{written}': {error}");
        // What makes a pattern is no part of a URL.
        let begin = written.find("://").map_or(0, |scheme| scheme + 3);
        let path = written[begin..]
            .find('/')
            .map_or(written.len(), |slash| begin + slash);
        let (folder, pattern) = match split_pattern(&written[path..]) {
            // A question mark begins a query.
            Some((folder, pattern)) if !pattern.starts_with('?') && !pattern.contains("?") => (
                &written[..path + folder.len()],
                Some(Patterns::new(pattern)?),
            ),
            _ => (written, None),
        };
        let url = Url::parse(folder).map_err(|error| failed(&error))?;
        let store = format!("{}://{}", url.scheme(), authority(&url));
        let store = ObjectStoreUrl::parse(store).map_err(|error| failed(&error))?;
        let base = Path::from_url_path(url.path()).map_err(|error| failed(&error))?;
        Ok(Self {
            written: written.to_owned(),
            store,
            base,
            patterns: pattern,
            local: None,
        })
    }

    /// Whether it ends as a folder's.
    pub(super) fn is_folder(&self) -> bool {
        self.written.ends_with('/')
    }
}

/// A path without `..`, of which not all need be there.
fn without_parents(path: &FilePath) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            other => whole.push(other),
        }
    }
    whole
}

fn authority(url: &Url) -> &str {
    &url[url::Position::BeforeHost..url::Position::AfterPort]
}

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

    #[test]
    fn places_of_urls() {
        for (written, store, base, is_pattern) in [
            ("s3://bucket/a/b-*.parquet", "s3://bucket/", "a", true),
            ("s3://bucket/*/c", "s3://bucket/", "", true),
            ("gs://bucket/a/[bc]/", "gs://bucket/", "a", true),
            ("s3://bucket/a/", "s3://bucket/", "a", false),
            ("s3://bucket", "s3://bucket/", "", false),
            (
                "http://host:81/a%20b.csv?c=d*",
                "http://host:81/",
                "a b.csv",
                false,
            ),
            (
                "hf://datasets/org/name@~parquet/x/{a,b}/*.parquet",
                "hf://datasets/",
                "org/name@~parquet/x",
                true,
            ),
        ] {
            let place = Location::parse(written).unwrap().unwrap();
            assert_eq!(place.store.as_str(), store, "{written}");
            assert_eq!(place.base.as_ref(), base, "{written}");
            assert_eq!(place.patterns.is_some(), is_pattern, "{written}");
        }
    }

    #[test]
    fn names_are_no_places() {
        for name in ["pairs", "Pairs of mine", ""] {
            assert!(Location::parse(name).unwrap().is_none(), "{name}");
        }
        for path in ["pairs.csv", "a/b", "../a", "*", "{a,b}", "src"] {
            assert!(Location::parse(path).unwrap().is_some(), "{path}");
        }
        for refused in ["{a", "a/[b", "file://host/a"] {
            assert!(Location::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, yes, no) in [
            (
                "*.json",
                vec!["a.json"],
                vec!["b/a.json", ".a.json", "a.jsonl"],
            ),
            (
                "**/*.json",
                vec!["a.json", "b/a.json", "b/c/a.json"],
                vec![".b/a.json"],
            ),
            (
                "{a,b{1,2}}.json",
                vec!["a.json", "b1.json", "b2.json"],
                vec!["b.json"],
            ),
            (
                "[bc]/",
                vec!["b/a.json", "c/d/e.csv"],
                vec!["d/a.json", "b"],
            ),
            ("a?.csv", vec!["ab.csv"], vec!["a/.csv", "a.csv"]),
        ] {
            let patterns = Patterns::new(pattern).unwrap();
            for path in yes {
                assert!(patterns.matches(path), "{pattern} {path}");
            }
            for path in no {
                assert!(!patterns.matches(path), "{pattern} {path}");
            }
        }
        assert!(Patterns::new(&"{a,b}".repeat(11)).is_err());
    }
}
