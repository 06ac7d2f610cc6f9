//! The command against an S3 server: what it reads, what it writes, and what another tool reads of that;
//! and the same where the network fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::faulty_proxy::FaultyProxy;
use crate::s3_server::{BUCKET, S3Server, python};
use serde_json::Value;
use tempfile::TempDir;

const LANGUAGES: [&str; 6] = ["de", "en", "fr", "it", "ja", "nl"];
const FILES_EACH: usize = 4;
const ROWS_EACH: usize = 20;

/// Rows with a score above this are kept.
const FILTER: &str = "ches(prompt, chosen, rejected) > -1200";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn ches(arguments: &[&str], environment: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    let model = root().join("tests/goldens/gguf/llama.gguf");
    command
        .args(["--model", model.to_str().unwrap()])
        .args(["--set", "ches.prompt_format=raw"])
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn run(arguments: &[&str], environment: &[(&'static str, String)]) -> String {
    let output = ches(arguments, environment).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn error_of(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rows of files, read by pyarrow.
fn rows(directory: &str, manifest: Option<&str>, environment: &[(&'static str, String)]) -> String {
    let output = Command::new(python())
        .arg(root().join("tests/support/parquet_rows.py"))
        .arg(directory)
        .args(manifest)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{directory}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Pairs in 24 files of 6 partitions, and the rows that the filter keeps, as pyarrow reads them.
struct Pairs {
    folder: TempDir,
    expected: String,
}

fn pairs() -> Pairs {
    let folder = tempfile::tempdir().unwrap();
    let mut statements = Vec::new();
    for (at, language) in LANGUAGES.iter().enumerate() {
        for file in 0..FILES_EACH {
            let first = (at * FILES_EACH + file) * ROWS_EACH;
            let place = folder
                .path()
                .join(format!("pairs/lang={language}/part-{file}.parquet"));
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            statements.push(format!(
                "COPY (SELECT value AS id, 'What is ' || value || '?' AS prompt, \
                   repeat('It is ' || value, 1 + value % 3) AS chosen, 'No idea' AS rejected \
                 FROM generate_series({first}, {})) TO '{}'",
                first + ROWS_EACH - 1,
                place.display()
            ));
        }
    }
    run(&["-q", "-c", &statements.join(";")], &[]);
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    run(&["-q", "-c", &filter(&place("pairs"), &place("out"))], &[]);
    let expected = rows(&place("out"), Some(&place("out.ches-manifest.json")), &[]);
    let all = LANGUAGES.len() * FILES_EACH * ROWS_EACH;
    let kept = expected.lines().count() - 1;
    assert!(
        kept > all / 10 && kept < all * 9 / 10,
        "{kept} of {all} rows"
    );
    Pairs { folder, expected }
}

/// Reads a partitioned set, filters it by score, and writes it partitioned.
fn filter(from: &str, to: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE pairs STORED AS PARQUET PARTITIONED BY (lang) LOCATION '{from}/'; \
         COPY (SELECT * FROM pairs WHERE {FILTER}) TO '{to}/' STORED AS PARQUET PARTITIONED BY (lang)"
    )
}

fn upload(server: &S3Server, folder: &Path) {
    for language in LANGUAGES {
        for file in 0..FILES_EACH {
            let key = format!("pairs/lang={language}/part-{file}.parquet");
            server.put(&key, &std::fs::read(folder.join(&key)).unwrap());
        }
    }
}

fn manifest(server: &S3Server, key: &str) -> Value {
    serde_json::from_slice(&server.get(key)).unwrap()
}

#[test]
fn a_partitioned_set_is_filtered_and_written_back() {
    let pairs = pairs();
    let server = S3Server::start();
    upload(&server, pairs.folder.path());
    let s3 = S3Server::environment(server.port());
    let sql = filter("s3://bucket/pairs", "s3://bucket/out");
    run(&["-q", "-c", &sql], &s3);
    let committed = Some("bucket/out.ches-manifest.json");
    assert_eq!(rows("bucket/out", committed, &s3), pairs.expected);
    assert_eq!(rows("bucket/out", None, &s3), pairs.expected);
    let said = manifest(&server, "out.ches-manifest.json");
    assert_eq!(said["scores"]["scored"], 480);
    assert_eq!(said["scores"]["failed"], 0);
    assert_eq!(said["settings"]["ches.prompt_format"], "raw");
    assert!(said["provenance"]["ches.model"].is_string());
    let first = server.keys("out");

    // Globs, a single file, and the score cache in the bucket.
    let all = "SELECT count(*) FROM 's3://bucket/pairs/lang=en/part-*.parquet'";
    assert!(run(&["-q", "--format", "csv", "-c", all], &s3).contains("80"));
    let one = format!(
        "COPY (SELECT * FROM 's3://bucket/out/' WHERE {FILTER}) TO 's3://bucket/one.parquet'"
    );
    let cache = ["--set", "ches.cache=s3://bucket/scores"];
    for hits in [" 0 from the cache", " 480 from the cache"] {
        let score = format!(
            "CREATE EXTERNAL TABLE p STORED AS PARQUET LOCATION 's3://bucket/pairs/'; \
                             SELECT count(*) FROM p WHERE {FILTER}"
        );
        let output = ches(&[&cache[..], &["-c", &score]].concat(), &s3)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.contains(hits), "{error}");
    }
    run(&["-q", "-c", &one], &s3);
    let count = rows("bucket/one.parquet", None, &s3).lines().count();
    assert_eq!(count, pairs.expected.lines().count());

    // A run that fails leaves what was there.
    let failing = sql.replace("SELECT *", "SELECT *, 1 / (id - 333) AS broken");
    let failing = failing.replace(FILTER, "ches(prompt, chosen, rejected) IS NOT NULL");
    let output = ches(&["-q", "-c", &failing], &s3).output().unwrap();
    assert!(error_of(&output).to_lowercase().contains("divide by zero"));
    assert_eq!(server.keys("out"), first);

    let nowhere = failing.replace("s3://bucket/out/", "s3://bucket/nowhere/");
    let output = ches(&["-q", "-c", &nowhere], &s3).output().unwrap();
    error_of(&output);
    let single = nowhere.replace("nowhere/'", "nowhere.parquet'");
    let single = single.replace(" PARTITIONED BY (lang)", "").replacen(
        "STORED AS PARQUET LOC",
        "STORED AS PARQUET PARTITIONED BY (lang) LOC",
        1,
    );
    let output = ches(&["-q", "-c", &single], &s3).output().unwrap();
    assert!(error_of(&output).to_lowercase().contains("divide by zero"));
    assert_eq!(server.keys("nowhere"), [""; 0]);

    // A place that cannot be written is noticed before anything is computed.
    for target in ["out.parquet'", "out/' STORED AS PARQUET"] {
        let copy = format!(
            "COPY (SELECT 1 / (2 - value) FROM generate_series(1, 3)) TO 's3://none/{target}"
        );
        let output = ches(&["-q", "-c", &copy], &s3).output().unwrap();
        assert!(error_of(&output).contains("NoSuchBucket"));
    }

    // The next run replaces the last.
    run(
        &["-q", "-c", &sql.replace("> -1200", "> -1200 AND id < 100")],
        &s3,
    );
    let second = server.keys("out");
    assert!(
        second
            .iter()
            .all(|key| !first.contains(key) || key.ends_with("manifest.json"))
    );
    let fewer = rows("bucket/out", committed, &s3);
    assert_eq!(rows("bucket/out", None, &s3), fewer);
    assert!(fewer.lines().count() < pairs.expected.lines().count());

    // What somebody else wrote is left alone.
    server.put("theirs/data.parquet", b"theirs");
    let output = ches(
        &[
            "-q",
            "-c",
            &filter("s3://bucket/pairs", "s3://bucket/theirs"),
        ],
        &s3,
    )
    .output()
    .unwrap();
    assert!(error_of(&output).contains("holds 'data.parquet', which no run of ches wrote"));
    assert_eq!(server.keys("theirs"), ["theirs/data.parquet"]);
}

/// Text files, folders with other files and patterns, as on this machine.
#[test]
fn files_of_every_format_are_read_and_written() {
    let server = S3Server::start();
    let environment = S3Server::environment(server.port());
    let folder = root().join("tests/goldens/tables");
    let put = |name: &str| {
        let content = std::fs::read(folder.join(name)).unwrap();
        server.put(&format!("tables/{name}"), &content);
    };
    let files = [
        "python.jsonl",
        "pandas-array.json",
        "pandas.jsonl.gz",
        "pandas.csv.zst",
        "duckdb.tsv",
        "polars-stream.arrow",
    ];
    files.iter().for_each(|file| put(file));
    for entry in std::fs::read_dir(folder.join("spark-json")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        put(&format!("spark-json/{name}"));
    }
    let sum = |place: &str| {
        let sql = format!("SELECT count(*), sum(id), sum(length(prompt)) FROM '{place}'");
        let out = run(&["-q", "--format", "csv", "-c", &sql], &environment);
        out.lines().last().unwrap().to_owned()
    };
    let expected = sum(folder.join("pandas.parquet").to_str().unwrap());
    let bucket = format!("s3://{BUCKET}");
    for place in files
        .iter()
        .chain(&["spark-json", "spark-json/part-*.json", "{python,x}.jsonl"])
    {
        assert_eq!(
            sum(&format!("{bucket}/tables/{place}")),
            expected,
            "{place}"
        );
    }
    let copy = format!(
        "COPY (SELECT * FROM '{bucket}/tables/python.jsonl') TO '{bucket}/written/a.jsonl.gz'"
    );
    run(&["-q", "-c", &copy], &environment);
    assert_eq!(sum(&format!("{bucket}/written/*.gz")), expected);
    let sql = format!("SELECT * FROM '{bucket}/tables/python.json'");
    let error = error_of(&ches(&["-c", &sql], &environment).output().unwrap());
    assert!(
        error.contains("nearest name there is 'python.jsonl'"),
        "{error}"
    );
}

#[test]
fn secrets_are_not_shown() {
    let pairs = pairs();
    let server = S3Server::start();
    upload(&server, pairs.folder.path());
    let mut s3 = S3Server::environment(server.port());
    s3.push(("RUST_LOG", "trace".into()));
    let options = "OPTIONS ('aws.secret_access_key' 'hidden-secret-2', 'aws.access_key_id' 'key')";
    let copy = filter("s3://bucket/pairs", "s3://bucket/out");
    let explained = copy.replace("COPY", "EXPLAIN VERBOSE COPY");
    let mut closed = S3Server::environment(1);
    closed.push(("AWS_MAX_RETRIES", "0".into()));
    let count = "SELECT count(*) FROM 's3://bucket/pairs/lang=en/part-1.parquet'";
    let with_account = |sql: &str| sql.replace("s3://", "s3://user:hidden-secret-3@");
    let create = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://bucket/pairs/'";
    for (sql, environment, is_done) in [
        (format!("{copy} {options}"), &s3, true),
        (format!("{explained} {options}"), &s3, true),
        (count.to_owned(), &closed, false),
        (with_account(count), &s3, false),
        (with_account(create), &s3, false),
        (
            with_account("COPY (SELECT 1) TO 's3://bucket/a.parquet'"),
            &s3,
            false,
        ),
        (
            with_account("EXPLAIN COPY (SELECT 1) TO 's3://bucket/a.parquet'"),
            &s3,
            false,
        ),
    ] {
        let output = ches(&["-c", &sql], environment).output().unwrap();
        assert_eq!(output.status.success(), is_done, "{sql}");
        for shown in [output.stdout, output.stderr] {
            let shown = String::from_utf8_lossy(&shown);
            let told = shown.lines().find(|line| line.contains("hidden-secret"));
            assert_eq!(told, None, "{sql}");
        }
    }
    let said = String::from_utf8(server.get("out.ches-manifest.json")).unwrap();
    assert!(!said.contains("hidden-secret"));
}

/// Where requests fail at random there is the same result, or an error and no result.
#[test]
fn faults_never_give_a_wrong_result() {
    let pairs = pairs();
    let server = S3Server::start();
    upload(&server, pairs.folder.path());
    let direct = S3Server::environment(server.port());
    let (mut whole, mut failed, mut faults) = (0, 0, 0);
    for (seed, one_of) in [8, 8, 8, 3, 3, 3].into_iter().enumerate() {
        let proxy = FaultyProxy::start(server.port(), one_of, seed as u64);
        let to = format!("out-{seed}");
        let sql = filter("s3://bucket/pairs", &format!("s3://bucket/{to}"));
        let cache = ["--set", "ches.cache=s3://bucket/scores"];
        let arguments = [&cache[..], &["-q", "-c", &sql]].concat();
        let output = ches(&arguments, &S3Server::environment(proxy.port()))
            .output()
            .unwrap();
        faults += proxy.faults();
        let committed = format!("{to}.ches-manifest.json");
        if output.status.success() {
            whole += 1;
            let committed = format!("bucket/{committed}");
            let found = rows(&format!("bucket/{to}"), Some(&committed), &direct);
            assert_eq!(found, pairs.expected, "seed {seed}");
        } else {
            failed += 1;
            assert!(error_of(&output).contains("Error: "), "seed {seed}");
            assert!(!server.keys(&to).contains(&committed), "seed {seed}");
        }
    }
    assert!(
        faults > 20 && whole > 0,
        "{faults} faults, {whole} results, {failed} errors"
    );
    println!("{faults} faults, {whole} results, {failed} errors");
}
