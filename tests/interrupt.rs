//! Jobs that are asked to stop, by Ctrl-C or SIGTERM.
#![cfg(unix)]

#[path = "support/jobs.rs"]
mod jobs;
#[path = "support/s3_server.rs"]
mod s3_server;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use jobs::{ROWS, SCORED, cache_rows, ches, files, finish, make_pairs, number_before, rows};
use s3_server::S3Server;

/// "Stops within seconds."
const SECONDS: Duration = Duration::from_secs(8);

fn send(signal: &str, child: &Child) {
    let number = child.id().to_string();
    let sent = Command::new("kill").args([signal, &number]).status();
    assert!(sent.unwrap().success());
}

/// How a stopped job ended, and what it said.
fn end(mut child: Child) -> (ExitStatus, String) {
    let asked = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(asked.elapsed() < SECONDS, "it does not stop");
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    (status, said)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn has_scores(folder: &Path, cache: &str) -> bool {
    let files = files(&folder.join(cache));
    files.iter().any(|file| file.ends_with(".parquet"))
}

#[test]
fn a_stopped_job_keeps_its_scores_and_leaves_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let outputs = || {
        let mut left = files(folder);
        left.retain(|file| !file.starts_with("scores"));
        left
    };
    for (signal, target) in [
        ("-INT", "'out/' STORED AS PARQUET PARTITIONED BY (part)"),
        ("-TERM", "'new/deep/out.parquet'"),
    ] {
        let sql = format!("COPY ({SCORED}) TO {target}");
        let cache = format!("scores{signal}");
        let before = outputs();
        let child = ches(folder, &sql, &cache, &[]).spawn().unwrap();
        wait_until("scores are written", || has_scores(folder, &cache));
        send(signal, &child);
        let (status, said) = end(child);
        assert_eq!(status.code(), Some(130), "{said}");
        let goes_on = format!("Its scores are in {cache}: the same command goes on from there.");
        assert!(
            said.contains("Stopped.") && said.contains(&goes_on),
            "{said}"
        );
        assert_eq!(outputs(), before, "{signal}");
        assert!(!folder.join("new").exists());

        let scored = number_before(&said, " rows: ");
        let [kept, _] = cache_rows(folder, &cache);
        assert!(
            scored > 0 && kept >= scored && kept < ROWS,
            "{kept} kept: {said}"
        );
        let (said, _) = finish(ches(folder, &sql, &cache, &[]));
        assert_eq!(number_before(&said, " from the cache"), kept, "{said}");
        assert_eq!(number_before(&said, " rows: "), ROWS, "{said}");
    }
    let out = folder.join("out");
    let manifest = folder.join("out.ches-manifest.json");
    let of_directory = rows(out.to_str().unwrap(), manifest.to_str(), &[]);
    let single = folder.join("new/deep/out.parquet");
    let of_file = rows(single.to_str().unwrap(), None, &[]);
    assert_eq!(of_directory.lines().count(), ROWS + 1);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&of_directory), sorted(&of_file));
}

#[test]
fn without_a_cache_it_says_what_would_have_kept_the_scores() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let sql = format!("SET ches.cache = ''; COPY ({SCORED}) TO 'out.parquet'");
    let child = ches(folder, &sql, "unused", &[]).spawn().unwrap();
    wait_until("a run writes", || {
        folder.join("out.parquet.ches-run.lock").exists()
    });
    std::thread::sleep(Duration::from_millis(700));
    send("-INT", &child);
    let (status, said) = end(child);
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("with --set ches.cache="), "{said}");
    assert!(files(folder).iter().all(|file| !file.starts_with("out")));
}

#[test]
fn a_job_in_a_bucket_stops_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let server = S3Server::start();
    let s3 = S3Server::environment(server.port());
    let sql = format!("COPY ({SCORED}) TO 's3://bucket/out/' STORED AS PARQUET");
    let child = ches(folder, &sql, "s3://bucket/scores", &s3)
        .spawn()
        .unwrap();
    let has_scores = || {
        server
            .keys("scores")
            .iter()
            .any(|key| key.ends_with(".parquet"))
    };
    wait_until("scores are written", has_scores);
    assert_eq!(server.keys("out"), ["out.ches-run.json"]);
    send("-INT", &child);
    let (status, said) = end(child);
    assert_eq!(status.code(), Some(130), "{said}");
    assert_eq!(server.keys("out"), [""; 0]);
}

/// Whatever it is blocked by.
#[test]
fn waiting_for_statements_is_stopped() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    let stdin = child.stdin.take();
    send("-INT", &child);
    let (status, said) = end(child);
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(!said.contains("scores"), "{said}");
    drop(stdin);
}

/// A place that never answers: the second time ends it at once.
#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_pairs(folder);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let s3 = S3Server::environment(silent.local_addr().unwrap().port());
    let child = ches(folder, SCORED, "s3://bucket/scores", &s3)
        .spawn()
        .unwrap();
    let _asked = silent.accept().unwrap();
    send("-INT", &child);
    std::thread::sleep(Duration::from_millis(300));
    send("-INT", &child);
    let asked = Instant::now();
    let (status, _) = end(child);
    assert_eq!(status.code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(2));
}
