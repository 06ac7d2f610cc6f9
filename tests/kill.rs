//! Jobs that are killed at any moment and started again until they are done.

#[path = "support/jobs.rs"]
mod jobs;
#[path = "support/s3_server.rs"]
mod s3_server;
#[path = "support/seeded.rs"]
mod seeded;

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use jobs::{ROWS, SCORED, cache_rows, ches, files, finish, make_pairs, number_before, rows};
use s3_server::S3Server;
use seeded::Seeded;
use serde_json::Value;

/// Whether as much is tried as `make full` does.
fn is_full() -> bool {
    std::env::var_os("CHES_TEST_FULL").is_some()
}

/// Kills a job after a while; tells whether it was done before.
fn kill(job: Command, after: Duration) -> bool {
    kill_when(job, |ran| ran >= after)
}

/// Kills a job when `is_time`, which is told how long it ran; tells whether it was done before.
fn kill_when(mut job: Command, is_time: impl Fn(Duration) -> bool) -> bool {
    let mut child: Child = job.spawn().unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        if is_time(began.elapsed()) {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_directory_that_is_written_by_killed_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let sql = format!("COPY ({SCORED}) TO 'out/' STORED AS PARQUET PARTITIONED BY (part)");
    let (said, took) = finish(ches(folder, &sql, "unused", &[]));
    assert_eq!(number_before(&said, " rows: "), ROWS, "{said}");
    let place = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (out, committed) = (place("out"), place("out.ches-manifest.json"));
    let expected = rows(&out, Some(&committed), &[]);
    let before = files(&folder.join("out"));

    let mut random = Seeded(2026);
    let mut resumed = 0;
    let rounds = if is_full() { 24 } else { 4 };
    for round in 0..rounds {
        // Each round begins without scores, and goes on from what the killed jobs of it left: one that
        // has just written scores, and others at any moment.
        let cache = format!("scores-{round}");
        for job in 0..3 {
            let has_scores = || {
                files(&folder.join(&cache))
                    .iter()
                    .any(|file| file.ends_with(".parquet"))
            };
            let after = Duration::from_millis(random.below(took.as_millis() as usize) as u64);
            kill_when(ches(folder, &sql, &cache, &[]), |ran| match job {
                0 => has_scores(),
                _ => ran >= after,
            });
            if job == 0 {
                let [kept, _] = cache_rows(folder, &cache);
                resumed += usize::from(kept > 0 && kept < ROWS);
            }
            // Whoever follows the manifest reads a whole result, at any moment.
            assert_eq!(rows(&out, Some(&committed), &[]), expected);
        }
        let [kept, different] = cache_rows(folder, &cache);
        let (said, _) = finish(ches(folder, &sql, &cache, &[]));
        // What is in a file is not computed again, by whichever job.
        assert_eq!(number_before(&said, " from the cache"), different, "{said}");
        assert_eq!(kept, different);
        assert_eq!(cache_rows(folder, &cache), [ROWS; 2]);
        assert_eq!(rows(&out, Some(&committed), &[]), expected);
    }
    assert!(resumed > 0, "no job was killed between two flushes");
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

#[test]
fn a_single_file_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let sql = format!("COPY ({SCORED}) TO 'out.parquet'");
    finish(ches(folder, &sql, "warm", &[]));
    let (_, took) = finish(ches(folder, &sql, "warm", &[]));
    let out = folder.join("out.parquet");
    let whole = rows(out.to_str().unwrap(), None, &[]);
    let mut random = Seeded(7);
    for _ in 0..10 {
        let _ = std::fs::remove_file(&out);
        let after = Duration::from_millis(random.below(took.as_millis() as usize) as u64);
        kill(ches(folder, &sql, "warm", &[]), after);
        if out.exists() {
            assert_eq!(rows(out.to_str().unwrap(), None, &[]), whole);
        }
    }
    // Somebody else's.
    std::fs::write(folder.join("out.parquet#1"), "theirs").unwrap();
    // What a job leaves that was killed while it wrote.
    let killed = "ches-20261124T000000Z-0123456789abcdef";
    std::fs::write(
        folder.join("out.parquet.ches-run.lock"),
        format!("{killed}\n"),
    )
    .unwrap();
    for left in ["", "#1"] {
        std::fs::write(folder.join(format!("out.parquet.{killed}{left}")), "half").unwrap();
    }
    finish(ches(folder, &sql, "warm", &[]));
    let left = files(folder)
        .into_iter()
        .filter(|name| name.starts_with("out."));
    assert_eq!(left.collect::<Vec<_>>(), ["out.parquet", "out.parquet#1"]);
    assert_eq!(rows(out.to_str().unwrap(), None, &[]), whole);
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
