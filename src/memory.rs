//! How much memory there is.

use sysinfo::System;

/// Bytes that this process could still take, within the limits of its container.
pub fn available() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let of_machine = system.available_memory();
    // What files are cached counts as used there, but is given up for those who need it.
    let of_container = system
        .cgroup_limits()
        .map(|limits| limits.total_memory.saturating_sub(limits.rss));
    of_container.map_or(of_machine, |free| free.min(of_machine))
}
