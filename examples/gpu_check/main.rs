//! All that there is to know about a card, in one run of under nine minutes: what it is, whether it gives
//! the right numbers, how fast it is, and how it bears little memory. Prints a table in Markdown as it goes and
//! one line of JSON at last; ends with 0 if nothing failed, 1 if something did, 2 if it could not begin, 3 if
//! nothing failed and time ran out before the end.
//!
//! ```text
//! gpu_check [--device cuda | cpu-tensors] [--goldens FOLDER] [--work FOLDER] [--shapes NAME,…]
//! ```
//!
//! `make gpu-check` makes a folder of it that runs where there is nothing but a driver and CUDA's libraries.

mod card;
mod report;
mod shapes;
#[path = "../../tests/suites/mod.rs"]
mod suites;
#[path = "../../tests/support/mod.rs"]
mod support;
mod throughput;
mod transformers;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use report::{Outcome, Report};
use shapes::{SHAPES, Shape};
use suites::{Check, Subject, caught};
use throughput::On;

pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// When a part is not begun any more.
const LATEST: Duration = Duration::from_secs(480);

struct Arguments {
    device: String,
    goldens: PathBuf,
    work: PathBuf,
    /// Whether models may stay there.
    keeps_work: bool,
    script: PathBuf,
    shapes: Vec<&'static Shape>,
}

