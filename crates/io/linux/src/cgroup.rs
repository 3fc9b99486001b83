//! Control groups on every layout a machine may have: version 1, version 2, or both at once. A group is one absolute
//! path, made in every hierarchy there is; limits go to whichever hierarchy holds their controller.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Context, Result, sys};

/// Where the hierarchies are mounted.
#[derive(Clone, Debug)]
pub struct Layout {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Clone, Debug)]
struct Hierarchy {
    mount: PathBuf,
    /// Empty: version 2.
    controllers: Vec<String>,
}

/// Limits in Kubernetes' terms; `None` leaves what is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub cpu_shares: Option<u64>,
    /// Microseconds a period; -1: no limit.
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    /// Bytes; -1: no limit.
    pub memory_bytes: Option<i64>,
    pub pids_max: Option<i64>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Files of version 2, written as given.
    pub unified: BTreeMap<String, String>,
}

/// What a container may do with devices, on version 1: `c 1:3 rwm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    Everything,
    Only(Vec<String>),
}

/// Usage as the kernel counts it. Bytes, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap_bytes: u64,
}

impl Layout {
    /// Reads the mount table of this process.
    pub fn detect() -> Result<Layout> {
        let table = fs::read_to_string("/proc/self/mountinfo").context(|| "reading the mount table".into())?;
        Ok(Layout::parse(&table))
    }

    fn parse(table: &str) -> Layout {
        let known =
            ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "name=systemd"];
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (left, right): (Vec<_>, Vec<_>) = (left.split(' ').collect(), right.split(' ').collect());
            let (Some(root), Some(mount), Some(kind), Some(options)) =
                (left.get(3), left.get(4), right.first(), right.get(2))
            else {
                continue;
            };
            let controllers: Vec<String> = match *kind {
                "cgroup" => options.split(',').filter(|o| known.contains(o)).map(str::to_owned).collect(),
                "cgroup2" => Vec::new(),
                _ => continue,
            };
            let seen = hierarchies.iter().any(|other| other.controllers == controllers);
            if *root == "/" && !seen && (*kind == "cgroup2" || !controllers.is_empty()) {
                hierarchies.push(Hierarchy { mount: PathBuf::from(*mount), controllers });
            }
        }
        Layout { hierarchies }
    }

    /// Whether version 2 is all there is.
    pub fn is_unified(&self) -> bool {
        self.hierarchies.iter().all(Hierarchy::is_v2)
    }

    pub fn is_empty(&self) -> bool {
        self.hierarchies.is_empty()
    }

    /// The group of this absolute path (`/coracle/…`).
    pub fn group(&self, path: &str) -> Group {
        let relative = path.trim_matches('/').to_owned();
        Group { layout: self.clone(), path: relative }
    }
}

impl Hierarchy {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// The folder itself first: mostly all above it is there, and each touch of a group waits for the kernel's one lock.
    fn make(&self, folder: &Path, delegate: bool) -> io::Result<()> {
        let parent = folder.parent().filter(|parent| parent.starts_with(&self.mount));
        if let Some(parent) = parent.filter(|_| delegate) {
            delegate_controllers(parent);
        }
        match (fs::create_dir(folder), parent) {
            (Ok(()), Some(_)) if self.has("cpuset") => inherit_cpuset(&self.mount, folder),
            (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound && parent != self.mount => {
                self.make(parent, delegate)?;
                return self.make(folder, delegate);
            }
            (Err(error), _) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(())
    }
}

/// Controllers of every hierarchy that this process is in, as mount options; empty for version 2.
pub fn hierarchies_of_self() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    table.lines().filter_map(|line| line.split(':').nth(1).map(str::to_owned)).collect()
}

#[derive(Clone, Debug)]
pub struct Group {
    layout: Layout,
    path: String,
}

impl Group {
    fn folders(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.layout.hierarchies.iter().map(|hierarchy| (hierarchy, hierarchy.mount.join(&self.path)))
    }

    fn folder_of(&self, controller: &str) -> Option<PathBuf> {
        self.folders().find(|(hierarchy, _)| hierarchy.has(controller)).map(|(_, folder)| folder)
    }

    fn unified_folder(&self) -> Option<PathBuf> {
        self.folders().find(|(hierarchy, _)| hierarchy.is_v2()).map(|(_, folder)| folder)
    }

