//! The device that a model runs on, and what it computes in there.

use candle_core::{DType, Device};
use ches_udfs::ModelDtype;

use crate::weights::Target;

/// The target that `ches.device` and `ches.dtype` name.
///
/// # Errors
/// When this build or this machine has no such device.
pub fn target(setting: &str, dtype: ModelDtype) -> Result<Target, String> {
    let device = open(setting)?;
    let dtype = match dtype {
        ModelDtype::F32 => DType::F32,
        ModelDtype::Bf16 => DType::BF16,
        ModelDtype::F16 => DType::F16,
        ModelDtype::Auto if device.is_cuda() => DType::BF16,
        ModelDtype::Auto => DType::F32,
    };
    Ok(Target { device, dtype })
}

/// Opens the device that `ches.device` names.
///
/// # Errors
/// When this build or this machine has none such.
fn open(setting: &str) -> Result<Device, String> {
    match setting {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(cuda(0).unwrap_or(Device::Cpu)),
        "cuda" => cuda(0),
        other => match other.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => cuda(ordinal),
            _ => Err(format!(
                "'{other}' names several devices; supported: one, such as cuda:0"
            )),
        },
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device, String> {
    // The CUDA bindings panic where there is no driver.
    match std::panic::catch_unwind(|| Device::new_cuda(ordinal)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(format!("CUDA device {ordinal} cannot be used: {error}")),
        Err(_) => Err("the CUDA driver cannot be loaded".into()),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_ordinal: usize) -> Result<Device, String> {
    Err("this build has no CUDA support (cargo feature cuda); accepted: auto, cpu".into())
}
