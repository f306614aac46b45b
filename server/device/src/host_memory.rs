//! How much of the host's memory can still be taken, and pinned: what a system and its limits on this process leave.
//!
//! Reads what Linux tells; elsewhere nothing is known. Must not know what the memory is for.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes that can be taken without driving out anything but caches; none where the system does not tell.
pub fn available_bytes() -> Option<usize> {
    let machine = machine_bytes(&read_to_string("/proc/meminfo").ok()?)?;
    let group = read_to_string("/proc/self/cgroup").ok();
    // A container sees its own group as the root; a service's limit may be any of its ancestors'.
    let path = group.as_deref().and_then(group_path).unwrap_or("");
    let root = Path::new("/sys/fs/cgroup");
    let groups = Path::new(path).ancestors().map(|ancestor| root.join(ancestor));
    Some(groups.filter_map(|dir| limited_bytes(&dir)).fold(machine, usize::min))
}

/// proc(5): "an estimate of how much memory is available for starting new applications, without swapping".
fn machine_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

/// The group of cgroup v2, relative to their root.
fn group_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// What a group's limit leaves, its caches of files aside; none without a limit.
fn limited_bytes(dir: &Path) -> Option<usize> {
    let number = |name: &str| read_to_string(dir.join(name)).ok()?.trim().parse::<usize>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cached = ["inactive_file ", "active_file "].map(|name| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok()).unwrap_or(0)
    });
    Some(limit.saturating_sub(used.saturating_sub(cached.iter().sum())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_understood() {
        let meminfo = "MemTotal:       24689764 kB\nMemFree:  1 kB\nMemAvailable:   20480 kB\n";
        assert_eq!(machine_bytes(meminfo), Some(20 << 20));
        assert_eq!(machine_bytes("MemTotal: 1 kB\n"), None);
        assert_eq!(group_path("1:cpu:/a\n0::/system.slice/x.service\n"), Some("system.slice/x.service"));

        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(limited_bytes(dir.path()), None);
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        assert_eq!(limited_bytes(dir.path()), Some(300));
        write("memory.stat", "anon 100\ninactive_file 150\nactive_file 50\n");
        assert_eq!(limited_bytes(dir.path()), Some(500));
        write("memory.max", "max\n");
        assert_eq!(limited_bytes(dir.path()), None);
    }
}
