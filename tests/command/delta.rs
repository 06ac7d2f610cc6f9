//! The command and Delta Lake tables.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Rows of each of the two partitions of a table.
const ROWS_EACH: usize = 40;

const SCORE: &str = "ches_normalized(prompt, chosen, rejected)";

/// Pairs of a language, numbered from here on.
fn pairs(lang: &str, first: usize, rows: usize) -> String {
    format!(
        "SELECT value AS id, '{lang}' AS lang, 'What is ' || value || '?' AS prompt, \
           repeat('It is ' || value || '. ', 2 + value % 7) AS chosen, \
           repeat('No idea. ', 2 + value % 5) AS rejected \
         FROM generate_series({first}, {})",
        first + rows - 1
    )
}

fn command(folder: &Path, sql: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf/llama.gguf");
    command
        .current_dir(folder)
        .args(["--model", model.to_str().unwrap()])
        .args(["--set", "ches.prompt_format=raw"])
        .args(["--set", "ches.batch_tokens=1"])
        .args(["--format", "csv", "-c", sql]);
    command
}

fn answer(folder: &Path, sql: &str) -> String {
    told(&command(folder, sql).arg("-q").output().unwrap())
}

fn told(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(folder: &Path, sql: &str) -> String {
    let output = command(folder, sql).arg("-q").output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// How many rows a query scored, by the last line of the command.
fn scored(folder: &Path, sql: &str) -> usize {
    let output = command(folder, sql).output().unwrap();
    told(&output);
    let error = String::from_utf8_lossy(&output.stderr);
    let line = error.lines().find(|line| line.contains(" rows: "));
    let (rows, _) = line.unwrap().split_once(' ').unwrap();
    rows.parse().unwrap()
}

const TABLE: &str = "CREATE EXTERNAL TABLE lake (id BIGINT, lang VARCHAR, prompt VARCHAR, \
    chosen VARCHAR, rejected VARCHAR) STORED AS DELTA PARTITIONED BY (lang) LOCATION 'lake'; ";

/// A table of two partitions, in three versions: made, and each of them appended.
fn make_table(folder: &Path) {
    let insert = |lang: &str, first: usize| {
        let columns = "id, lang, prompt, chosen, rejected";
        format!(
            "INSERT INTO lake ({columns}) {};",
            pairs(lang, first, ROWS_EACH)
        )
    };
    let sql = format!("{TABLE}{}{}", insert("en", 0), insert("de", 1000));
    answer(folder, &sql);
}

#[test]
fn versions_are_read_appended_and_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_table(folder);
    // By path it is the table, and not whatever files are there.
    let all = answer(folder, "SELECT count(*), count(DISTINCT lang) FROM 'lake/'");
    assert!(all.ends_with("\n80,2\n"), "{all}");

    let median = answer(folder, &format!("SELECT median({SCORE}) FROM 'lake'"));
    let threshold = median.lines().last().unwrap();
    let kept = format!("SELECT id FROM 'lake' WHERE {SCORE} < {threshold} ORDER BY id");
    let expected = answer(folder, &kept);
    let rows = expected.lines().count() - 1;
    assert!((30..50).contains(&rows), "{rows} of 80 rows are kept");
    let filtered = format!(
        "{TABLE} INSERT OVERWRITE lake SELECT * FROM lake WHERE {SCORE} < {threshold}; \
         SELECT id FROM lake ORDER BY id"
    );
    let answered = answer(folder, &filtered);
    assert!(answered.ends_with(&expected), "{answered}");

    for (option, count) in [
        ("'delta.version' '0'", 0),
        ("'delta.version' '1'", ROWS_EACH),
        ("'delta.version' '2'", 2 * ROWS_EACH),
        ("'delta.version' '3'", rows),
        ("'delta.timestamp' '2999-01-01T00:00:00Z'", rows),
    ] {
        let sql = format!(
            "CREATE EXTERNAL TABLE old STORED AS DELTA LOCATION 'lake' OPTIONS ({option}); \
             SELECT count(*) FROM old"
        );
        let answered = answer(folder, &sql);
        assert!(
            answered.ends_with(&format!("\n{count}\n")),
            "{option}: {answered}"
        );
    }
}

#[test]
fn only_the_rows_of_a_partition_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_table(folder);
    for (condition, rows) in [
        ("true", 2 * ROWS_EACH),
        ("lang = 'de'", ROWS_EACH),
        ("lang = 'de' AND id >= 1030", 10),
        ("lang = 'fr'", 0),
    ] {
        let select = |score: &str| {
            format!("SELECT count(*), min({score}) FROM 'lake' WHERE {condition} AND {score} < 1e9")
        };
        if rows == 0 {
            let answered = answer(folder, &select(SCORE));
            assert!(
                answered.ends_with("\n0,\n") || answered.ends_with("\n0,NULL\n"),
                "{answered}"
            );
        } else {
            assert_eq!(scored(folder, &select(SCORE)), rows, "{condition}");
        }
    }
    // Files of other partitions are not opened.
    let plan = answer(
        folder,
        &format!("EXPLAIN ANALYZE SELECT min({SCORE}) FROM 'lake' WHERE lang = 'de'"),
    );
    assert!(
        plan.contains("lang=de") && !plan.contains("lang=en"),
        "{plan}"
    );
}

