//! Files in the shapes that people have, by path: what other tools wrote is read as it is.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::root;

/// What the command answers, line by line.
fn rows(folder: &Path, sql: &str) -> Result<Vec<Value>, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_ches"))
        .current_dir(folder)
        .args(["-q", "--format", "nd-json", "-c", sql])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(error);
    }
    let out = String::from_utf8(output.stdout).unwrap();
    Ok(out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect())
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// `tests/goldens/make_tables.py` made the files.
#[test]
fn what_other_tools_write() {
    let folder = root().join("tests/goldens/tables");
    let index = json_of(&folder.join("index.json"));
    let index = index.as_array().unwrap();
    assert!(index.len() >= 50);
    // One process for all of them.
    let mut script = String::new();
    for entry in index {
        let path = entry["path"].as_str().unwrap();
        script += &format!(
            "SELECT '{path}' AS path;
             SELECT id, prompt, chosen, rejected FROM '{path}' ORDER BY id;"
        );
    }
    let lines = rows(&folder, &script).unwrap();
    let mut answers = lines.chunk_by(|_, next| next.get("path").is_none());
    for entry in index {
        let (name, found) = answers.next().unwrap().split_first().unwrap();
        assert_eq!(name["path"], entry["path"]);
        let expected = format!("{}.json", entry["rows"].as_str().unwrap());
        let expected = json_of(&folder.join(expected));
        assert_eq!(found, expected.as_array().unwrap().as_slice(), "{name}");
    }
}

#[test]
fn folders_give_columns() {
    let folder = root().join("tests/goldens/tables");
    for place in ["duckdb-hive", "pyarrow-hive/*/*.parquet"] {
        let sql = format!("SELECT lang, count(*) AS n FROM '{place}' GROUP BY lang ORDER BY lang");
        let expected = [json!({"lang": "de", "n": 6}), json!({"lang": "en", "n": 6})];
        assert_eq!(rows(&folder, &sql).unwrap(), expected, "{place}");
    }
    let sql = "EXPLAIN SELECT id FROM 'duckdb-hive' WHERE lang = 'en'";
    let plan = format!("{:?}", rows(&folder, sql).unwrap());
    assert!(
        plan.contains("lang=en") && !plan.contains("lang=de"),
        "{plan}"
    );

    // A column that files and folders have is one, with its type in the files.
    let folder = tempfile::tempdir().unwrap();
    let both = "COPY (SELECT 1 AS a, value AS part FROM generate_series(1, 2) WHERE value = {n})
        TO 'both/part={n}/x.parquet';";
    let script = both.replace("{n}", "1") + &both.replace("{n}", "2");
    rows(folder.path(), &script).unwrap();
    let found = rows(
        folder.path(),
        "SELECT a, part FROM 'both' WHERE part + 1 = 3",
    );
    assert_eq!(found.unwrap(), [json!({"a": 1, "part": 2})]);
    let script = script.replace("both", "text").replace("parquet", "jsonl");
    rows(folder.path(), &script).unwrap();
    let error = rows(folder.path(), "SELECT * FROM 'text'").unwrap_err();
    assert!(
        error.contains("'part'") && error.contains("'text'"),
        "{error}"
    );
}

#[test]
fn patterns_choose_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    for name in [
        "x1.jsonl",
        "x2.jsonl",
        "a/x3.jsonl",
        "a/b/x4.jsonl",
        "a/.x5.jsonl",
        "x[6].jsonl",
    ] {
        let number: u32 = name.chars().filter_map(|c| c.to_digit(10)).sum();
        std::fs::write(folder.path().join(name), format!("{{\"n\": {number}}}\n")).unwrap();
    }
    for (place, expected) in [
        ("*.jsonl", vec![1, 2, 6]),
        ("x?.jsonl", vec![1, 2]),
        ("**/*.jsonl", vec![1, 2, 3, 4, 6]),
        ("a/**", vec![3, 4]),
        ("{x1,a/x3}.jsonl", vec![1, 3]),
        ("{x*,x1}.jsonl", vec![1, 2, 6]),
        ("x[12].jsonl", vec![1, 2]),
        ("x[6].jsonl", vec![6]),
        ("a/", vec![3, 4]),
        ("./a/../x1.jsonl", vec![1]),
    ] {
        let found = rows(
            folder.path(),
            &format!("SELECT n FROM '{place}' ORDER BY n"),
        );
        let found = found.unwrap_or_else(|error| panic!("{place}: {error}"));
        let found: Vec<_> = found.iter().map(|row| row["n"].as_i64().unwrap()).collect();
        assert_eq!(found, expected, "{place}");
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("pairs.jsonl", b"{\"a\": 1}\n");
    write("notes.txt", b"a");
    write("mixed/a.csv", b"a\n1\n");
    write("mixed/b.parquet", b"PAR1");
    write("mixed/README.md", b"# A");
    write("texts/a.txt", b"a");
    write("texts/b.txt", b"b");
    write("broken.jsonl", b"{\"a\": 1}\n{\"a\": }\n");
    write("cut.json", b"[{\"a\": 1}");
    write("latin.jsonl", b"{\"a\": \"\xe9\"}\n");
    write("broken.jsonl.gz", b"{\"a\": 1}\n");
    write("order/1.csv", b"a,b\n1,2\n");
    write("order/2.csv", b"b,a\n1,2\n");
    write("p.parquet.gz", b"");
    std::fs::create_dir(folder.path().join("nothing")).unwrap();
    for (place, expected) in [
        ("pairs.json", "nearest name there is 'pairs.jsonl'"),
        ("elsewhere/pairs.jsonl", "there is no such file or folder"),
        ("notes.txt", "readable: .parquet, .arrow"),
        ("p.parquet.gz", "readable: .parquet, .arrow"),
        ("mixed", "several formats: 1 .csv, 1 .parquet"),
        ("texts", "none of its 2 files"),
        ("nothing", "is a folder without files"),
        ("*.parquet", "no file has such a name"),
        ("{a", "'{' without '}'"),
        ("broken.jsonl", "broken.jsonl: the record at byte 9: "),
        ("cut.json", "cut.json: the array has no end"),
        ("latin.jsonl", "latin.jsonl: "),
        ("broken.jsonl.gz", "broken.jsonl.gz: "),
        (
            "order",
            "accepted: files with the same columns in the same order",
        ),
    ] {
        let error = rows(folder.path(), &format!("SELECT * FROM '{place}'")).unwrap_err();
        assert!(error.contains(expected), "{place}: {error}");
    }
    let error = rows(folder.path(), "SELECT * FROM pairs").unwrap_err();
    assert!(
        error.contains("table 'datafusion.public.pairs' not found"),
        "{error}"
    );
}

