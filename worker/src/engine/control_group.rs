//! The limits of the control groups that this process belongs to, in version 1 and 2 of the kernel's interface: memory
//! and CPU time. A limit holds for everything below its group, so the tightest of the group and all its ancestors
//! counts. Containers and systemd units limit processes this way.
//!
//! References: [version 2](https://docs.kernel.org/admin-guide/cgroup-v2.html),
//! [version 1](https://docs.kernel.org/admin-guide/cgroup-v1/index.html).

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The files of the running system.
pub(super) const SYSTEM: &str = "/";

/// The tightest limit on memory in bytes; `None` if there is none. `root` is [`SYSTEM`] except in tests.
pub(super) fn memory(root: &Path) -> Option<u64> {
    let limits = groups(root, "memory").into_iter().flat_map(|group| {
        // Above `high` the kernel slows a process down until it hardly runs.
        ["memory.max", "memory.high", "memory.limit_in_bytes"].map(|file| number(&group.join(file)))
    });
    limits.flatten().min()
}

/// The tightest limit on CPU time, in CPUs; `None` if there is none.
pub(super) fn cpus(root: &Path) -> Option<f64> {
    let limits = groups(root, "cpu").into_iter().filter_map(|group| {
        let (quota, period) = match fs::read_to_string(group.join("cpu.max")) {
            Ok(text) => {
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
            }
            // A quota of -1 is none.
            Err(_) => (number(&group.join("cpu.cfs_quota_us"))?, number(&group.join("cpu.cfs_period_us"))?),
        };
        (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
    });
    limits.reduce(f64::min)
}

/// How many threads make use of the CPUs that this process may use: as many as it may run on, or fewer under a quota.
pub(super) fn threads(root: &Path) -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match cpus(root) {
        Some(cpus) => allowed.min(cpus.ceil() as usize).max(1),
        None => allowed,
    }
}

/// The value of a file that is one number; `None` for anything else, such as `max`.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The folders of this process's group and its ancestors, in each hierarchy that may limit `controller`.
fn groups(root: &Path, controller: &str) -> Vec<PathBuf> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let mounts: Vec<Mount> = read("proc/self/mountinfo").lines().filter_map(Mount::parse).collect();
    let mut groups = Vec::new();
    for line in read("proc/self/cgroup").lines() {
        // hierarchy:controllers:path; version 2 has no controllers here.
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
        let is_unified = controllers.is_empty();
        if !is_unified && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let holds = |mount: &&Mount| {
            if is_unified { mount.is_unified } else { !mount.is_unified && mount.has(controller) }
        };
        for mount in mounts.iter().filter(holds) {
            groups.extend(mount.groups(root, path));
        }
    }
    groups
}

/// A mounted hierarchy of control groups.
struct Mount {
    is_unified: bool,
    options: String,
    /// The group that is visible at the mount point: not the root inside a container that shares the host's namespace.
    top: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Parses a line of `mountinfo`; `None` if it is not about control groups.
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (top, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let is_unified = match kind.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let options = kind.nth(1).unwrap_or_default().to_owned();
        Some(Self { is_unified, options, top: unescaped(top).into(), point: unescaped(point).into() })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// The folders of the group at `path` and of its ancestors, as far as they are visible.
    fn groups(&self, root: &Path, path: &str) -> Vec<PathBuf> {
        let point = root.join(self.point.strip_prefix("/").unwrap_or(&self.point));
        // A group outside of the mount, such as `/../other`, cannot be read; the top of the mount can.
        let inside = Path::new(path).strip_prefix(&self.top).unwrap_or(Path::new(""));
        let is_plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
        let inside = if is_plain { inside } else { Path::new("") };
        inside.ancestors().map(|group| point.join(group)).collect()
    }
}

/// Paths in `mountinfo` have spaces and the like as three octal digits.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (code, character)| path.replace(code, character))
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
mod tests {
    use std::process::Command;

