//! A tiny model of every supported family, as a directory, against what transformers makes of it
//! (`tests/goldens/make_families.py`).

use std::path::PathBuf;

use crate::suites::families::{Asked, rows_of};
use crate::suites::{self, Subject, assert_pass};
use crate::support::{lines, root};
use datafusion_ches::{PromptFormat, families};
use serde_json::Value;

fn folder(family: &str) -> PathBuf {
    root().join("tests/goldens/families").join(family)
}

fn rows(family: &str, format: &str) -> Vec<Value> {
    rows_of(&folder(family), format)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_agrees_with_its_golden() {
    assert!(families::model_types().len() >= 12);
    for subject in Subject::of_tests() {
        assert_pass(suites::families::in_f32(&subject).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_precision_is_as_near_as_that_of_transformers() {
    for subject in Subject::of_tests() {
        assert_pass(suites::families::in_half_precision(&subject).await);
    }
}

/// A GGUF file of a family holds the same model as its directory.
#[tokio::test(flavor = "multi_thread")]
async fn gguf_files_agree_with_the_goldens_of_their_directories() {
    let architectures = families::architectures();
    assert!(architectures.len() >= 4);
    for architecture in architectures {
        let file = root().join(format!("tests/goldens/gguf/{architecture}.gguf"));
        for (format, name) in [(PromptFormat::Raw, "raw"), (PromptFormat::Chat, "chat")] {
            let rows = rows(architecture, name);
            Asked::of("cpu", &file, format).assert(&rows).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantised_file_agrees_with_what_transformers_reads_in_it() {
    let file = root().join("tests/goldens/gguf/llama-q4_0.gguf");
    let rows = lines(&file.with_extension("jsonl"));
    assert_eq!(rows.len(), 10);
    Asked::of("cpu", &file, PromptFormat::Raw)
        .assert(&rows)
        .await;
}

#[test]
fn the_page_of_models_lists_what_is_tested() {
    let page = std::fs::read_to_string(root().join("docs/models.md")).unwrap();
    let (_, table) = page.split_once("| `model_type` | switches").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| `"));
    let listed: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert_eq!(listed, families::model_types());
}

/// The Hub's cache keeps revisions of a model below one folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_the_hubs_cache_works_by_its_path() {
    let cache = tempfile::tempdir().unwrap();
    let folder_of_model = cache.path().join("models--org--name");
    let snapshot = folder_of_model.join("snapshots/0123abcd");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::fs::create_dir_all(folder_of_model.join("refs")).unwrap();
    std::fs::write(folder_of_model.join("refs/main"), "0123abcd").unwrap();
    std::os::unix::fs::symlink(folder("llama").join("model"), &snapshot).unwrap();
    let rows = rows("llama", "chat");
    for model in [&folder_of_model, &snapshot] {
        Asked::of("cpu", model, PromptFormat::Auto)
            .assert(&rows)
            .await;
    }
}
