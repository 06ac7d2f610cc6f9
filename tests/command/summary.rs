//! The last line of a run and the manifest: what became of the rows, and how many without a score are in
//! the result.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::root;

/// Twenty rows: of an empty response, a NULL and a malformed conversation each two.
const PAIRS: &str = "CREATE TABLE pairs AS SELECT value AS id, value % 2 AS part, \
    CASE WHEN value IN (3, 4) THEN NULL ELSE 'Say ' || value END AS prompt, \
    make_array(named_struct('role', CASE WHEN value IN (5, 6) THEN 'user' ELSE 'assistant' END, \
    'content', CASE WHEN value IN (7, 8) THEN '' ELSE 'It is ' || value END)) AS chosen, \
    'No.' AS rejected FROM generate_series(1, 20)";

/// What a run says last on stderr.
fn last_line(folder: &Path, sql: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ches"))
        .current_dir(folder)
        .arg("--model")
        .arg(root().join("tests/goldens/families/llama/model"))
        .args(["--set", "ches.on_error=null", "--set", "ches.cache=scores"])
        .args(["--set", "ches.memo_bytes=0", "-c", PAIRS, "-c", sql])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().last().unwrap_or_default().to_owned()
}

const ROWS: &str = "20 rows: 14 computed, 0 from the cache, 2 failed (their error says why), 4 without a \
    score (a NULL, an empty response, or a prompt without room for one)";

#[test]
fn what_became_of_the_rows() {
    let score = "ches_normalized(prompt, chosen, rejected)";
    let all = format!("SELECT id, {score} AS score FROM pairs");
    let cases = [
        (all.clone(), "6 without a score"),
        (
            format!("{all} ORDER BY score NULLS LAST"),
            "6 without a score",
        ),
        (
            format!("SELECT * FROM ({all}) WHERE score < 1e9"),
            "0 without a score",
        ),
        (
            format!("{all} WHERE {score} IS NOT NULL"),
            "0 without a score",
        ),
        (
            format!("{all} QUALIFY percent_rank() OVER (ORDER BY {score}) < 0.9"),
            "up to 6 without a score",
        ),
        (
            format!("{all} ORDER BY score DESC LIMIT 5"),
            "up to 5 without a score",
        ),
        (
            format!(
                "SELECT * FROM ({all}) JOIN generate_series(1, 3) AS n ON n.value < score OR score IS NULL"
            ),
            "up to ",
        ),
        (
            format!("SELECT count(*) FROM ({all}) WHERE score IS NULL"),
            "up to 1 without a score",
        ),
    ];
    for (sql, in_result) in cases {
        let folder = tempfile::tempdir().unwrap();
        let line = last_line(folder.path(), &sql);
        let expected = format!("{ROWS}; in the result: {in_result}");
        assert!(line.starts_with(&expected), "{sql}: {line}");
        let again = last_line(folder.path(), &sql);
        let cached = expected.replace("14 computed, 0 from", "0 computed, 14 from");
        assert!(again.starts_with(&cached), "{sql}: {again}");
    }
}

/// The reasons, and a query that lists such rows and runs no model.
#[test]
fn why_rows_failed() {
    let folder = tempfile::tempdir().unwrap();
    let line = last_line(
        folder.path(),
        "SELECT ches(prompt, chosen, rejected) FROM pairs",
    );
    let (_, failed) = line.split_once("; failed: 2 x ").unwrap();
    assert!(
        failed.starts_with("the response's first turn has role 'user'"),
        "{line}"
    );
    let (query, _) = failed
        .split_once(" lists such rows and computes nothing")
        .unwrap();
    let (_, query) = query.rsplit_once("; ").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ches"))
        .arg("--model")
        .arg(root().join("tests/goldens/families/llama/model"))
        .args([
            "--set",
            "ches.on_error=null",
            "--format",
            "nd-json",
            "-c",
            PAIRS,
            "-c",
        ])
        .arg(format!(
            "SELECT id, error FROM ({query}) WHERE prompt IS NOT NULL ORDER BY id"
        ))
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let ids = out.lines().filter_map(|line| {
        let row: Value = serde_json::from_str(line).ok()?;
        row["id"].as_i64()
    });
    // The malformed ones, and those with an empty response.
    assert_eq!(ids.collect::<Vec<_>>(), [5, 6, 7, 8], "{query}: {out}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(" 0 tokens in "), "{error}");
}

#[test]
fn a_job_ends_in_which_too_many_fail() {
    let table = "CREATE TABLE many AS SELECT 'q' AS prompt, 'a' AS rejected, CASE WHEN value % 3 = 0 THEN \
        '[{\"role\": \"user\", \"content\": \"b\"}]' ELSE '' END AS chosen FROM generate_series(1, 2000)";
    for (fraction, ends) in [("0.5", false), ("0.3", true)] {
        let output = Command::new(env!("CARGO_BIN_EXE_ches"))
            .arg("--model")
            .arg(root().join("tests/goldens/families/llama/model"))
            .args(["--set", "ches.on_error=null", "-c", table, "--set"])
            .arg(format!("ches.max_failed_fraction={fraction}"))
            .args([
                "-c",
                "SELECT count(ches(prompt, chosen, rejected)) FROM many",
            ])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), !ends, "{fraction}: {error}");
        let said = "rows failed, more than ches.max_failed_fraction = 0.3 accepts: ";
        assert_eq!(error.contains(said), ends, "{error}");
    }
}

#[test]
fn the_manifest_says_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let select = "SELECT *, ches(prompt, chosen, rejected) AS score FROM pairs";
    for (condition, unscored) in [("true", 6), ("score > -1e9", 0)] {
        let sql = format!(
            "COPY (SELECT * FROM ({select}) WHERE {condition}) TO 'out/' STORED AS PARQUET \
             PARTITIONED BY (part)"
        );
        let line = last_line(folder.path(), &sql);
        let said = format!("in the result: {unscored} without a score");
        assert!(line.contains(&said), "{line}");
        let manifest = std::fs::read(folder.path().join("out.ches-manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let scores = &manifest["scores"];
        let count = |name: &str| scores[name].as_u64().unwrap();
        assert_eq!(count("scored") + count("failed") + count("skipped"), 20);
        assert_eq!(count("unscored_in_result"), unscored, "{scores}");
        assert_eq!(scores["unscored_at_most"], false);
        assert_eq!(manifest["rows"], 14 + unscored);
    }
}
