//! Which device this is, and what its matrix multiplier can do.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::Fallible;
use crate::report::Report;

/// The oldest driver that knows CUDA 13.
#[cfg(feature = "cuda")]
const OLDEST_DRIVER: u32 = 580;

/// Tells of the device; gives it, and the operations a second of large products in the type that models
/// compute in there.
pub(crate) fn look(report: &mut Report, name: &str) -> Fallible<(Device, DType, f64)> {
    let (device, dtype) = match name.starts_with("cuda") {
        true => (cuda(report, name)?, DType::BF16),
        false => {
            let said = match name {
                "cpu-tensors" => "none: the CPU, by the steps of a GPU",
                _ => "none: the CPU",
            };
            report.figure("a", "card", "card", "none", said);
            (Device::Cpu, DType::F32)
        }
    };
    let peak = matmul_peak(&device, dtype)?;
    let what = format!("{} matmul peak", dtype.as_str());
    let said = format!("{:.1} TFLOP/s", peak / 1e12);
    report.figure("a", "matmul_peak_tflops", &what, peak / 1e12, &said);
    Ok((device, dtype, peak))
}

fn matmul_peak(device: &Device, dtype: DType) -> Fallible<f64> {
    let n = if device.is_cuda() { 8192 } else { 1024 };
    let a = Tensor::randn(0_f32, 1.0, (n, n), device)?.to_dtype(dtype)?;
    let b = a.t()?;
    let mut best: f64 = 0.0;
    for _ in 0..6 {
        device.synchronize()?;
        let began = Instant::now();
        for _ in 0..4 {
            a.matmul(&b)?;
        }
        device.synchronize()?;
        best = best.max(8.0 * (n as f64).powi(3) / began.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_report: &mut Report, _name: &str) -> Fallible<Device> {
    Err("this program was built without CUDA; --device cpu-tensors checks the half that needs no card".into())
}

#[cfg(feature = "cuda")]
fn cuda(report: &mut Report, name: &str) -> Fallible<Device> {
    let hint = "--device cpu-tensors checks the half that needs no card";
    // By the way that models take, which looks for the libraries too.
    let devices = datafusion_ches::devices(name).map_err(|reason| format!("{reason}; {hint}"))?;
    let device = devices.into_iter().next().ok_or("no device")?;
    let Device::Cuda(cuda) = &device else {
        return Err("not a CUDA device".into());
    };
    let stream = cuda.cuda_stream();
    let context = stream.context();
    let card = context.name()?;
    let (major, minor) = context.compute_capability()?;
    let (free, total) = context.mem_get_info()?;
    report.figure("a", "card", "card", card.clone(), &card);
    let capability = format!("{major}.{minor}");
    report.figure(
        "a",
        "compute_capability",
        "compute capability",
        capability.clone(),
        &capability,
    );
    let memory = format!(
        "{:.1} GB, {:.1} free",
        total as f64 / 1e9,
        free as f64 / 1e9
    );
    report.figure("a", "memory_gb", "memory", total as f64 / 1e9, &memory);
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let version = driver
        .split_whitespace()
        .find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()));
    match version {
        None => report.skip("a", "driver", "/proc/driver/nvidia/version says nothing"),
        Some(version) => {
            report.figure("a", "driver", "driver", version, version);
            let major = version
                .split('.')
                .next()
                .and_then(|major| major.parse::<u32>().ok());
            if major.is_some_and(|major| major < OLDEST_DRIVER) {
                let why = format!("{version} is older than {OLDEST_DRIVER}, the first for CUDA 13");
                report.fail("a", "driver", &why);
            }
        }
    }
    Ok(device)
}
