//! Jobs of the command that take a few seconds, and what they leave.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::s3_server::python;

/// Rows of `pairs.parquet`.
pub(crate) const ROWS: usize = 3000;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) type Environment = [(&'static str, String)];

pub(crate) fn ches(folder: &Path, sql: &str, cache: &str, environment: &Environment) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    let model = root().join("tests/goldens/gguf/llama.gguf");
    command
        .current_dir(folder)
        .args(["--model", model.to_str().unwrap(), "-c", sql])
        .args([
            "--set",
            "ches.prompt_format=raw",
            "--set",
            "ches.memo_bytes=0",
        ])
        // Each row is computed alone, so that scores are equal to the last bit.
        .args(["--set", "ches.batch_tokens=1"])
        .args(["--set", &format!("ches.cache={cache}")])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Runs a job to its end; its last line and how long it took.
pub(crate) fn finish(mut job: Command) -> (String, Duration) {
    let began = Instant::now();
    let output = job.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let last = error.lines().last().unwrap_or_default().to_owned();
    (last, began.elapsed())
}

pub(crate) fn number_before(line: &str, what: &str) -> usize {
    let before = line.split(what).next().unwrap();
    let number = before
        .rsplit(|c: char| !c.is_ascii_digit())
        .find(|of| !of.is_empty());
    number.unwrap().parse().unwrap()
}

pub(crate) fn rows(place: &str, manifest: Option<&str>, environment: &Environment) -> String {
    let output = Command::new(python())
        .arg(root().join("tests/support/parquet_rows.py"))
        .arg(place)
        .args(manifest)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn make_pairs(folder: &Path) {
    let sql = format!(
        "COPY (SELECT value AS id, value % 3 AS part, 'What is ' || value || '?' AS prompt, \
           repeat('It is ' || value || '. ', 15 + value % 20) AS chosen, \
           repeat('No idea. ', 20 + value % 9) AS rejected \
         FROM generate_series(1, {ROWS})) TO 'pairs.parquet'"
    );
    finish(ches(folder, &sql, "unused", &[]));
}

/// Every file below a folder, by path.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inside = files(&path);
            let name = path.file_name().unwrap().to_str().unwrap();
            found.extend(inside.iter().map(|file| format!("{name}/{file}")));
        } else {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

pub(crate) const SCORED: &str =
    "SELECT id, part, ches_normalized(prompt, chosen, rejected) AS score FROM 'pairs.parquet'";

/// Rows of the files of a cache, and how many different ones.
pub(crate) fn cache_rows(folder: &Path, cache: &str) -> [usize; 2] {
    let files = files(&folder.join(cache));
    let Some(file) = files.iter().find(|file| file.ends_with(".parquet")) else {
        return [0; 2];
    };
    let (of_model, _) = file.rsplit_once('/').unwrap();
    let sql = format!("SELECT count(key), count(DISTINCT key) FROM '{cache}/{of_model}/'");
    let mut command = ches(folder, &sql, "unused", &[]);
    let output = command
        .args(["-q", "--format", "csv"])
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let counts = text.lines().nth(1).unwrap().split_once(',').unwrap();
    [counts.0, counts.1].map(|count| count.parse().unwrap())
}