#[test]
fn rows_that_are_appended_meanwhile_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_table(folder);
    // Long enough for the appends to fall into it.
    let more = format!(
        "{TABLE} INSERT INTO lake (id, lang, prompt, chosen, rejected) {}",
        pairs("en", 5000, 3000)
    );
    answer(folder, &more);
    let overwrite = format!(
        "{TABLE} INSERT OVERWRITE lake SELECT * FROM lake WHERE {SCORE} < 1e9 AND id >= 20"
    );
    let filter = command(folder, &overwrite)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut appended = 0;
    for batch in 0..4 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let sql = format!(
            "{TABLE} INSERT INTO lake (id, lang, prompt, chosen, rejected) {}",
            pairs("fr", 100_000 + batch * 10, 10)
        );
        answer(folder, &sql);
        appended += 10;
    }
    let output = filter.wait_with_output().unwrap();
    let answered = answer(
        folder,
        "SELECT count(*) FILTER (WHERE lang = 'fr'), count(DISTINCT id), count(*), \
           count(*) FILTER (WHERE id < 20) FROM 'lake'",
    );
    // Either the filter came to its end beside the appends, or it says that it could not.
    let old = match output.status.success() {
        true => 0,
        false => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("concurrent"), "{error}");
            20
        }
    };
    let rows = 3000 + 60 + old + appended;
    let expected = format!("\n{appended},{rows},{rows},{old}\n");
    assert!(answered.ends_with(&expected), "{answered}{expected}");
}

#[test]
fn errors_say_what_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_table(folder);
    let create = |options: &str| {
        format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'lake' OPTIONS ({options})")
    };
    for (sql, expected) in [
        (
            create("'delta.version' 'new'"),
            "accepted: a number from 0 on",
        ),
        (
            create("'delta.timestamp' 'today'"),
            "accepted: a time such as",
        ),
        (
            create("'delta.versoin' '1'"),
            "'delta.versoin' of a Delta table; accepted: delta.version, delta.timestamp",
        ),
        (create("'delta.version' '17'"), "17"),
        (
            "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'nothing'".into(),
            "nothing: there is none",
        ),
        (
            "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION 'lake'".into(),
            "it has the columns chosen, id, lang, prompt, rejected, not a",
        ),
        (
            format!(
                "{}; INSERT INTO t SELECT * FROM t",
                create("'delta.version' '1'")
            ),
            "version 1 is history",
        ),
    ] {
        let error = refused(folder, &sql);
        assert!(error.contains(expected), "{sql}: {error}");
    }
    assert!(!folder.join("nothing").exists());
}

/// The same in a bucket, whose store decides between two writers by a conditional request.
#[test]
fn a_bucket_holds_tables_too() {
    let server = crate::s3_server::S3Server::start();
    let environment = crate::s3_server::S3Server::environment(server.port());
    let folder = tempfile::tempdir().unwrap();
    let place = format!("s3://{}/lake", crate::s3_server::BUCKET);
    let in_bucket = |sql: &str| {
        let mut command = command(folder.path(), &sql.replace("'lake", &format!("'{place}")));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("-q");
        command
    };
    let insert = |lang: &str, first: usize| {
        let rows = pairs(lang, first, ROWS_EACH);
        format!("{TABLE}INSERT INTO lake (id, lang, prompt, chosen, rejected) {rows};")
    };
    told(&in_bucket(&insert("en", 0)).output().unwrap());
    // Two at a time: neither is lost.
    let writers = [("de", 1000), ("fr", 2000)].map(|(lang, first)| {
        let mut command = in_bucket(&insert(lang, first));
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    });
    for writer in writers {
        told(&writer.wait_with_output().unwrap());
    }
    let all = "SELECT lang, count(*) FROM 'lake/' GROUP BY lang ORDER BY lang";
    let all = told(&in_bucket(all).output().unwrap());
    assert_eq!(
        all.lines().skip(1).collect::<Vec<_>>(),
        ["de,40", "en,40", "fr,40"]
    );
    let median = format!("SELECT median({SCORE}) FROM 'lake' WHERE lang = 'en'");
    let median = told(&in_bucket(&median).output().unwrap());
    let threshold = median.lines().last().unwrap();
    let here = format!("{SCORE} < {threshold} AND lang = 'en'");
    let overwrite = format!(
        "CREATE EXTERNAL TABLE lake STORED AS DELTA LOCATION 'lake'; \
         INSERT OVERWRITE lake SELECT * FROM lake WHERE {here};"
    );
    let before = told(
        &in_bucket(&format!("SELECT id FROM 'lake' WHERE {here} ORDER BY id"))
            .output()
            .unwrap(),
    );
    told(&in_bucket(&overwrite).output().unwrap());
    let after = told(
        &in_bucket("SELECT id FROM 'lake' ORDER BY id")
            .output()
            .unwrap(),
    );
    assert_eq!(before, after);
    assert!((2..ROWS_EACH).contains(&before.lines().count()), "{before}");
}
