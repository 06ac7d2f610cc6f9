//! Data sets of the Hugging Face Hub by URL, from a server on this machine.

use std::process::{Command, Output};

use crate::hub_server::{Fault, HubServer};
use crate::support::root;

/// The command with this Hub and token.
fn run(server: &HubServer, token: Option<&str>, sql: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    command
        .args(["-q", "--format", "csv", "-c", sql])
        .env("HF_ENDPOINT", server.endpoint())
        .env("HF_HOME", home.path())
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE");
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    command.output().unwrap()
}

/// The last line of what it answers.
fn answer(server: &HubServer, token: Option<&str>, sql: &str) -> String {
    let output = run(server, token, sql);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {error}");
    let out = String::from_utf8(output.stdout).unwrap();
    out.lines().last().unwrap_or_default().to_owned()
}

fn error(server: &HubServer, token: Option<&str>, sql: &str) -> String {
    let output = run(server, token, sql);
    assert!(!output.status.success(), "{sql}");
    String::from_utf8(output.stderr).unwrap()
}

/// A Parquet file of rows `from..from + 1000`, in ten row groups, of which each text is of 1 kB.
fn parquet(from: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.parquet");
    let sql = format!(
        "SET datafusion.execution.parquet.max_row_group_size = 100;
         SET datafusion.execution.parquet.dictionary_enabled = false;
         SET datafusion.execution.parquet.compression = 'uncompressed';
         COPY (SELECT value AS id, repeat(cast(value % 10 AS varchar), 1000) AS text
               FROM generate_series({from}, {}) ORDER BY id) TO '{}'",
        from + 999,
        file.display()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    assert!(command.args(["-q", "-c", &sql]).status().unwrap().success());
    std::fs::read(file).unwrap()
}

const PAIRS: &str = "hf://datasets/org/pairs";

/// 40 files, whose listing has six pages, and whose bytes are on another host, which refuses the token.
fn forty_files() -> (HubServer, u64) {
    let server = HubServer::start();
    let mut bytes = 0;
    for number in 0..40 {
        let content = parquet(number * 1000);
        bytes += content.len() as u64;
        let name = format!("data/train-{number:05}-of-00040.parquet");
        server.add("org/pairs", "main", &name, content);
    }
    server.add("org/pairs", "main", "README.md", "# Pairs");
    server.require_token("org/pairs", "secret", false);
    (server, bytes)
}

#[test]
fn a_data_set_of_forty_files() {
    let (server, bytes) = forty_files();
    let token = Some("secret");
    let all = "SELECT sum(id), count(text) FROM";
    let expected = "799980000,40000";
    for place in [
        PAIRS.to_owned(),
        format!("{PAIRS}/"),
        format!("{PAIRS}/data"),
        format!("{PAIRS}/data/train-*.parquet"),
        format!("{PAIRS}@main/**/*.parquet"),
    ] {
        assert_eq!(
            answer(&server, token, &format!("{all} '{place}'")),
            expected,
            "{place}"
        );
    }
    // A few rows, and a range of one column, are a small part of all; one listing has six pages.
    server.bytes();
    server.requests();
    let few = format!("SELECT id, text FROM '{PAIRS}/data/*.parquet' LIMIT 10");
    let output = run(&server, token, &few);
    assert_eq!(output.stdout.split(|b| *b == b'\n').count(), 12);
    let read = server.bytes();
    assert!(read < bytes / 10, "{read} of {bytes}");
    let requests = server.requests();
    let pages = requests.iter().filter(|request| request.contains("/tree/"));
    assert_eq!(pages.count(), 6, "{requests:?}");
    let pruned =
        format!("SELECT sum(length(text)) FROM '{PAIRS}' WHERE id BETWEEN 17150 AND 17160");
    assert_eq!(answer(&server, token, &pruned), "11000");
    let read = server.bytes();
    assert!(read < bytes / 10, "{read} of {bytes}");
}

#[test]
fn what_fails_is_asked_for_again() {
    let server = HubServer::start();
    let lines: String = (0..20_000).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    server.add("org/lines", "main", "train.jsonl", lines);
    let sum = "SELECT sum(n) FROM 'hf://datasets/org/lines/train.jsonl'";
    for faults in [
        &[Fault::Status(500), Fault::Status(503)][..],
        &[Fault::RetryAfter(1)],
        &[Fault::Cut(100), Fault::Cut(0), Fault::Cut(70_000)],
        &[
            Fault::Status(502),
            Fault::Cut(1000),
            Fault::Status(500),
            Fault::Cut(9),
        ],
    ] {
        server.fail_files(faults);
        assert_eq!(answer(&server, None, sum), "199990000", "{faults:?}");
    }
    server.fail_api(&[Fault::Status(500), Fault::RetryAfter(0), Fault::Status(503)]);
    assert_eq!(answer(&server, None, sum), "199990000");
    server.fail_files(&[Fault::Status(500); 12]);
    let error = error(&server, None, sum);
    assert!(
        error.contains("train.jsonl") && error.contains("5 times"),
        "{error}"
    );
}

#[test]
fn who_may_not_read_is_told_what_to_do() {
    let server = HubServer::start();
    let page = format!("{}/datasets/org/", server.endpoint());
    for (name, is_gated) in [("gated", true), ("private", false)] {
        let id = format!("org/{name}");
        server.add(&id, "main", "a.jsonl", "{\"a\": 1}\n");
        server.require_token(&id, "secret", is_gated);
        let sql = format!("SELECT a FROM 'hf://datasets/{id}/a.jsonl'");
        assert_eq!(answer(&server, Some("secret"), &sql), "1");
        for token in [None, Some("wrong")] {
            let error = error(&server, token, &sql);
            let expected = match is_gated {
                true => format!("accept its conditions at {page}{name}"),
                false => format!("that may read it: {page}{name}"),
            };
            assert!(error.contains(&expected), "{token:?}: {error}");
            assert!(
                error.contains("HF_TOKEN") && !error.contains("wrong"),
                "{error}"
            );
        }
    }
    let sql = "SELECT a FROM 'hf://datasets/org/private/a.jsonl'";
    let unknown = error(&server, Some("nonsense"), sql);
    assert!(
        unknown.contains("does not know the token (HF_TOKEN)"),
        "{unknown}"
    );
    for (place, expected) in [
        ("org/nothing/a.jsonl", "is not there, or is private"),
        ("org/gated@v2/a.jsonl", "there is no such revision"),
        ("org/gated/b.jsonl", "nearest name there is 'a.jsonl'"),
        ("org", "accepted: hf://datasets/org/name"),
    ] {
        let sql = format!("SELECT * FROM 'hf://datasets/{place}'");
        let error = error(&server, Some("secret"), &sql);
        assert!(error.contains(expected), "{place}: {error}");
    }
}

#[test]
fn a_data_set_by_its_name() {
    let server = HubServer::start();
    let id = |name: &str| format!("org/{name}");
    let line = |n: u32| format!("{{\"n\": {n}}}\n");
    let head = |yaml: &str| format!("---\n{yaml}---\n# Pairs\n");
    let one = head("configs:\n- config_name: default\n  data_files: kept/*.jsonl\n");
    server.add(&id("one"), "main", "README.md", one);
    server.add(&id("one"), "main", "kept/a.jsonl", line(1));
    server.add(&id("one"), "main", "kept/b.jsonl", line(2));
    server.add(&id("one"), "main", "left/c.jsonl", line(4));
    server.add(&id("plain"), "main", "pairs.jsonl", line(5));
    server.add(&id("plain"), "main", "dataset_infos.json", "{}");
    server.add(&id("plain"), "v1", "pairs.jsonl", line(6));
    server.add(
        &id("plain"),
        "refs/convert/parquet",
        "default/train/0.jsonl",
        line(7),
    );
    server.add(
        &id("part"),
        "refs/convert/parquet",
        "default/partial-train/0.jsonl",
        line(7),
    );
    let several = head(
        "configs:\n- config_name: en\n  data_files: en/*\n- config_name: de\n  data_files: de/*\n",
    );
    server.add(&id("several"), "main", "README.md", several);
    server.add(&id("several"), "main", "en/a.jsonl", line(8));
    server.add(
        &id("splits"),
        "main",
        "data/train-00000-of-00001.jsonl",
        line(1),
    );
    server.add(
        &id("splits"),
        "main",
        "data/test-00000-of-00001.jsonl",
        line(2),
    );
    server.add(&id("formats"), "main", "a.jsonl", line(1));
    server.add(&id("formats"), "main", "b.csv", "n\n1\n");
    for (name, expected) in [
        ("one", "3"),
        ("plain", "5"),
        ("plain@v1", "6"),
        ("plain@~parquet", "7"),
        ("plain@refs%2Fconvert%2Fparquet/default/train/*.jsonl", "7"),
        ("plain@refs/convert/parquet/default/train/0.jsonl", "7"),
        ("several/en/*.jsonl", "8"),
        ("splits/data/test-*", "2"),
    ] {
        let sql = format!("SELECT sum(n) FROM 'hf://datasets/org/{name}'");
        assert_eq!(answer(&server, None, &sql), expected, "{name}");
    }
    for (name, expected) in [
        ("part@~parquet", "has converted only a part"),
        (
            "several",
            "has 2 configurations: en ('hf://datasets/org/several/en/*'), de (",
        ),
        (
            "splits",
            "has 2 splits: test ('hf://datasets/org/splits/data/test-00000-of-00001.jsonl'), train",
        ),
        ("formats", "several formats: 1 .csv, 1 .json"),
    ] {
        let sql = format!("SELECT * FROM 'hf://datasets/org/{name}'");
        let error = error(&server, None, &sql);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// The block of docs/data.md that reads the Hub.
#[test]
fn the_page_of_data() {
    let server = HubServer::start();
    let train = "data/train-00000-of-00001.parquet";
    server.add("trl-lib/ultrafeedback_binarized", "main", train, parquet(0));
    let converted = "plain_text/train/0000.parquet";
    server.add(
        "stanfordnlp/imdb",
        "refs/convert/parquet",
        converted,
        parquet(0),
    );
    let page = std::fs::read_to_string(root().join("docs/data.md")).unwrap();
    let block = page.split("# needs the Hub\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let mut ran = 0;
    for line in block.lines() {
        let sql = line
            .strip_prefix("ches -c \"")
            .unwrap()
            .trim_end_matches('"');
        assert_eq!(answer(&server, None, sql), "1000", "{sql}");
        ran += 1;
    }
    assert_eq!(ran, 2);
}
