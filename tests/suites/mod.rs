//! What a device is checked by. `cargo test` runs it on the CPU, by its own steps and by those of other
//! devices; the example `gpu_check` runs it on a card.

// Each program uses a part of this.
#![allow(dead_code)]

pub(crate) mod attention;
pub(crate) mod families;
pub(crate) mod predictions;
pub(crate) mod pressure;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use futures::FutureExt;

use crate::support::root;

/// A device, and where the goldens are.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// As in `ches.device`; `cpu-tensors` is the CPU by the steps of other devices.
    pub device: String,
    /// The folder `tests/goldens`.
    pub goldens: PathBuf,
}

impl Subject {
    /// What `cargo test` checks: the device that `CHES_TEST_DEVICE` names, or else the CPU in both ways.
    pub(crate) fn of_tests() -> Vec<Self> {
        let devices = match std::env::var("CHES_TEST_DEVICE") {
            Ok(device) => vec![device],
            Err(_) => vec!["cpu".into(), "cpu-tensors".into()],
        };
        let subject = |device| Self {
            device,
            goldens: root().join("tests/goldens"),
        };
        devices.into_iter().map(subject).collect()
    }

    /// The folder of a family's goldens.
    pub(crate) fn family(&self, family: &str) -> PathBuf {
        self.goldens.join("families").join(family)
    }

    /// The tiny model of a family.
    pub(crate) fn model(&self, family: &str) -> String {
        let model = self.family(family).join("model");
        Path::to_str(&model).unwrap().to_owned()
    }
}

/// What a comparison came to.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// What was compared.
    pub name: String,
    /// The largest error, of what is accepted.
    pub of_bound: f64,
    /// More of it.
    pub detail: String,
}

impl Check {
    /// Whether the error is accepted; one that is no number is not.
    pub(crate) fn passes(&self) -> bool {
        self.of_bound <= 1.0
    }
}

/// What a suite finds, or what it panics with.
pub(crate) async fn caught<T>(suite: impl Future<Output = T>) -> Result<T, String> {
    let caught = AssertUnwindSafe(suite).catch_unwind().await;
    caught.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("a panic").to_owned()
    })
}

/// The checks of every family; one that panics is a check that does not pass, and the others go on.
async fn of_families<F: Future<Output = Vec<Check>>>(
    of_family: impl Fn(&'static str) -> F,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for family in datafusion_ches::families::model_types() {
        match caught(of_family(family)).await {
            Ok(found) => checks.extend(found),
            Err(panic) => checks.push(Check {
                name: family.to_owned(),
                of_bound: f64::NAN,
                detail: panic,
            }),
        }
    }
    checks
}

/// Panics with the checks that do not pass.
pub(crate) fn assert_pass(checks: Vec<Check>) {
    assert!(!checks.is_empty());
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.passes()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
