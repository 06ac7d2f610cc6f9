//! How much memory there is.

use candle_core::Device;
use sysinfo::System;

/// Bytes that this process could still take, within the limits of its container.
pub(crate) fn available() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let of_machine = system.available_memory();
    // What files are cached counts as used there, but is given up for those who need it.
    let of_container = system
        .cgroup_limits()
        .map(|limits| limits.total_memory.saturating_sub(limits.rss));
    of_container.map_or(of_machine, |free| free.min(of_machine))
}

/// Bytes that are free on a GPU, and that it has, where that can be told.
#[cfg(feature = "cuda")]
pub(crate) fn available_on(device: &Device) -> Option<(u64, u64)> {
    let Device::Cuda(device) = device else {
        return None;
    };
    let stream = device.cuda_stream();
    // What was freed goes back to the device when its stream is waited for.
    stream.synchronize().ok()?;
    let (free, total) = stream.context().mem_get_info().ok()?;
    Some((free as u64, total as u64))
}

/// Bytes that are free on a GPU, and that it has, where that can be told.
#[cfg(not(feature = "cuda"))]
pub(crate) fn available_on(_device: &Device) -> Option<(u64, u64)> {
    None
}
