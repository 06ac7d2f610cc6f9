//! A progress line on stderr while the model runs.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion_ches::Observer;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

/// A query scores batch after batch; a pause longer than this between two means another query.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows rows and tokens per second of the query that scores.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that are being answered.
    calls: usize,
    rows: usize,
    tokens: usize,
    began: Option<Instant>,
    ended: Option<Instant>,
    line: Option<ProgressBar>,
}

impl State {
    fn show(&self) {
        let (Some(line), Some(began)) = (&self.line, self.began) else {
            return;
        };
        let elapsed = began.elapsed();
        let per_second = self.tokens as f64 / elapsed.as_secs_f64().max(0.001);
        line.set_message(format!(
            "{} rows, {} tokens/s, {}",
            HumanCount(self.rows as u64),
            HumanCount(per_second as u64),
            HumanDuration(elapsed)
        ));
        line.tick();
    }
}

impl Progress {
    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Observer for Progress {
    fn began(&self) {
        self.update(|state| {
            if state.ended.is_some_and(|ended| ended.elapsed() > PAUSE) {
                *state = State::default();
            }
            state.calls += 1;
            state.ended = None;
            state.began.get_or_insert_with(Instant::now);
            state.line.get_or_insert_with(|| {
                let line = ProgressBar::new_spinner();
                match ProgressStyle::with_template("{spinner} {msg}") {
                    Ok(style) => line.with_style(style),
                    Err(_) => line,
                }
            });
        });
    }

    fn scored(&self, rows: usize, tokens: usize) {
        self.update(|state| {
            state.rows += rows;
            state.tokens += tokens;
            state.show();
        });
    }

    fn remembered(&self, rows: usize) {
        self.update(|state| {
            state.rows += rows;
            state.show();
        });
    }

    fn ended(&self) {
        self.update(|state| {
            state.calls -= 1;
            if state.calls == 0 {
                state.ended = Some(Instant::now());
                // Before the result is printed over it.
                if let Some(line) = state.line.take() {
                    line.finish_and_clear();
                }
            }
        });
    }
}
