//! What the process and the machine have in memory.

mod control_group;

use std::path::Path;

/// Peak resident memory of this process in MiB since its start or the last [`reset_peak`]; `None` where the system
/// does not tell (only Linux does).
pub fn peak_rss_mib() -> Option<f64> {
    kib_line("/proc/self/status", "VmHWM:").map(|kib| kib as f64 / 1024.0)
}

/// Starts a new peak for [`peak_rss_mib`]. Returns whether the system allowed it.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Bytes that can still be allocated without swapping; `None` where the system does not tell.
///
/// The smaller of the machine's available memory and what is left under the limits of the process's control groups.
pub fn available_bytes() -> Option<u64> {
    let machine = kib_line("/proc/meminfo", "MemAvailable:").map(|kib| kib * 1024);
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok();
    let left = groups.and_then(|groups| control_group::left(Path::new("/sys/fs/cgroup"), &groups));
    machine.into_iter().chain(left).min()
}

/// The number on the line of a /proc file that starts with `key`.
fn kib_line(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn linux_tells() {
        assert!(super::peak_rss_mib().unwrap() > 1.0);
        assert!(super::available_bytes().unwrap() > 1 << 20);
    }
}
