//! A progress line on stderr while the model runs.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion_ches::Observer;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::watch::Watch;

/// How often the number of rows to come is estimated anew.
const ESTIMATE: Duration = Duration::from_secs(1);

/// Redrawn so many times a second at most.
const DRAWS: u8 = 4;

/// Shows how far the query is that scores: rows, tokens a second, time left, and what the cache had.
#[derive(Debug)]
pub(super) struct Progress {
    watch: Arc<Watch>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that are being answered.
    calls: usize,
    /// Rows with scores.
    rows: u64,
    /// Of these, from the cache.
    cached: u64,
    /// Tokens that the model was given.
    tokens: u64,
    began: Option<Instant>,
    /// What they are of.
    statement: usize,
    estimated: Option<Instant>,
    line: Option<ProgressBar>,
}

impl Progress {
    /// Of the plans that `watch` sees.
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            state: Mutex::default(),
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn show(&self, state: &mut State) {
        let (Some(line), Some(began)) = (&state.line, state.began) else {
            return;
        };
        let is_old = |at: Instant| at.elapsed() >= ESTIMATE;
        if state.estimated.is_none_or(is_old) {
            state.estimated = Some(Instant::now());
            match self.watch.expected_rows() {
                Some(rows) => line.set_length(rows.max(state.rows)),
                None => line.unset_length(),
            }
        }
        let per_second = state.tokens as f64 / began.elapsed().as_secs_f64().max(0.001);
        let mut message = format!("{} tokens/s", HumanCount(per_second as u64));
        if state.cached > 0 {
            message += &format!(", {} from the cache", HumanCount(state.cached));
        }
        line.set_message(message);
        line.set_position(state.rows);
    }
}

/// A line that counts rows.
fn line() -> ProgressBar {
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS));
    let of_all = |state: &ProgressState, text: &mut dyn Write| {
        let _ = match state.len() {
            Some(all) => write!(
                text,
                "{} of about {} rows, {} left",
                HumanCount(state.pos()),
                HumanCount(all),
                indicatif::HumanDuration(state.eta())
            ),
            None => write!(text, "{} rows", HumanCount(state.pos())),
        };
    };
    match ProgressStyle::with_template("{spinner} {rows}, {msg}, {elapsed}") {
        Ok(style) => line.with_style(style.with_key("rows", of_all)),
        Err(_) => line,
    }
}

impl Observer for Progress {
    fn began(&self) {
        self.update(|state| {
            let statement = self.watch.statement();
            if state.calls == 0 && state.statement != statement {
                *state = State {
                    statement,
                    ..State::default()
                };
            }
            state.calls += 1;
            state.began.get_or_insert_with(Instant::now);
            state.line.get_or_insert_with(line);
        });
    }

    fn scored(&self, rows: usize, tokens: usize) {
        self.update(|state| {
            state.rows += rows as u64;
            state.tokens += tokens as u64;
            self.show(state);
        });
    }

    fn remembered(&self, rows: usize) {
        self.update(|state| {
            state.rows += rows as u64;
            self.show(state);
        });
    }

    fn cached(&self, rows: usize, _tokens: usize) {
        self.update(|state| {
            state.rows += rows as u64;
            state.cached += rows as u64;
            self.show(state);
        });
    }

    fn ended(&self) {
        self.update(|state| {
            state.calls -= 1;
            if state.calls == 0 {
                // Before the result is printed over it.
                if let Some(line) = state.line.take() {
                    line.finish_and_clear();
                }
            }
        });
    }
}
