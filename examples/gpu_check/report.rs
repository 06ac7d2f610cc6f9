//! One table, a line at a time, and what it comes to.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::suites::Check;

/// What was found so far.
pub(crate) struct Report {
    began: Instant,
    failed: Vec<String>,
    skipped: Vec<String>,
    late: Vec<String>,
    figures: Map<String, Value>,
}

/// What the run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What could be run was, and holds.
    Passed,
    /// Something does not hold.
    Failed,
    /// What was run holds; for the rest there was no time.
    Late,
}

impl Report {
    /// Prints the table's head.
    pub(crate) fn new() -> Self {
        say("| part | what | result |\n|---|---|---|");
        Self {
            began: Instant::now(),
            failed: Vec::new(),
            skipped: Vec::new(),
            late: Vec::new(),
            figures: Map::new(),
        }
    }

    /// Since the program was started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn line(&self, part: &str, what: &str, result: &str) {
        let cell = |text: &str| text.replace('\n', " ").replace('|', "\\|");
        say(&format!("| {part} | {} | {} |", cell(what), cell(result)));
    }

    /// A line of the table, and in the JSON under `key`.
    pub(crate) fn figure(
        &mut self,
        part: &str,
        key: &str,
        what: &str,
        value: impl Into<Value>,
        said: &str,
    ) {
        self.line(part, what, said);
        self.figures.insert(key.into(), value.into());
    }

    /// Something that does not hold.
    pub(crate) fn fail(&mut self, part: &str, what: &str, why: &str) {
        self.line(part, what, &format!("**failed**: {why}"));
        self.failed.push(format!("{what}: {why}"));
    }

    /// Something that was not looked at.
    pub(crate) fn skip(&mut self, part: &str, what: &str, why: &str) {
        self.line(part, what, &format!("not run: {why}"));
        self.skipped.push(format!("{what}: {why}"));
    }

    /// Something that there was no time for.
    pub(crate) fn late(&mut self, part: &str, what: &str) {
        self.line(part, what, "not run: out of time");
        self.late.push(what.into());
    }

    /// A line for comparisons of one kind, and one for each that fails.
    pub(crate) fn checks(&mut self, part: &str, what: &str, checks: &[Check]) {
        let passing = checks.iter().filter(|check| check.passes()).count();
        let of_bound = |check: &&Check| match check.of_bound.is_nan() {
            true => f64::INFINITY,
            false => check.of_bound,
        };
        let worst = checks
            .iter()
            .max_by(|a, b| of_bound(a).total_cmp(&of_bound(b)));
        let worst = worst.map_or_else(String::new, |worst| {
            format!(
                "; {:.3} of what is accepted at most ({})",
                worst.of_bound, worst.name
            )
        });
        let said = format!("{passing} of {} agree{worst}", checks.len());
        let value = json!({"compared": checks.len(), "agree": passing});
        self.figure(part, what, what, value, &said);
        for check in checks.iter().filter(|check| !check.passes()) {
            let why = format!(
                "{:.3} of what is accepted; {}",
                check.of_bound, check.detail
            );
            self.fail(part, &check.name, &why);
        }
        if checks.is_empty() {
            self.fail(part, what, "nothing was compared");
        }
    }

    /// Prints the JSON; tells what the run came to.
    pub(crate) fn finish(self) -> Outcome {
        let outcome = match (self.failed.is_empty(), self.late.is_empty()) {
            (true, true) => Outcome::Passed,
            (true, false) => Outcome::Late,
            (false, _) => Outcome::Failed,
        };
        let json = json!({
            "passed": outcome == Outcome::Passed, "failed": self.failed, "not_run": self.skipped,
            "out_of_time": self.late, "seconds": self.began.elapsed().as_secs_f64().round(),
            "figures": self.figures,
        });
        say(&format!("\n{json}"));
        outcome
    }
}

/// Prints lines at once: whoever cuts the run short still has what is known, and whoever stops reading does not
/// stop it.
fn say(lines: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{lines}").and_then(|()| out.flush());
}
