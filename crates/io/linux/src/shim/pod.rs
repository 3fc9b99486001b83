//! The pod's part of a shim: its namespaces, held by descriptors for as long as the shim lives, its place in the
//! cgroups and its shared memory.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::child::{self, PodNamespaces};
use crate::plan::{self, Namespace, PodPlan};
use crate::{Context, Result, cgroup, sys};

pub struct Pod {
    pub dir: PathBuf,
    namespaces: Vec<OwnedFd>,
    pub processes: Option<OwnedFd>,
    /// The first process of a shared process-id namespace.
    pub first: Option<i32>,
    /// The shim's own process-id namespace, to return to.
    own_processes: OwnedFd,
}

impl Pod {
    pub fn open(dir: &Path) -> Result<Pod> {
        let plan: PodPlan = plan::read(&dir.join(plan::POD_PLAN))?;
        cgroup::enter(&plan.cgroup_procs, std::process::id() as i32)?;
        child::set_oom_score(plan.oom_score_adj);
        let own_processes = open_namespace(std::process::id() as i32, "pid")?;
        let namespaces = make_namespaces(&plan, dir)?;
        let mut pod = Pod { dir: dir.to_owned(), namespaces, processes: None, first: None, own_processes };
        if plan.ipc == Namespace::Pod {
            mount_shared_memory(&dir.join(plan::SHM_MOUNT), plan.shm_bytes)?;
        }
        if plan.pid == Namespace::Pod {
            pod.start_first_process()?;
        }
        fs::write(dir.join(plan::SHIM_PID), std::process::id().to_string())
            .context(|| "writing the shim's pid".into())?;
        Ok(pod)
    }

    pub fn namespaces(&self) -> PodNamespaces<'_> {
        PodNamespaces { all: self.namespaces.iter().map(|namespace| namespace.as_fd()).collect() }
    }

    /// Forks a child whose process-id namespace is new (`None`), or the given one.
    pub fn fork_into(&self, processes: Processes<'_>) -> Result<sys::Fork> {
        let what = || "choosing the process-id namespace".to_owned();
        match processes {
            Processes::New => sys::unshare(libc::CLONE_NEWPID).context(what)?,
            Processes::Of(namespace) => sys::setns(namespace.as_fd(), libc::CLONE_NEWPID).context(what)?,
            Processes::Machine => return sys::fork().context(|| "forking".into()),
        }
        let forked = sys::fork();
        if !matches!(forked, Ok(sys::Fork::Child)) {
            sys::setns(self.own_processes.as_fd(), libc::CLONE_NEWPID).context(what)?;
        }
        forked.context(|| "forking".into())
    }

    fn start_first_process(&mut self) -> Result<()> {
        match self.fork_into(Processes::New)? {
            sys::Fork::Child => reap_for_ever(&self.namespaces()),
            sys::Fork::Parent(pid) => {
                self.processes = Some(open_namespace(pid, "pid")?);
                self.first = Some(pid);
                Ok(())
            }
        }
    }
}

pub enum Processes<'a> {
    Machine,
    New,
    Of(&'a OwnedFd),
}

pub fn open_namespace(pid: i32, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{kind}");
    File::open(&path).map(OwnedFd::from).context(|| format!("opening {path}"))
}

fn mount_shared_memory(target: &Path, bytes: u64) -> Result<()> {
    let what = || format!("mounting {}", target.display());
    fs::create_dir_all(target).context(what)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("shm", target, "tmpfs", flags, &format!("mode=1777,size={bytes}")).context(what)
}

/// Makes the pod's network, IPC and UTS namespaces: the shim goes into new ones, takes hold of them and comes back.
fn make_namespaces(plan: &PodPlan, dir: &Path) -> Result<Vec<OwnedFd>> {
    let mut kinds = Vec::new();
    if plan.net == Namespace::Pod {
        // A pod on the machine's network has the machine's name too.
        kinds.extend([("net", libc::CLONE_NEWNET), ("uts", libc::CLONE_NEWUTS)]);
    }
    if plan.ipc == Namespace::Pod {
        kinds.push(("ipc", libc::CLONE_NEWIPC));
    }
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let own = std::process::id() as i32;
    let open_all = || kinds.iter().map(|(kind, _)| open_namespace(own, kind)).collect::<Result<Vec<_>>>();
    let home = open_all()?;
    prepare(plan, kinds.iter().fold(0, |all, (_, flag)| all | flag))?;
    if plan.net == Namespace::Pod {
        let pin = dir.join(plan::NETNS_PIN);
        File::create(&pin)
            .and_then(|_| sys::mount(&format!("/proc/{own}/ns/net"), &pin, "", libc::MS_BIND, ""))
            .context(|| format!("pinning the network namespace at {}", pin.display()))?;
    }
    let held = open_all()?;
    for namespace in &home {
        sys::setns(namespace.as_fd(), 0).context(|| "leaving the pod's namespaces".into())?;
    }
    Ok(held)
}

fn prepare(plan: &PodPlan, flags: i32) -> Result<()> {
    sys::unshare(flags).context(|| "making the pod's namespaces".into())?;
    if plan.net == Namespace::Pod {
        sys::loopback_up().context(|| "bringing the loopback device up".into())?;
        if !plan.hostname.is_empty() {
            sys::set_hostname(&plan.hostname).context(|| format!("setting the host name {:?}", plan.hostname))?;
        }
    }
    for (name, value) in &plan.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(path, value).context(|| format!("setting sysctl {name}={value}"))?;
    }
    Ok(())
}

/// What a pause container does: be process 1 and reap.
fn reap_for_ever(namespaces: &PodNamespaces<'_>) -> ! {
    sys::set_process_name(c"pause");
    let _ = sys::parent_death_signal(libc::SIGKILL);
    for namespace in &namespaces.all {
        let _ = sys::setns(*namespace, 0);
    }
    let Ok(signals) = sys::child_signals() else { sys::exit_now(1) };
    loop {
        let mut set = [sys::readable(&signals)];
        let _ = sys::poll(&mut set, -1);
        sys::drain(&signals);
        while sys::reap().is_some() {}
    }
}