    /// Makes the group, and those above it that are missing, in every hierarchy.
    pub fn create(&self) -> Result<()> {
        let unified = self.layout.is_unified();
        self.folders().try_for_each(|(hierarchy, folder)| {
            hierarchy.make(&folder, unified).context(|| format!("making the cgroup {}", folder.display()))
        })
    }

    /// The files that take a process id to move it here.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.folders().map(|(_, folder)| folder.join("cgroup.procs")).collect()
    }

    /// The file that counts kills for want of memory.
    pub fn oom_file(&self) -> Option<PathBuf> {
        let v1 = self.folder_of("memory").map(|folder| folder.join("memory.oom_control"));
        v1.or_else(|| self.unified_folder().map(|folder| folder.join("memory.events")))
    }

    pub fn apply(&self, limits: &Limits) -> Result<()> {
        if self.layout.is_unified() { self.apply_v2(limits) } else { self.apply_v1(limits) }
    }

    fn apply_v1(&self, limits: &Limits) -> Result<()> {
        if let Some(folder) = self.folder_of("cpu") {
            if let Some(shares) = limits.cpu_shares {
                set(&folder.join("cpu.shares"), &shares.max(2).to_string())?;
            }
            if let Some(period) = limits.cpu_period.filter(|period| *period > 0) {
                set(&folder.join("cpu.cfs_period_us"), &period.to_string())?;
            }
            if let Some(quota) = limits.cpu_quota.filter(|quota| *quota != 0) {
                set(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
        }
        if let (Some(folder), Some(bytes)) = (self.folder_of("memory"), limits.memory_bytes.filter(|bytes| *bytes != 0))
        {
            set(&folder.join("memory.limit_in_bytes"), &bytes.to_string())?;
        }
        if let (Some(folder), Some(count)) = (self.folder_of("pids"), limits.pids_max.filter(|count| *count != 0)) {
            set(&folder.join("pids.max"), &number_or_max(count))?;
        }
        if let Some(folder) = self.folder_of("cpuset") {
            set_unless_empty(&folder.join("cpuset.cpus"), &limits.cpuset_cpus)?;
            set_unless_empty(&folder.join("cpuset.mems"), &limits.cpuset_mems)?;
        }
        Ok(())
    }

    fn apply_v2(&self, limits: &Limits) -> Result<()> {
        let Some(folder) = self.unified_folder() else { return Ok(()) };
        if let Some(shares) = limits.cpu_shares {
            set(&folder.join("cpu.weight"), &weight_of_shares(shares).to_string())?;
        }
        if let Some(quota) = limits.cpu_quota.filter(|quota| *quota != 0) {
            let period = limits.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
            set(&folder.join("cpu.max"), &format!("{} {period}", number_or_max(quota)))?;
        }
        if let Some(bytes) = limits.memory_bytes.filter(|bytes| *bytes != 0) {
            set(&folder.join("memory.max"), &number_or_max(bytes))?;
        }
        if let Some(count) = limits.pids_max.filter(|count| *count != 0) {
            set(&folder.join("pids.max"), &number_or_max(count))?;
        }
        set_unless_empty(&folder.join("cpuset.cpus"), &limits.cpuset_cpus)?;
        set_unless_empty(&folder.join("cpuset.mems"), &limits.cpuset_mems)?;
        limits.unified.iter().try_for_each(|(file, value)| set(&folder.join(file), value))
    }

    /// Limits devices where version 1 has the controller; on version 2 there is no file for it.
    pub fn restrict_devices(&self, access: &DeviceAccess) -> Result<()> {
        let (Some(folder), DeviceAccess::Only(rules)) = (self.folder_of("devices"), access) else { return Ok(()) };
        set(&folder.join("devices.deny"), "a")?;
        let allow = folder.join("devices.allow");
        let file = fs::File::options().write(true).open(&allow).context(|| format!("opening {}", allow.display()))?;
        rules.iter().try_for_each(|rule| {
            let written = file.write_at(rule.as_bytes(), 0).map(drop);
            written.context(|| format!("writing {rule:?} to {}", allow.display()))
        })
    }

    pub fn usage(&self) -> Usage {
        let number =
            |path: PathBuf| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut usage = Usage::default();
        if let Some(folder) = self.folder_of("cpuacct") {
            usage.cpu_ns = number(folder.join("cpuacct.usage"));
        } else if let Some(folder) = self.unified_folder() {
            usage.cpu_ns = fields(&folder.join("cpu.stat")).get("usage_usec").copied().unwrap_or(0) * 1000;
        }
        let (current, stat, names) = if let Some(folder) = self.folder_of("memory") {
            let names = ["total_rss", "total_inactive_file", "total_pgfault", "total_pgmajfault"];
            let stat = fields(&folder.join("memory.stat"));
            usage.swap_bytes = stat.get("total_swap").copied().unwrap_or(0);
            (number(folder.join("memory.usage_in_bytes")), stat, names)
        } else if let Some(folder) = self.unified_folder() {
            let names = ["anon", "inactive_file", "pgfault", "pgmajfault"];
            usage.swap_bytes = number(folder.join("memory.swap.current"));
            (number(folder.join("memory.current")), fields(&folder.join("memory.stat")), names)
        } else {
            return usage;
        };
        let field = |index: usize| stat.get(names[index]).copied().unwrap_or(0);
        usage.memory_bytes = current;
        usage.rss_bytes = field(0);
        usage.working_set_bytes = current.saturating_sub(field(1));
        usage.page_faults = field(2);
        usage.major_page_faults = field(3);
        usage
    }

    /// How many processes are in the group and below it: each is in every hierarchy, so one is asked.
    pub fn process_count(&self) -> u64 {
        let mut found = Vec::new();
        if let Some(folder) = self.folder_of("memory").or_else(|| self.unified_folder()) {
            collect_processes(&folder, &mut found);
        }
        found.len() as u64
    }

    /// Every process in the group and below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut all = Vec::new();
        for (_, folder) in self.folders() {
            collect_processes(&folder, &mut all);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    pub fn exists(&self) -> bool {
        self.folders().any(|(_, folder)| folder.exists())
    }

    /// Kills every process of the group and below until none is left, or the time is over.
    pub fn kill(&self, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            let alive: Vec<i32> = self.processes().into_iter().filter(|pid| !is_zombie(*pid)).collect();
            if alive.is_empty() {
                return Ok(());
            }
            for pid in &alive {
                let _ = sys::kill(*pid, libc::SIGKILL);
            }
            if Instant::now() > end {
                let source = io::Error::from(ErrorKind::TimedOut);
                return Err(source).context(|| format!("killing {} processes of /{}", alive.len(), self.path));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes the group where nothing is in it any more; where something is, it stays.
    pub fn remove_if_empty(&self) {
        for (_, folder) in self.folders() {
            let _ = fs::remove_dir(&folder);
        }
    }

    /// Removes the group and those below it. A group is busy for a moment after its last process ended.
    pub fn remove(&self) -> Result<()> {
        for (_, folder) in self.folders() {
            let mut tries = 0;
            while let Err(error) = remove_tree(&folder) {
                tries += 1;
                if tries > 100 {
                    return Err(error).context(|| format!("removing the cgroup {}", folder.display()));
                }
                thread::sleep(Duration::from_millis(if tries < 20 { 1 } else { 10 }));
            }
        }
        Ok(())
    }
}

/// Moves a process into a group in all hierarchies in one burst: the first move may wait for the kernel, the others
/// then do not.
pub fn enter(procs_files: &[PathBuf], pid: i32) -> Result<()> {
    let pid = pid.to_string();
    procs_files.iter().try_for_each(|file| set(file, &pid))
}

/// Makes the next move of a process cheap: moves this one to where it is.
pub fn warm(layout: &Layout) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for hierarchy in layout.hierarchies.iter().filter(|hierarchy| !hierarchy.is_v2()) {
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            controllers.split(',').any(|name| hierarchy.has(name)).then(|| parts.next()).flatten()
        });
        if let Some(path) = path {
            let file = hierarchy.mount.join(path.trim_start_matches('/')).join("cgroup.procs");
            let _ = fs::write(file, std::process::id().to_string());
            return;
        }
    }
}

fn set(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).context(|| format!("writing {value:?} to {}", file.display()))
}

fn set_unless_empty(file: &Path, value: &str) -> Result<()> {
    if value.is_empty() { Ok(()) } else { set(file, value) }
}

fn number_or_max(number: i64) -> String {
    if number < 0 { "max".into() } else { number.to_string() }
}

/// Shares 2…262144 to weights 1…10000, as the OCI runtimes convert them.
fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9_999) / 262_142
}

