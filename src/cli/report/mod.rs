//! `ches report`: what is scored, and the HTML page that shows it.

mod charts;
mod collect;
mod columns;
mod cutoffs;
mod page;
mod statistics;
#[cfg(test)]
mod synthetic;
mod text;

use std::fs::File;
use std::path::{Path, PathBuf};

use datafusion::common::exec_datafusion_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use serde::Serialize;

use page::page;

/// Writes the report of a table, a file or a query.
///
/// # Errors
/// When it cannot be read or scored, or the file cannot be written.
pub(super) async fn write(ctx: &SessionContext, source: &str, file: &Path) -> Result<()> {
    // Scoring may take a night: the page's place is tried first, and taken when the page is whole.
    let unfinished = Unfinished::create(file)?;
    // Rows keep their numbers, and one that fails is counted with its reason.
    for (key, value) in [
        ("datafusion.execution.target_partitions", "1"),
        ("ches.on_error", "null"),
    ] {
        let state = ctx.state_ref();
        state.write().config_mut().options_mut().set(key, value)?;
    }
    let data = collect::collect(ctx, source).await?;
    let page = page(&data).map_err(|error| DataFusionError::External(Box::new(error)))?;
    unfinished.finish(&page)
}

/// A file beside the one that is written, which it becomes; removed if it does not.
struct Unfinished<'a> {
    file: &'a Path,
    part: PathBuf,
}

impl<'a> Unfinished<'a> {
    fn create(file: &'a Path) -> Result<Self> {
        let mut part = file.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let refuse = |reason: String| exec_datafusion_err!("{}: {reason}", file.display());
        if file.is_dir() {
            return Err(refuse("is a directory; accepted: a file".into()));
        }
        File::create(&part).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { file, part })
    }

    fn finish(self, text: &str) -> Result<()> {
        let written = std::fs::write(&self.part, text);
        let written = written.and_then(|()| std::fs::rename(&self.part, self.file));
        written.map_err(|error| exec_datafusion_err!("{}: {error}", self.file.display()))
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // Gone, if it was finished.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// The scores of one row, as `preference_scores` and `displacement` give them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Scored {
    pub ches: f64,
    pub ches_normalized: f64,
    pub last_hidden_similarity: f64,
    /// In [0, 1].
    pub normalized_edit_distance: f64,
    /// Nats per token and unit of an Adam-like step, as are the next three (the last two without
    /// the per token).
    pub chosen_rate_per_token: f64,
    pub rejected_rate_per_token: f64,
    pub chosen_rate: f64,
    pub rejected_rate: f64,
    /// `⟨G⁺, G⁻⟩ / ⟨G⁺, G⁺⟩`; None where it is not defined.
    pub overlap: Option<f64>,
    /// Nats.
    pub chosen_logprob: f64,
    pub rejected_logprob: f64,
    pub chosen_tokens: u32,
    pub rejected_tokens: u32,
    pub prompt_tokens: u32,
    /// Whether `max_length` cut one of the responses.
    pub truncated: bool,
}

/// A pair that is shown with its texts.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Its number in the data set, from 1.
    pub row: u64,
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    pub scores: Scored,
    /// Tokens and the change of their log-probability at the first position of the response, in
    /// nats per unit of step, largest first.
    pub gaining: Vec<(String, f64)>,
    pub losing: Vec<(String, f64)>,
}

/// What the page tells.
#[derive(Clone, Debug)]
pub(super) struct ReportData {
    pub title: String,
    /// The name of the table, or its SQL.
    pub source: String,
    /// The arguments of the score functions as they stand in SQL: `prompt, chosen, rejected`.
    pub arguments: String,
    /// Model, dtype, template, version, settings, date: names and values.
    pub facts: Vec<(String, String)>,
    /// All rows, with a score or without.
    pub rows: u64,
    /// Reasons, and the number of rows each.
    pub without_score: Vec<(String, u64)>,
    pub scored: Vec<Scored>,
    /// The pairs with the lowest `chosen_rate_per_token`, lowest first.
    pub worst: Vec<Shown>,
    /// The pairs with the highest `ches_normalized`, highest first.
    pub worst_by_ches: Vec<Shown>,
}
