//! Rows of a statement that failed and were let through by `ches.on_error = 'null'`: how many, and why.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::common::exec_err;
use datafusion::error::Result;

use crate::settings::ChesSettings;

/// Before so many rows a share says little.
const FIRST_ROWS: u64 = 1_000;

/// Reasons that are told.
const TOLD: usize = 3;

/// Kinds of reason that are told apart.
const MAX_KINDS: usize = 1_000;

/// Reasons beyond these kinds.
const OTHERS: &str = "other reasons";

/// Counts the failures of all nodes of a plan together.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    rows: u64,
    failed: u64,
    /// By kind: the first reason, and how many rows.
    kinds: HashMap<String, (String, u64)>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a row that failed.
    pub(crate) fn add(&self, reason: &str) {
        let mut counts = self.lock();
        counts.failed += 1;
        let kind = kind(reason);
        let is_known = counts.kinds.len() < MAX_KINDS || counts.kinds.contains_key(&kind);
        let (kind, first) = match is_known {
            true => (kind, reason),
            false => (OTHERS.to_owned(), OTHERS),
        };
        let (_, rows) = counts
            .kinds
            .entry(kind)
            .or_insert_with(|| (first.to_owned(), 0));
        *rows += 1;
    }

    /// Counts rows, failed or not.
    ///
    /// # Errors
    /// When more of them failed than `ches.max_failed_fraction`, after the first rows.
    pub(crate) fn add_rows(&self, rows: usize, settings: &ChesSettings) -> Result<()> {
        let (rows, failed) = {
            let mut counts = self.lock();
            counts.rows += rows as u64;
            (counts.rows, counts.failed)
        };
        let accepted = settings.max_failed_fraction;
        if rows < FIRST_ROWS || failed as f64 <= accepted * rows as f64 {
            return Ok(());
        }
        exec_err!(
            "{failed} of {rows} rows failed, more than ches.max_failed_fraction = {accepted} accepts: {}",
            self.commonest()
        )
    }

    /// The commonest reasons with their counts, as one line; empty where no row failed.
    pub fn commonest(&self) -> String {
        let counts = self.lock();
        let mut kinds: Vec<&(String, u64)> = counts.kinds.values().collect();
        kinds.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let told = kinds.iter().take(TOLD);
        let told: Vec<_> = told
            .map(|(reason, rows)| format!("{rows} x {reason}"))
            .collect();
        told.join("; ")
    }
}

/// A reason without what differs from row to row: numbers, and what it quotes.
fn kind(reason: &str) -> String {
    let mut kind = String::with_capacity(reason.len());
    let mut characters = reason.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '0'..='9' => {
                while characters.next_if(char::is_ascii_digit).is_some() {}
                kind.push('0');
            }
            '\'' if !kind.ends_with(char::is_alphanumeric) => {
                kind.push('\'');
                let closed = characters.by_ref().any(|c| c == '\'');
                kind.extend(closed.then_some('\''));
            }
            other => kind.push(other),
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_one_kind() {
        let failures = Failures::default();
        for reason in [
            "the role is 'tool'; the template's roles are 5",
            "the role is 'user'; the template's roles are 12",
            "a message is NULL",
            "a",
            "b",
        ] {
            failures.add(reason);
        }
        let expected =
            "2 x the role is 'tool'; the template's roles are 5; 1 x a; 1 x a message is NULL";
        assert_eq!(failures.commonest(), expected);
    }

    #[test]
    fn a_share_ends_the_job() {
        let failures = Failures::default();
        let mut settings = ChesSettings::default();
        for _ in 0..600 {
            failures.add("a");
        }
        failures.add_rows(1_100, &settings).unwrap();
        settings.set_key("max_failed_fraction", "0.5").unwrap();
        let error = failures.add_rows(50, &settings).unwrap_err().to_string();
        assert!(error.contains("600 of 1150 rows failed"), "{error}");
        assert!(error.contains("600 x a"), "{error}");
        failures.add_rows(50, &settings).unwrap();
        let few = Failures::default();
        few.add("a");
        few.add_rows(999, &settings).unwrap();
        settings.set_key("max_failed_fraction", "0").unwrap();
        few.add_rows(1, &settings).unwrap_err();
    }
}
