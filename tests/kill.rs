//! Jobs that are killed at any moment and started again until they are done.

#[path = "support/s3_server.rs"]
mod s3_server;
#[path = "support/seeded.rs"]
mod seeded;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use s3_server::{S3Server, python};
use seeded::Seeded;
use serde_json::Value;

const ROWS: usize = 6000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

type Environment = [(&'static str, String)];

fn ches(folder: &Path, sql: &str, cache: &str, environment: &Environment) -> Command {
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
        .args(["--set", &format!("ches.cache={cache}")])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Runs a job to its end; its last line and how long it took.
fn finish(mut job: Command) -> (String, Duration) {
    let began = Instant::now();
    let output = job.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let last = error.lines().last().unwrap_or_default().to_owned();
    (last, began.elapsed())
}

/// Kills a job after a while; tells whether it was done before.
fn kill(mut job: Command, after: Duration) -> bool {
    let mut child: Child = job.spawn().unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        if began.elapsed() >= after {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn number_before(line: &str, what: &str) -> usize {
    let before = line.split(what).next().unwrap();
    let number = before
        .rsplit(|c: char| !c.is_ascii_digit())
        .find(|of| !of.is_empty());
    number.unwrap().parse().unwrap()
}

fn rows(place: &str, manifest: Option<&str>, environment: &Environment) -> String {
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

fn make_pairs(folder: &Path) {
    let sql = format!(
        "COPY (SELECT value AS id, value % 3 AS part, 'What is ' || value || '?' AS prompt, \
           repeat('It is ' || value || '. ', 1 + value % 7) AS chosen, \
           repeat('No idea. ', 1 + value % 5) AS rejected \
         FROM generate_series(1, {ROWS})) TO 'pairs.parquet'"
    );
    finish(ches(folder, &sql, "unused", &[]));
}

/// Every file below a folder, by path.
fn files(folder: &Path) -> Vec<String> {
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

const SCORED: &str =
    "SELECT id, part, ches_normalized(prompt, chosen, rejected) AS score FROM 'pairs.parquet'";

#[test]
fn a_directory_that_is_written_by_killed_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let sql = format!("COPY ({SCORED}) TO 'out/' STORED AS PARQUET PARTITIONED BY (part)");
    let (said, took) = finish(ches(folder, &sql, "unused", &[]));
    assert_eq!(number_before(&said, " rows scored"), ROWS, "{said}");
    let place = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (out, committed) = (place("out"), place("out.ches-manifest.json"));
    let expected = rows(&out, Some(&committed), &[]);
    let before = files(&folder.join("out"));

    let mut random = Seeded(2026);
    let mut kills = 0;
    while kills < 24 {
        // Every fourth is a job without scores of an earlier one.
        let cache = format!("scores-{}", kills / 4);
        let most = took.as_millis() as usize * 11 / 10;
        let after = Duration::from_millis(random.below(most) as u64);
        if kill(ches(folder, &sql, &cache, &[]), after) {
            std::fs::remove_dir_all(folder.join(&cache)).unwrap();
        }
        kills += 1;
        // Whoever follows the manifest reads a whole result, at any moment.
        assert_eq!(rows(&out, Some(&committed), &[]), expected);
    }
    let cache = format!("scores-{}", kills / 4 - 1);
    let (_, _) = finish(ches(folder, &sql, &cache, &[]));
    assert_eq!(rows(&out, Some(&committed), &[]), expected);
    let said: Value = serde_json::from_slice(&std::fs::read(&committed).unwrap()).unwrap();
    let listed = said["files"].as_array().unwrap().iter();
    let mut listed: Vec<_> = listed.map(|file| file["path"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(files(&folder.join("out")), listed);
    assert!(before.iter().all(|file| !listed.contains(&&file[..])));
    let beside = std::fs::read_dir(folder).unwrap();
    let beside = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let beside: Vec<_> = beside.filter(|name| name.starts_with("out.")).collect();
    assert_eq!(beside, ["out.ches-manifest.json"]);
}

/// What is computed before a kill is computed again only if it was in no file yet.
#[test]
fn little_is_computed_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    // Stops at times of its own choosing between statements: scores are flushed when nothing runs.
    let half = format!(
        "COPY ({SCORED} WHERE id <= {}) TO 'half/' STORED AS PARQUET",
        ROWS / 2
    );
    let all = format!("COPY ({SCORED}) TO 'out/' STORED AS PARQUET");
    let mut job = ches(folder, &half, "scores", &[]);
    let mut child = job
        .args([
            "-c",
            "SELECT count(*) FROM generate_series(1, 100000000000)",
        ])
        .spawn()
        .unwrap();
    let began = Instant::now();
    let flushed = || {
        files(&folder.join("scores"))
            .iter()
            .any(|file| file.ends_with(".parquet"))
    };
    while !(folder.join("half.ches-manifest.json").exists() && flushed()) {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the first half is not done"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(3));
    child.kill().unwrap();
    child.wait().unwrap();
    let (said, _) = finish(ches(folder, &all, "scores", &[]));
    assert_eq!(number_before(&said, " cache hits"), ROWS / 2, "{said}");
}

#[test]
fn a_single_file_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let sql = format!("COPY ({SCORED}) TO 'out.parquet'");
    let (_, took) = finish(ches(folder, &sql, "warm", &[]));
    let out = folder.join("out.parquet");
    let whole = rows(out.to_str().unwrap(), None, &[]);
    let mut random = Seeded(7);
    for _ in 0..10 {
        let _ = std::fs::remove_file(&out);
        let after = Duration::from_millis(random.below(took.as_millis() as usize / 2) as u64);
        kill(ches(folder, &sql, "warm", &[]), after);
        if out.exists() {
            assert_eq!(rows(out.to_str().unwrap(), None, &[]), whole);
        }
    }
    std::fs::write(folder.join("out.parquet#1"), "half").unwrap();
    finish(ches(folder, &sql, "warm", &[]));
    let left = files(folder)
        .into_iter()
        .filter(|name| name.starts_with("out."));
    assert_eq!(left.collect::<Vec<_>>(), ["out.parquet"]);
}

#[test]
fn a_bucket_that_is_written_by_killed_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let server = S3Server::start();
    let s3 = S3Server::environment(server.port());
    let sql =
        format!("COPY ({SCORED}) TO 's3://bucket/out/' STORED AS PARQUET PARTITIONED BY (part)");
    let cache = "s3://bucket/scores";
    let (_, took) = finish(ches(folder, &sql, "s3://bucket/unused", &s3));
    let committed = "bucket/out.ches-manifest.json";
    let expected = rows("bucket/out", Some(committed), &s3);
    let mut random = Seeded(11);
    for _ in 0..8 {
        let after = Duration::from_millis(random.below(took.as_millis() as usize) as u64);
        kill(ches(folder, &sql, cache, &s3), after);
        assert_eq!(rows("bucket/out", Some(committed), &s3), expected);
    }
    finish(ches(folder, &sql, cache, &s3));
    assert_eq!(rows("bucket/out", Some(committed), &s3), expected);
    let said: Value = serde_json::from_slice(&server.get("out.ches-manifest.json")).unwrap();
    let keys = server.keys("out");
    // The manifest, and no claim.
    assert_eq!(
        keys.len(),
        said["files"].as_array().unwrap().len() + 1,
        "{keys:?}"
    );
}