/// What a controller is not there for is left out; a limit that needs it then says so.
fn delegate_controllers(folder: &Path) {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let given = read("cgroup.subtree_control");
    let is_given = |controller: &&str| given.split_whitespace().any(|known| known == *controller);
    for controller in read("cgroup.controllers").split_whitespace().filter(|controller| !is_given(controller)) {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new group has no processors and no memory until it is given some. Those below this one are born with them. What is
/// above it may have been made a moment ago by somebody who has not come to this yet.
fn inherit_cpuset(mount: &Path, group: &Path) {
    let is_empty =
        |folder: &Path| fs::read_to_string(folder.join("cpuset.cpus")).is_ok_and(|own| own.trim().is_empty());
    let Some(parent) = group.parent().filter(|_| group != mount && is_empty(group)) else { return };
    inherit_cpuset(mount, parent);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(parent.join(file)) {
            let _ = fs::write(group.join(file), value.trim());
        }
    }
    let _ = fs::write(group.join("cgroup.clone_children"), "1");
}

fn fields(file: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let parse =
        |line: &str| line.split_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    text.lines().filter_map(parse).collect()
}

fn collect_processes(folder: &Path, into: &mut Vec<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), into);
        }
    }
}

/// Whether a process has ended and only waits to be reaped.
pub fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_found_once_each() {
        let table = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                     31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                     32 24 0:27 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n\
                     33 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd\n";
        let layout = Layout::parse(table);
        assert!(!layout.is_unified());
        let files = layout.group("/a/b").procs_files();
        assert_eq!(files.len(), 3);
        assert_eq!(files[1], Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b/cgroup.procs"));
    }

    /// A group in a folder that looks like a hierarchy with these files.
    fn group(name: &str, controllers: &[&str], files: &[(&str, &str)]) -> Group {
        let mount = std::env::temp_dir().join(format!("coracle-cgroup-{}-{name}", std::process::id()));
        fs::create_dir_all(mount.join("g")).unwrap();
        for (file, text) in files {
            fs::write(mount.join("g").join(file), text).unwrap();
        }
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Layout { hierarchies: vec![Hierarchy { mount, controllers }] }.group("/g")
    }

    #[test]
    fn processors_come_down_through_groups_that_somebody_else_has_just_made() {
        let mount = std::env::temp_dir().join(format!("coracle-cgroup-{}-cpuset", std::process::id()));
        let child = mount.join("made/below");
        fs::create_dir_all(&child).unwrap();
        for (folder, text) in [(mount.as_path(), "0-1\n"), (&mount.join("made"), "\n"), (&child, "\n")] {
            fs::write(folder.join("cpuset.cpus"), text).unwrap();
            fs::write(folder.join("cpuset.mems"), text).unwrap();
        }
        inherit_cpuset(&mount, &child);
        let given = [mount.join("made"), child].map(|folder| fs::read_to_string(folder.join("cpuset.cpus")).unwrap());
        assert_eq!(given, ["0-1", "0-1"]);
        fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn usage_is_read_alike_from_both_versions_and_inactive_files_are_not_worked_with() {
        let stat = "total_rss 70\ntotal_inactive_file 40\ntotal_pgfault 3\ntotal_pgmajfault 1\ntotal_swap 9\n";
        let one = group(
            "v1",
            &["cpuacct", "memory"],
            &[("cpuacct.usage", "5000\n"), ("memory.usage_in_bytes", "100\n"), ("memory.stat", stat)],
        );
        let stat = "anon 70\ninactive_file 40\npgfault 3\npgmajfault 1\n";
        let files = [
            ("cpu.stat", "usage_usec 5\nuser_usec 4\n"),
            ("memory.current", "100\n"),
            ("memory.swap.current", "9\n"),
            ("memory.stat", stat),
        ];
        let two = group("v2", &[], &files);
        let wanted = Usage {
            cpu_ns: 5000,
            memory_bytes: 100,
            working_set_bytes: 60,
            rss_bytes: 70,
            page_faults: 3,
            major_page_faults: 1,
            swap_bytes: 9,
        };
        assert_eq!([one.usage(), two.usage()], [wanted, wanted]);
        for group in [one, two] {
            fs::remove_dir_all(&group.layout.hierarchies[0].mount).unwrap();
        }
    }

    #[test]
    fn shares_map_to_the_weights_of_oci_runtimes() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
    }
}