/// Types that no Arrow type holds, and fields that come late.
#[test]
fn json_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let message =
        |content: &str| format!("{{\"m\": [{{\"role\": \"user\", \"content\": {content}}}]}}\n");
    let text = message("\"x\"") + &message("[{\"type\": \"text\", \"text\": \"y\"}]");
    std::fs::write(&path, text).unwrap();
    let found = rows(folder.path(), "SELECT m FROM 'a.jsonl'").unwrap();
    let expected = "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"y\"}]}]";
    assert_eq!(found[1]["m"], expected);

    let late = "{\"a\": 1}\n".repeat(3) + "{\"a\": 2, \"b\": 3}\n";
    std::fs::write(&path, late).unwrap();
    let found = rows(folder.path(), "SELECT b FROM 'a.jsonl' WHERE a = 2").unwrap();
    assert_eq!(found, [json!({"b": 3})]);
    let declared = "CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 'a.jsonl'
        OPTIONS ('format.schema_infer_max_rec' '2'); SELECT * FROM t";
    let error = rows(folder.path(), declared).unwrap_err();
    assert!(
        error.contains("the record at byte 27: ") && error.contains("'b'"),
        "{error}"
    );
    assert!(error.contains("schema_infer_max_rec"), "{error}");
}

/// A CSV file in which line breaks stand in quotes everywhere, and JSON Lines, of some 30 MB each, are read by several
/// partitions or by one, and no row is lost or torn.
#[test]
fn large_files_are_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "CREATE TABLE t AS SELECT value AS id, repeat(E'line \"one\",\\n', 20 + value % 90) AS text
          FROM generate_series(1, 40000);
        COPY t TO 'a.csv'; COPY t TO 'a.jsonl'; COPY t TO 'b.jsonl.gz';
        SELECT sum(id * length(text)) AS n FROM t;";
    let lines = rows(folder.path(), script).unwrap();
    let expected = lines.last().unwrap();
    for partitions in [1, 7] {
        for file in ["a.csv", "a.jsonl", "b.jsonl.gz"] {
            let sql = format!(
                "SET datafusion.execution.target_partitions = {partitions};
                 SELECT sum(id * length(text)) AS n FROM '{file}'"
            );
            let found = rows(folder.path(), &sql).unwrap();
            assert_eq!(found.last().unwrap(), expected, "{file} {partitions}");
        }
    }
    let sql = "SET datafusion.execution.target_partitions = 7; EXPLAIN SELECT * FROM 'a.jsonl'";
    let plan = format!("{:?}", rows(folder.path(), sql).unwrap());
    assert!(plan.contains("7 groups"), "{plan}");
}

#[test]
fn copies_are_named_by_format_and_compression() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "a.jsonl",
        "a.ndjson.zst",
        "a.json.gz",
        "a.csv.xz",
        "a.tsv",
        "a.tsv.bz2",
    ] {
        let sql = format!(
            "COPY (SELECT value AS id, E'a\\tb\\n' || value AS text FROM generate_series(1, 3)) TO '{name}';
             SELECT id, text FROM '{name}' ORDER BY id"
        );
        let found = rows(folder.path(), &sql).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = [1, 2, 3].map(|id| json!({"id": id, "text": format!("a\tb\n{id}")}));
        assert_eq!(found[1..], expected, "{name}");
    }
    for name in ["a.gz", "a.parquet.gz", "a.nothing.xz"] {
        let error = rows(folder.path(), &format!("COPY (SELECT 1) TO '{name}'")).unwrap_err();
        assert!(
            error.contains("accepted: a name that ends in a format's extension"),
            "{error}"
        );
    }
}
