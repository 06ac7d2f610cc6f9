//! What the command tells on stderr of models and texts that are likely not what was meant.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::root;

/// A copy of a small model.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("tests/goldens/families/llama/model");
    for entry in std::fs::read_dir(model).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    folder
}

/// What a successful run says on stderr.
fn said(model: &TempDir, sql: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ches"))
        .arg("--model")
        .arg(model.path())
        .args(["-q", "-c", sql])
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn a_key_that_the_class_does_not_declare() {
    let folder = copy();
    let pairs = "SELECT ches('a', 'b', 'c'), ches('d', 'e', 'f')";
    assert_eq!(said(&folder, pairs), "");
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["rope_pct"] = json!(0.5);
    std::fs::write(&path, config.to_string()).unwrap();
    let said = said(&folder, pairs);
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["WARN", "config.json", "rope_pct", "transformers"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Rows of a statement, of which so many have such texts.
fn said_of(many: usize, [prompt, chosen, rejected]: [&str; 3]) -> String {
    let rows = (0..20).map(|row| match row < many {
        true => format!("({row}, {prompt}, {chosen}, {rejected})"),
        false => format!("({row}, 'Say {row}, please.', 'It is {row}.', 'No.')"),
    });
    let rows = rows.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT avg(s['prompt_tokens']), count(s['ches']) FROM (\
           SELECT preference_scores(column2, column3, column4) AS s FROM (VALUES {rows}) \
           WHERE preference_scores(column2, column3, column4)['chosen_tokens'] > 0)"
    );
    said(&copy(), &sql)
}

#[test]
fn texts_that_many_rows_have() {
    let question = "'What is the capital of France?'";
    let repeated = "'What is the capital of France? Paris.'";
    let transcript = "e'\\n\\nHuman: What?\\n\\nAssistant: That.'";
    let kinds = [
        (
            [question, repeated, "'Lyon.'"],
            "begins with its prompt",
            "substr(chosen,",
        ),
        (
            [
                question,
                "'[{''role'': ''assistant'', ''content'': ''Paris.''}]'",
                "'No.'",
            ],
            "JSON text",
            "list of structs",
        ),
        (
            [question, "'Paris.'", "'Paris.'"],
            "chosen and rejected are equal",
            "WHERE chosen <> rejected",
        ),
        (
            [question, transcript, "'No.'"],
            "transcript",
            "ches(chosen, rejected)",
        ),
    ];
    for (texts, what, advice) in kinds {
        let many = said_of(5, texts);
        assert_eq!(many.lines().count(), 1, "{many}");
        for part in ["WARN in 5 of 20 rows", what, advice] {
            assert!(many.contains(part), "{part}: {many}");
        }
        assert_eq!(said_of(1, texts), "");
    }
}
