//! The devices that a model runs on, and what it computes in there.

use candle_core::{DType, Device};
use ches_udfs::ModelDtype;

use crate::files::weights::Target;

/// The targets that `ches.device` and `ches.dtype` name, one for each device.
///
/// # Errors
/// When this build or this machine has no such device.
pub(crate) fn targets(setting: &str, dtype: ModelDtype) -> Result<Vec<Target>, String> {
    let devices = open(setting)?;
    let target = |device: Device| Target {
        by_tensors: setting == CPU_BY_TENSORS,
        dtype: match dtype {
            ModelDtype::F32 => DType::F32,
            ModelDtype::Bf16 => DType::BF16,
            ModelDtype::F16 => DType::F16,
            ModelDtype::Auto if device.is_cuda() => DType::BF16,
            ModelDtype::Auto => DType::F32,
        },
        device,
    };
    Ok(devices.into_iter().map(target).collect())
}

/// The CPU, by the steps that other devices take ([`Decoder::by_tensors`](crate::decoder::Decoder::by_tensors)):
/// what is tested where there is no other device.
const CPU_BY_TENSORS: &str = "cpu-tensors";

/// Opens the devices that a value of `ches.device` names, at least one.
///
/// # Errors
/// When this build or this machine has no such device.
pub fn open(setting: &str) -> Result<Vec<Device>, String> {
    match setting {
        "cpu" | CPU_BY_TENSORS => Ok(vec![Device::Cpu]),
        "metal" => Ok(vec![metal::open()?]),
        "cuda" => Ok(vec![cuda::open(0)?]),
        "auto" => Ok(every_gpu().unwrap_or_else(|reason| {
            if cfg!(feature = "cuda") {
                tracing::warn!("computing on CPU: {reason}");
            }
            vec![Device::Cpu]
        })),
        other => {
            let ordinals = other.strip_prefix("cuda:").unwrap_or_default().split(',');
            let mut opened: Vec<(usize, Device)> = Vec::new();
            for ordinal in ordinals {
                let refuse = |_| format!("'{other}' is no device; accepted: cuda:0 or cuda:0,1");
                let ordinal = ordinal.parse().map_err(refuse)?;
                if opened.iter().any(|(at, _)| *at == ordinal) {
                    return Err(format!("'{other}' names device {ordinal} twice"));
                }
                opened.push((ordinal, cuda::open(ordinal)?));
            }
            Ok(opened.into_iter().map(|(_, device)| device).collect())
        }
    }
}

fn every_gpu() -> Result<Vec<Device>, String> {
    match cuda::count()? {
        0 => Err("there is no CUDA device".into()),
        count => (0..count).map(cuda::open).collect(),
    }
}

#[cfg(feature = "metal")]
mod metal {
    use candle_core::Device;

    pub(super) fn open() -> Result<Device, String> {
        Device::new_metal(0).map_err(|error| format!("the Metal device cannot be used: {error}"))
    }
}

#[cfg(not(feature = "metal"))]
mod metal {
    use candle_core::Device;

    pub(super) fn open() -> Result<Device, String> {
        Err("this build has no Metal support (cargo feature metal); accepted: auto, cpu".into())
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use candle_core::Device;
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    #[cfg(unix)]
    use crate::engine::cuda_libraries;

    /// The number of GPUs.
    pub(super) fn count() -> Result<usize, String> {
        let count = with_driver(CudaContext::device_count)?;
        let count = count.map_err(|error| format!("the CUDA driver says {error}"))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// One for all models: whoever opens a device loads every kernel anew.
    pub(super) fn open(ordinal: usize) -> Result<Device, String> {
        static OPENED: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = opened.get(&ordinal) {
            return Ok(device.clone());
        }
        let device = with_driver(|| {
            #[cfg(unix)]
            cuda_libraries::load()?;
            Ok::<_, String>(with_one_stream(ordinal))
        })??;
        let device =
            device.map_err(|error| format!("CUDA device {ordinal} cannot be used: {error}"))?;
        opened.insert(ordinal, device.clone());
        Ok(device)
    }

    /// A device with one stream for all threads, so that what one thread has asked for is done before what
    /// another asks for later. That of `Device::new_cuda` is another stream in each thread, and its cuBLAS handle
    /// would be in use on several of them at once.
    fn with_one_stream(ordinal: usize) -> candle_core::Result<Device> {
        let device = Device::new_cuda_with_stream(ordinal)?;
        if let Device::Cuda(device) = &device {
            // SAFETY: events order what is done on several streams, and there is one.
            unsafe { device.disable_event_tracking() };
        }
        Ok(device)
    }

    /// The bindings panic where there is no driver.
    fn with_driver<T>(work: impl FnOnce() -> T) -> Result<T, String> {
        let names = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"];
        // SAFETY: loading the driver runs its own initialisation and nothing of ours.
        let is_there = |name: &&str| unsafe { libloading::Library::new(*name) }.is_ok();
        if names.iter().any(is_there) {
            Ok(work())
        } else {
            Err("the CUDA driver (libcuda) cannot be loaded".into())
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use candle_core::Device;

    pub(super) fn count() -> Result<usize, String> {
        Err("this build has no CUDA support (cargo feature cuda)".into())
    }

    pub(super) fn open(_ordinal: usize) -> Result<Device, String> {
        Err("this build has no CUDA support (cargo feature cuda); accepted: auto, cpu".into())
    }
}
