//! Any bytes as a GGUF file: an error or a score, no panic.
//!
//! Begin with `tests/goldens/gguf` as the corpus.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../score.rs"]
mod score;

fuzz_target!(init: score::ignore_caught_panics(), |bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    score::score(&path);
});