    use super::*;

    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
    const MEMORY: &str = "36 32 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const CPU: &str = "37 32 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    /// A made-up system of files with their contents.
    fn system(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mountinfo)].iter().chain(files) {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_of_all_ancestors_counts_in_version_2() {
        let root = system(
            "0::/system.slice/pyrograph.service\n",
            UNIFIED,
            &[
                ("sys/fs/cgroup/system.slice/memory.max", "3000\n"),
                ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/system.slice/pyrograph.service/memory.max", "max\n"),
                ("sys/fs/cgroup/system.slice/pyrograph.service/memory.high", "4000\n"),
                ("sys/fs/cgroup/system.slice/pyrograph.service/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/other/memory.max", "1\n"),
            ],
        );
        assert_eq!((memory(root.path()), cpus(root.path())), (Some(3000), Some(1.5)));
        assert!((1..=2).contains(&threads(root.path())));
    }

    #[test]
    fn the_tightest_of_all_ancestors_counts_in_version_1() {
        let root = system(
            "12:memory:/slurm/job_7/step_0\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/other\n0::/\n",
            &format!("{MEMORY}{CPU}"),
            &[
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "5000\n"),
                ("sys/fs/cgroup/memory/slurm/job_7/step_0/memory.limit_in_bytes", "6000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us", "50000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!((memory(root.path()), cpus(root.path()), threads(root.path())), (Some(5000), Some(0.5), 1));
    }

    /// Docker shows a container its own group at the mount point. With the host's namespace, paths are the host's.
    #[test]
    fn a_container_finds_its_group_in_both_namespaces() {
        let limit = [("sys/fs/cgroup/memory.max", "7000\n"), ("sys/fs/cgroup/inner/memory.max", "8000\n")];
        let below = "30 24 0:26 /docker/a\\040b /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (cgroup, mountinfo) in
            [("0::/inner\n", UNIFIED), ("0::/docker/a b/inner\n", below), ("0::/../other\n", UNIFIED)]
        {
            assert_eq!(memory(system(cgroup, mountinfo, &limit).path()), Some(7000), "{cgroup}");
        }
    }

    #[test]
    fn nothing_is_no_limit() {
        let root = system("", "", &[]);
        assert_eq!((memory(root.path()), cpus(root.path())), (None, None));
        let root = system("0::/a\nnonsense\n", &format!("nonsense\n{UNIFIED}"), &[("sys/fs/cgroup/a/cpu.max", "?\n")]);
        assert_eq!((memory(root.path()), cpus(root.path())), (None, None));
        assert!(threads(root.path()) >= 1);
    }

    /// Runs only as a child of [`a_real_group_limits_memory`].
    #[test]
    #[ignore = "a part of the other test"]
    fn print_the_limit() {
        println!("\nlimit {:?}", memory(Path::new(SYSTEM)));
    }

    #[test]
    fn a_real_group_limits_memory() {
        const LIMIT: u64 = 1500 << 20;
        let Some(parent) = groups(Path::new(SYSTEM), "memory").into_iter().next() else {
            return println!("skipped: a_real_group_limits_memory: this process has no control group for memory");
        };
        let parent = parent.join(format!("pyrograph-test-{}", std::process::id()));
        let inner = parent.join("inner");
        let make = || {
            fs::create_dir_all(&inner)?;
            let file = ["memory.max", "memory.limit_in_bytes"].into_iter().find(|file| parent.join(file).exists());
            fs::write(parent.join(file.unwrap_or("memory.max")), LIMIT.to_string())
        };
        let output = make().and_then(|()| {
            let mut child = Command::new("sh");
            child.args(["-c", "echo $$ > \"$1/cgroup.procs\" || exit 9; shift; exec \"$@\"", "sh"]).arg(&inner);
            child.arg(std::env::current_exe()?).args(["--ignored", "--exact", "--nocapture"]);
            child.arg("engine::control_group::tests::print_the_limit").output()
        });
        let removed = [fs::remove_dir(&inner), fs::remove_dir(&parent)];
        match output {
            Ok(output) if output.status.code() != Some(9) => {
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains(&format!("limit Some({LIMIT})")), "{text}");
                assert!(removed.iter().all(Result::is_ok), "{removed:?}");
            }
            other => println!("skipped: a_real_group_limits_memory: no group can be made here: {other:?}"),
        }
    }
}
