//! transformers on the model and pairs that were timed, where there is a Python with torch.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Fallible;
use crate::report::Report;

/// Scores of both in bf16 differ by less in the median.
const MEDIAN_APART: f64 = 0.05;

/// Times transformers, for so long at most; `rate` is our tokens a second.
pub(crate) fn beside(
    report: &mut Report,
    script: &Path,
    model: &Path,
    rate: f64,
    patience: Duration,
) -> Fallible<()> {
    let began = Instant::now();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has_torch = Command::new(&python)
        .args([
            "-c",
            "import torch, transformers; assert torch.cuda.is_available()",
        ])
        .stderr(Stdio::null())
        .status();
    if !has_torch.is_ok_and(|status| status.success()) {
        report.skip(
            "f",
            "transformers",
            &format!("{python} has no torch with CUDA, or no transformers"),
        );
        return Ok(());
    }
    let mut child = Command::new(&python)
        .arg(script)
        .arg(model)
        .arg(rate.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let (line, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for read in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = line.send(read);
        }
    });
    loop {
        match lines.recv_timeout(patience.saturating_sub(began.elapsed())) {
            Ok(read) => {
                let Ok(found) = serde_json::from_str::<Value>(&read) else {
                    continue;
                };
                let way = found["way"].as_str().unwrap_or("?").to_owned();
                let number = |key: &str| found[key].as_f64().unwrap_or(f64::NAN);
                let said = format!(
                    "{:.0} tokens/s: ches is {:.2} × as fast; scores differ by {:.1e} in the median",
                    number("tokens_per_second"),
                    number("ches_over_this"),
                    number("median_difference")
                );
                let what = format!("transformers, {way}");
                let apart = number("median_difference");
                report.figure("f", &what, &what, found, &said);
                if apart.is_nan() || apart > MEDIAN_APART {
                    report.fail(
                        "f",
                        &what,
                        &format!("scores differ by {apart:.1e} in the median"),
                    );
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                report.late("f", "the rest of transformers");
                break;
            }
        }
    }
    let status = child.wait()?;
    if status.code().is_some_and(|code| code != 0) {
        let why = format!("the script ended with {status}");
        report.fail("f", "transformers", &why);
    }
    Ok(())
}
