//! The command, as a process.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::support::{model, root};

fn ches(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    command.current_dir(root()).args(arguments);
    command
}

fn run(arguments: &[&str]) -> (bool, String, String) {
    texts(ches(arguments).output().unwrap())
}

fn texts(output: Output) -> (bool, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn statements_of_several_commands_run_in_order() {
    let (ok, out, error) = run(&[
        "-q",
        "--format",
        "csv",
        "-c",
        "CREATE TABLE t AS VALUES (1), (2); SELECT sum(column1) AS s FROM t",
        "-c",
        "SELECT count(*) AS n FROM t",
    ]);
    assert!(ok, "{error}");
    assert_eq!(out.trim(), "s\n3\nn\n2");
}

#[test]
fn a_failed_statement_ends_the_run() {
    let (ok, out, error) = run(&[
        "-q",
        "--format",
        "csv",
        "-c",
        "SELECT 1 AS one; SELECT nothing; SELECT 2 AS two",
    ]);
    assert!(!ok);
    assert_eq!(out.trim(), "one\n1");
    assert!(
        error.starts_with("Error: ") && error.contains("nothing"),
        "{error}"
    );
}

#[test]
fn piped_statements_run_like_a_file() {
    let mut child = ches(&["-q", "--format", "csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"-- a comment; with a semicolon\nSELECT 1 AS one;\nSELECT oops")
        .unwrap();
    drop(stdin);
    let (ok, out, error) = texts(child.wait_with_output().unwrap());
    assert!(!ok);
    assert_eq!(out.trim(), "one\n1");
    assert!(error.contains("oops"), "{error}");
}

#[test]
fn programs_get_every_row() {
    let sql = "SELECT value FROM generate_series(1, 10000)";
    let (ok, out, _) = run(&["-q", "--format", "csv", "-c", sql]);
    assert!(ok);
    assert_eq!(out.lines().count(), 10_001);
}

#[test]
fn settings_by_flag() {
    let show = "SHOW ches.max_length; SHOW ches.model; SHOW ches.device; \
                SHOW datafusion.execution.target_partitions";
    let (ok, out, error) = run(&[
        "-q",
        "--format",
        "csv",
        "--model",
        "some.gguf",
        "--device",
        "cpu",
        "--set",
        "ches.max_length=512",
        "--set",
        "datafusion.execution.target_partitions=3",
        "-c",
        show,
    ]);
    assert!(ok, "{error}");
    let values: Vec<_> = out.lines().filter(|line| line.contains('.')).collect();
    assert_eq!(
        values,
        [
            "ches.max_length,512",
            "ches.model,some.gguf",
            "ches.device,cpu",
            "datafusion.execution.target_partitions,3"
        ]
    );
}

#[test]
fn what_cannot_be_is_said() {
    for (arguments, expected) in [
        (
            &["--set", "ches.max_length=many", "-c", "SELECT 1"][..],
            "accepted: a whole number",
        ),
        (
            &["--set", "ches.nothing=1", "-c", "SELECT 1"],
            "there is no setting ches.nothing",
        ),
        (
            &["--set", "max_length=1", "-c", "SELECT 1"],
            "accepted: KEY=VALUE with a whole key",
        ),
        (
            &["--device", "tpu", "-c", "SELECT 1"],
            "ches.device cannot be 'tpu'",
        ),
        (&["-f", "nowhere.sql"], "nowhere.sql: No such file"),
        (&["-c", "SELECT ches('a', 'b', 'c')"], "ches.model: not set"),
        (
            &[
                "--model",
                "ftp://bucket/m.gguf",
                "-c",
                "SELECT ches('a', 'b', 'c')",
            ],
            "ches.model: ftp://bucket/m.gguf: scheme 'ftp'; accepted: a path, s3://",
        ),
        (
            &[
                "--model",
                "nowhere.gguf",
                "-c",
                "SELECT ches('a', 'b', 'c')",
            ],
            "ches.model: nowhere.gguf: No such file",
        ),
        (
            &["--model", "README.md", "-c", "SELECT ches('a', 'b', 'c')"],
            "ches.model: README.md: not a GGUF file",
        ),
        (
            &["-c", "SELECT * FROM 'nowhere.parquet'"],
            "nowhere.parquet",
        ),
        (
            &["-c", "SELECT * FROM 'examples/quickstart.sql'"],
            "quickstart.sql",
        ),
    ] {
        let (ok, _, error) = run(arguments);
        assert!(!ok, "{arguments:?}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    let (ok, _, error) = run(&[
        "--model",
        &model(),
        "--device",
        "cuda:0",
        "-c",
        "SELECT ches('a', 'b', 'c')",
    ]);
    assert!(!ok);
    assert!(
        error.contains("ches.device: this build has no CUDA support"),
        "{error}"
    );
}

/// Azure's stores are ours: without an account the error is Azure's, not "unknown scheme".
#[test]
fn azure_is_a_known_store() {
    let output = ches(&["-c", "SELECT * FROM 'az://container/file.parquet'"])
        .env_clear()
        .output()
        .unwrap();
    let (ok, _, error) = texts(output);
    assert!(!ok);
    assert!(error.to_lowercase().contains("account"), "{error}");
}

#[test]
fn the_quickstart() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept.parquet");
    let script = std::fs::read_to_string(root().join("examples/quickstart.sql")).unwrap();
    let script = script.replace("target/preferences_kept.parquet", kept.to_str().unwrap());
    let (ok, out, error) = run(&["--model", &model(), "-q", "-c", &script]);
    assert!(ok, "{error}");
    assert!(
        out.contains("| code-01 ") && out.contains("| p50 "),
        "{out}"
    );
    let count = format!("SELECT count(*) AS n FROM '{}'", kept.display());
    let (_, out, _) = run(&["-q", "--format", "csv", "-c", &count]);
    // A tenth of 96 goes: percent_rank is a multiple of 1 / 95.
    assert_eq!(out.trim(), "n\n86");
}

/// DataFusion ends the file of a query that fails as if it were whole.
#[test]
fn a_query_that_fails_leaves_the_file_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["parquet", "csv", "json"] {
        let file = folder.path().join(format!("ü.{format}"));
        let copy = |divisor: &str| {
            format!(
                "COPY (SELECT 10 / ({divisor} - value) AS q FROM generate_series(1, 100000)) TO '{}'",
                file.display()
            )
        };
        let (ok, _, error) = run(&["-q", "-c", &copy("90000")]);
        assert!(!ok && error.contains("Divide by zero"), "{error}");
        assert!(!file.exists(), "{format}");
        assert!(run(&["-q", "-c", &copy("200000")]).0);
        let whole = std::fs::read(&file).unwrap();
        assert!(!run(&["-q", "-c", &copy("90000")]).0);
        assert_eq!(std::fs::read(&file).unwrap(), whole, "{format}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

/// A manifest is data: what it names is removed only if it is a file of its run.
#[test]
fn nothing_but_files_of_known_runs_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let copy = |name: &str| {
        format!(
            "COPY (SELECT 1 AS a) TO '{}/' STORED AS CSV",
            place(name).display()
        )
    };
    assert!(run(&["-q", "-c", &copy("out")]).0);
    std::fs::rename(place("out"), place("moved")).unwrap();
    let (ok, _, error) = run(&["-q", "-c", &copy("moved")]);
    assert!(
        !ok && error.contains("which no run of ches wrote that is known here"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(place("moved")).unwrap().count(), 1);

    assert!(run(&["-q", "-c", &copy("out")]).0);
    std::fs::write(place("mine.txt"), "mine").unwrap();
    let manifest = std::fs::read_to_string(place("out.ches-manifest.json")).unwrap();
    let (before, after) = manifest.split_once("\"path\": \"").unwrap();
    let (_, after) = after.split_once('"').unwrap();
    let crafted = format!("{before}\"path\": \"../mine.txt\"{after}");
    std::fs::write(place("out.ches-manifest.json"), crafted).unwrap();
    let (ok, _, error) = run(&["-q", "-c", &copy("out")]);
    assert!(
        !ok && error.contains("'../mine.txt' is no file of its run"),
        "{error}"
    );
    assert!(place("mine.txt").exists());
}

/// A directory without files would not say which columns there are no rows of.
#[test]
fn no_rows_are_a_file_without_rows() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let none = "SELECT 1 AS a, 'x' AS b WHERE false";
    for (format, options) in [
        ("PARQUET", ""),
        ("CSV", "OPTIONS ('format.has_header' 'true')"),
    ] {
        let to = place(format);
        let to = to.display();
        let copy = format!("COPY ({none}) TO '{to}/' STORED AS {format} {options}");
        assert!(run(&["-q", "-c", &copy]).0);
        let said = std::fs::read_to_string(format!("{to}.ches-manifest.json")).unwrap();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (&said["rows"], said["files"].as_array().unwrap().len()),
            (&0.into(), 1)
        );
        let describe = format!("DESCRIBE '{to}/'");
        let (_, columns, error) = run(&["-q", "--format", "csv", "-c", &describe]);
        let names: Vec<_> = columns.lines().skip(1).map(|line| &line[..2]).collect();
        assert_eq!(names, ["a,", "b,"], "{columns} {error}");
    }
}

/// A session reads the files that are there, not those that were.
#[test]
fn a_directory_is_replaced_by_what_is_read_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out");
    let to = to.display();
    let copy = |query: &str| format!("COPY ({query}) TO '{to}/' STORED AS CSV");
    let again = copy(&format!("SELECT a + 1 AS a FROM '{to}/'"));
    let script = format!(
        "{}; {again}; {again}; SELECT * FROM '{to}/'",
        copy("SELECT 1 AS a")
    );
    let (ok, out, error) = run(&["-q", "--format", "csv", "-c", &script]);
    assert!(ok && out.ends_with("a\n3\n"), "{out} {error}");
}

/// Neither a file nor a folder.
#[test]
fn a_failing_directory_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("new/deep/out");
    let copy = format!(
        "COPY (SELECT 10 / (90000 - value) AS q FROM generate_series(1, 100000)) TO '{}/' STORED AS \
         PARQUET",
        to.display()
    );
    let (ok, _, error) = run(&["-q", "-c", &copy]);
    assert!(!ok && error.contains("Divide by zero"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A report of rows with a score, without one, and with texts that are HTML.
#[test]
fn a_report_is_one_page_that_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("a page.html");
    let rows = "VALUES ('Is it safe?', 'No <script>alert(1)</script>', 'Never'), \
                ('Is it?', 'Yes.', ''), (NULL, 'a', 'b'), ('Say it\u{202e}.', 'Fine & well', 'Ill')";
    let setup = format!("CREATE TABLE t AS SELECT * FROM ({rows}) AS t(prompt, chosen, rejected)");
    let page_argument = page.to_str().unwrap();
    let (model, output) = (model(), ["-o", page_argument]);
    let arguments = [
        "--model", &model, "-q", "-c", &setup, "report", "t", output[0], output[1],
    ];
    let (ok, out, error) = run(&arguments);
    assert!(ok && out.is_empty(), "{out}{error}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.len() < 1_000_000);
    assert!(!html.contains("<script") && !html.contains("src="));
    for shown in [
        "No &lt;script&gt;alert(1)",
        "Fine &amp; well",
        "the rejected response has no tokens",
        "prompt is NULL",
        "<svg",
        "chosen_rate_per_token",
    ] {
        assert!(html.contains(shown), "{shown}");
    }
    let (ok, _, error) = run(&["--model", &model, "report", "SELECT 1 AS chosen"]);
    assert!(
        !ok && error.contains("needs the columns chosen and rejected"),
        "{error}"
    );
    let nowhere = folder.path().join("none/page.html");
    let (ok, _, error) = run(&[
        "--model",
        &model,
        "report",
        "SELECT 'q' AS prompt, 'a' AS chosen, 'b' AS rejected",
        "-o",
        nowhere.to_str().unwrap(),
    ]);
    assert!(!ok && error.contains("none/page.html"), "{error}");
    // A query is read, whatever it begins with, and nothing else is run.
    for statement in ["/* all */ SELECT 1 AS chosen", "DROP TABLE t"] {
        let arguments = ["-q", "-c", &setup, "report", statement, "-o", page_argument];
        let (ok, _, error) = run(&arguments);
        let is_refused = error.contains("needs the columns") || error.contains("DDL not supported");
        assert!(!ok && is_refused, "{error}");
    }
    let files = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(files.count(), 1);
}
