//! The SQL side against a scorer that counts: every `.slt` file of `tests/slt`, on two engines.

use std::path::{Path, PathBuf};

use crate::support::fake_scorer;
use crate::support::slt::{Exceptions, run_file, run_file_by};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_files() {
    for file in files() {
        run_file(&file, fake_scorer::session).await;
    }
}

/// What functions alone do otherwise.
const FUNCTIONS_ALONE: &Exceptions = &[
    (
        "rows_scored()",
        "each function computes every row that it is shown; a scorer's memory keeps that cheap",
    ),
    ("SELECT forward_passes()", "as above"),
    ("EXPLAIN SELECT", "no rule changes the plan"),
    ("arrow_metadata", "a rule gives columns their provenance"),
    ("beside", "a rule puts columns beside the texts"),
    (
        "LEFT JOIN (SELECT * FROM pairs WHERE ches",
        "DataFusion reads a field of a struct below an outer join, where no row is filled yet",
    ),
    (
        "FROM (SELECT * FROM pairs ORDER BY column1)",
        "the row at fault is of another batch",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn slt_files_by_functions_alone() {
    let mut met = Vec::new();
    for file in files() {
        let session = async || fake_scorer::blocking_session();
        met.extend(run_file_by(&file, session, FUNCTIONS_ALONE).await);
    }
    for (part, reason) in FUNCTIONS_ALONE {
        assert!(
            met.contains(part),
            "no statement has {part:?} any more ({reason})"
        );
    }
}
