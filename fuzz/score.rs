//! Scores one pair by a model of any kind.

use std::path::Path;

#[path = "../tests/support/one_pair.rs"]
mod one_pair;

/// Panics of the tokenizers crate are caught and become errors; the default of libFuzzer is to end
/// at any panic.
pub fn ignore_caught_panics() {
    let _ = std::panic::take_hook();
}

/// An error or a score.
///
/// # Panics
/// When scoring panicked and nobody caught it.
pub fn score(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let texts = ["Is it safe?", " No.", " Never."];
    let _ = runtime.block_on(one_pair::score_one(path, texts));
}
