//! What runs are called, and the files that they write.

use std::hash::{BuildHasher, Hasher, RandomState};

use chrono::Utc;

/// Begins the name of every run.
const RUN: &str = "ches-";

/// A name that no other run has: `ches-`, the time, and 16 random digits.
pub(super) fn new_run() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{RUN}{}-{random:016x}", Utc::now().format("%Y%m%dT%H%M%SZ"))
}

/// Ends the name of a single local file while a run writes it.
pub(super) fn suffix_of(run: &str) -> String {
    format!(".{run}")
}

/// Whether a file is one that a run wrote, by its name.
pub(super) fn is_of_a_run(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let Some((time, rest)) = name.strip_prefix(RUN).and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let random = rest.split('-').next().unwrap_or_default();
    time.len() == 16
        && time.ends_with('Z')
        && random.len() == 16
        && random.bytes().all(|b| b.is_ascii_hexdigit())
}
