//! Any bytes as one of the files of a model directory whose other files are right: an error or a
//! score, no panic. The first byte says which file.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[path = "../score.rs"]
mod score;

const FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
];

fuzz_target!(init: score::ignore_caught_panics(), |bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/families/gemma/model");
    for file in FILES {
        std::fs::copy(model.join(file), folder.path().join(file)).unwrap();
    }
    let file = FILES[usize::from(*which) % FILES.len()];
    std::fs::write(folder.path().join(file), bytes).unwrap();
    score::score(folder.path());
});