impl Arguments {
    fn read() -> Fallible<Self> {
        let beside = std::env::current_exe()?
            .parent()
            .map(PathBuf::from)
            .unwrap_or_default();
        let in_project = |path: &str| support::root().join(path);
        let either = |name: &str, path: &str| {
            let beside = beside.join(name);
            if beside.exists() {
                beside
            } else {
                in_project(path)
            }
        };
        let mut read = Self {
            device: "cuda".into(),
            goldens: either("goldens", "tests/goldens"),
            work: std::env::temp_dir().join(format!("ches-gpu-check-{}", std::process::id())),
            keeps_work: false,
            script: either("gpu_with_transformers.py", "bench/gpu_with_transformers.py"),
            shapes: Vec::new(),
        };
        let mut names: Option<String> = None;
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{name} takes a value"));
            match name.as_str() {
                "--device" => read.device = value()?,
                "--goldens" => read.goldens = value()?.into(),
                "--work" => {
                    read.work = value()?.into();
                    read.keeps_work = true;
                }
                "--shapes" => names = Some(value()?),
                _ => {
                    return Err(format!(
                        "'{name}'; accepted: --device, --goldens, --work, --shapes"
                    )
                    .into());
                }
            }
        }
        let on_card = read.device.starts_with("cuda");
        let names = names.unwrap_or(
            if on_card {
                "llama-3-8b,smollm2-135m"
            } else {
                "tiny"
            }
            .into(),
        );
        for name in names.split(',') {
            let shape = SHAPES.iter().find(|shape| shape.name == name);
            read.shapes.push(shape.ok_or_else(|| {
                let all: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
                format!("no shape '{name}'; accepted: {}", all.join(", "))
            })?);
        }
        Ok(read)
    }
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Late) => ExitCode::from(3),
        Err(error) => {
            eprintln!("gpu_check: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Fallible<Outcome> {
    let arguments = Arguments::read()?;
    if !arguments.goldens.join("families").is_dir() {
        return Err(format!("no goldens in {}", arguments.goldens.display()).into());
    }
    std::fs::create_dir_all(&arguments.work)?;
    let outcome = look(&arguments).await;
    if !arguments.keeps_work {
        std::fs::remove_dir_all(&arguments.work)?;
    }
    outcome
}

async fn look(arguments: &Arguments) -> Fallible<Outcome> {
    let mut report = Report::new();
    let (device, dtype, peak) = card::look(&mut report, &arguments.device)?;
    let on = On {
        device: &device,
        name: &arguments.device,
        dtype,
        peak,
    };
    let subject = Subject {
        device: arguments.device.clone(),
        goldens: arguments.goldens.clone(),
    };

    parity(&mut report, &subject).await;

    let mut rates = Vec::new();
    for shape in &arguments.shapes {
        let what = format!("throughput of {}", shape.name);
        if is_late(&mut report, "c", &what) {
            continue;
        }
        match throughput::whole_query(&mut report, shape, &arguments.work, &on).await {
            Ok(rate) => rates.push((shape, rate)),
            Err(error) => report.fail("c", &what, &error.to_string()),
        }
        let what = format!("steps of {}", shape.name);
        if is_late(&mut report, "c", &what) {
            continue;
        }
        if let Err(error) = throughput::steps(&mut report, shape, &arguments.work, &on) {
            report.fail("c", &what, &error.to_string());
        }
    }

    if !is_late(&mut report, "d", "predictions") {
        let checks = caught(suites::predictions::of_every_family(&subject)).await;
        record(&mut report, "d", "predictions of the families", checks);
        if let Some((shape, _)) = rates.last()
            && !is_late(&mut report, "d", "what predictions cost")
        {
            let priced = throughput::predictions(&mut report, shape, &arguments.work, &on).await;
            if let Err(error) = priced {
                report.fail("d", "what predictions cost", &error.to_string());
            }
        }
    }
    pressure(&mut report, &subject).await;
    if let Some((shape, rate)) = rates.first()
        && device.is_cuda()
        && !is_late(&mut report, "f", "transformers")
    {
        // Memory that was freed here is there for another process when the device is waited for.
        device.synchronize()?;
        let patience = Duration::from_secs(530).saturating_sub(report.elapsed());
        let model = arguments.work.join(shape.name);
        let found = transformers::beside(&mut report, &arguments.script, &model, *rate, patience);
        if let Err(error) = found {
            report.fail("f", "transformers", &error.to_string());
        }
    }
    Ok(report.finish())
}

fn is_late(report: &mut Report, part: &str, what: &str) -> bool {
    let is_late = report.elapsed() > LATEST;
    if is_late {
        report.late(part, what);
    }
    is_late
}

/// The numbers of the families, and attention by itself.
async fn parity(report: &mut Report, subject: &Subject) {
    let checks = caught(suites::families::in_f32(subject)).await;
    record(report, "b", "families in f32", checks);
    if !is_late(report, "b", "families in bf16 and f16") {
        let checks = caught(suites::families::in_half_precision(subject)).await;
        record(report, "b", "families in bf16 and f16", checks);
    }
    if is_late(report, "b", "attention against its definition") {
        return;
    }
    let checks = caught(async { suites::attention::against_its_definition(subject) }).await;
    for kernel in ["flash", "plain"] {
        let of_kernel = checks.as_ref().map_err(Clone::clone).map(|checks| {
            let mut checks = checks.clone();
            checks.retain(|check| check.name.starts_with(kernel));
            checks
        });
        let what = format!("{kernel} attention against its definition");
        match of_kernel {
            Ok(checks) if checks.is_empty() => {
                report.skip("b", &what, "not in this build or on this device")
            }
            of_kernel => record(report, "b", &what, of_kernel),
        }
    }
}

/// Little memory, dropped queries, several at once.
async fn pressure(report: &mut Report, subject: &Subject) {
    if is_late(
        report,
        "e",
        "little memory, dropped queries, several at once",
    ) {
        return;
    }
    let checks = caught(async {
        vec![
            suites::pressure::memory_limit(subject).await,
            suites::pressure::cancellation(subject).await,
            suites::pressure::at_once(subject).await,
        ]
    });
    record(
        report,
        "e",
        "memory limit, a dropped query, sessions at once",
        checks.await,
    );
    for (what, why, check) in [
        (
            "a batch that does not fit",
            "needs a GPU",
            caught(suites::pressure::out_of_memory(subject)).await,
        ),
        (
            "cuda:0,1",
            "needs two GPUs",
            caught(suites::pressure::two_devices(subject)).await,
        ),
    ] {
        match check {
            Ok(None) => report.skip("e", what, why),
            Ok(Some(check)) => record(report, "e", what, Ok(vec![check])),
            Err(panic) => record(report, "e", what, Err(panic)),
        }
    }
}

fn record(report: &mut Report, part: &str, what: &str, checks: Result<Vec<Check>, String>) {
    match checks {
        Ok(checks) => report.checks(part, what, &checks),
        Err(panic) => report.fail(part, what, &panic),
    }
}
