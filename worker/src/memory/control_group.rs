//! What Linux's control groups leave a process of its memory: containers, batch systems and systemd set such limits.

use std::fs::read_to_string;
use std::path::Path;

/// Names of the files of a version of control groups, and of the lines of `stat` that count cached files.
struct Version {
    limit: &'static str,
    used: &'static str,
    cached: [&'static str; 2],
}

const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};
const V2: Version = Version { limit: "memory.max", used: "memory.current", cached: ["inactive_file", "active_file"] };

/// Bytes left to the process under the tightest limit; `None` where there is none.
///
/// `root` is where control groups are mounted, `groups` the text of `/proc/self/cgroup`: `0::/path` of version 2,
/// `4:memory:/path` of version 1. The limits of all groups above count as well. A path that is not there is that of the
/// host, and the container's own group is mounted at the top.
pub(super) fn left(root: &Path, groups: &str) -> Option<u64> {
    let tightest = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, version) = match controllers {
            "" => (root.to_owned(), &V2),
            names if names.split(',').any(|name| name == "memory") => (root.join("memory"), &V1),
            _ => return None,
        };
        // What lies outside of the process's view is not mounted either.
        let path = path.trim_start_matches('/');
        let own = if path.split('/').any(|part| part == "..") { mount.clone() } else { mount.join(path) };
        let groups = own.ancestors().take_while(|group| group.starts_with(&mount));
        groups.filter_map(|group| version.left(group)).min()
    });
    tightest.min()
}

impl Version {
    /// Bytes left under the limit of one group. Cached files are given up for what is allocated.
    fn left(&self, group: &Path) -> Option<u64> {
        let number = |name: &str| read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        let (limit, used) = (number(self.limit)?, number(self.used)?);
        let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        let cached = lines.filter(|(name, _)| self.cached.contains(name)).filter_map(|(_, n)| n.parse::<u64>().ok());
        Some(limit.saturating_sub(used.saturating_sub(cached.sum())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(group: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(group).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(group.join(name), text).unwrap());
    }

    #[test]
    fn cached_files_are_not_used_and_the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("user.slice");
        let stat = "anon 100\ninactive_file 300\nactive_file 50\ninactive_anon 7\n";
        let full = ("memory.current", "900\n");
        write(&slice.join("job/step"), &[("memory.max", "max\n"), full]);
        write(&slice.join("job"), &[("memory.max", "1000\n"), full, ("memory.stat", stat)]);
        write(&slice, &[("memory.max", "1200\n"), full]);
        let left = |groups| left(root.path(), groups);
        // 1,000 - (900 - 350) in the middle, 1,200 - 900 above it.
        assert_eq!(left("3:cpu:/elsewhere\n0::/user.slice/job/step\n"), Some(300));
        assert_eq!(left("0::/user.slice/job/absent\n"), Some(300));
        write(&slice, &[("memory.max", "2000\n")]);
        assert_eq!(left("0::/user.slice/job/step\n"), Some(450));
        assert_eq!(left("0::/\n"), None);
        assert_eq!(left(""), None);
        // In a container the path may be the host's: its own group is at the top.
        write(root.path(), &[("memory.max", "950"), full]);
        assert_eq!(left("0::/docker/abc\n"), Some(50));
        assert_eq!(left("0::/../user.slice/job\n"), Some(50));
        write(root.path(), &[("memory.max", "800")]);
        assert_eq!(left("0::/\n"), Some(0));
    }

    #[test]
    fn the_first_version_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        let stat = ("memory.stat", "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 5\n");
        let used = ("memory.usage_in_bytes", "90\n");
        write(&root.path().join("memory/job"), &[("memory.limit_in_bytes", "100\n"), used, stat]);
        write(&root.path().join("memory"), &[("memory.limit_in_bytes", "9223372036854771712\n"), used]);
        assert_eq!(left(root.path(), "9:name=systemd:/\n4:memory:/job\n0::/\n"), Some(45));
        assert_eq!(left(root.path(), "4:cpu,memory:/\n"), Some(9_223_372_036_854_771_712 - 90));
    }
}
