//! A process on its way into a container: forked by the shim, it goes where its plan says and becomes the program.
//! What it cannot do it reports in words on the control socket, which an exec that succeeds closes.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::plan::{ContainerPlan, ProcessPlan};
use crate::{Context, Error, Result, capability, rootfs, sys, wire};

/// First byte of a message to the shim.
pub const TERMINAL: u8 = b'T';
pub const FAILURE: u8 = b'E';

/// Standard input, output and error; absent: /dev/null, or the terminal.
#[derive(Default)]
pub struct Stdio {
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub error: Option<OwnedFd>,
}

/// The pod's namespaces, as far as it has its own.
pub struct PodNamespaces<'a> {
    pub all: Vec<BorrowedFd<'a>>,
}

/// The first process of a container. Never returns.
pub fn first(plan: &ContainerPlan, pod: &PodNamespaces<'_>, stdio: Stdio, control: UnixStream) -> ! {
    let result = run_first(plan, pod, stdio, &control);
    report(result, control)
}

/// A further process in the container whose first one is behind `container`. Never returns.
pub fn further(process: &ProcessPlan, container: BorrowedFd<'_>, stdio: Stdio, control: UnixStream) -> ! {
    let result = run_further(process, container, stdio, &control);
    report(result, control)
}

fn report(result: Result<()>, mut control: UnixStream) -> ! {
    if let Err(error) = result {
        let mut message = vec![FAILURE];
        message.extend(error.chain().as_bytes());
        let _ = control.write_all(&message);
    }
    sys::exit_now(127)
}

fn run_first(plan: &ContainerPlan, pod: &PodNamespaces<'_>, stdio: Stdio, control: &UnixStream) -> Result<()> {
    detach_from_shim()?;
    let filters = read_filters(&plan.process)?;
    set_oom_score(plan.process.oom_score_adj);
    for namespace in &pod.all {
        sys::setns(*namespace, 0).context(|| "entering the pod's namespaces".into())?;
    }
    let sources = rootfs::Sources::take(&plan.mounts)?;
    rootfs::enter(plan, sources)?;
    wait_for_go(control)?;
    sys::unshare(libc::CLONE_NEWCGROUP).context(|| "making a cgroup namespace".into())?;
    let peer = connect_streams(&plan.process, stdio, control)?;
    if let Some(peer) = peer {
        rootfs::bind_console(&peer)?;
    }
    rootfs::seal(plan)?;
    become_program(&plan.process, &filters)
}

fn run_further(process: &ProcessPlan, container: BorrowedFd<'_>, stdio: Stdio, control: &UnixStream) -> Result<()> {
    detach_from_shim()?;
    let filters = read_filters(process)?;
    set_oom_score(process.oom_score_adj);
    wait_for_go(control)?;
    let all = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;
    sys::setns(container, all).context(|| "entering the container".into())?;
    connect_streams(process, stdio, control)?;
    become_program(process, &filters)
}

fn detach_from_shim() -> Result<()> {
    sys::default_signals();
    rustix::process::setsid().context(|| "starting a session".into())?;
    sys::close_on_exec_from(3).context(|| "closing descriptors".into())
}

fn read_filters(process: &ProcessPlan) -> Result<Vec<Vec<u8>>> {
    let read = |path: &PathBuf| fs::read(path).context(|| format!("reading the seccomp filter {}", path.display()));
    process.seccomp.iter().map(read).collect()
}

/// Lowering the score takes CAP_SYS_RESOURCE, which the machine may withhold: then it stays as low as it may be.
pub fn set_oom_score(wanted: i32) {
    let path = "/proc/self/oom_score_adj";
    if fs::write(path, wanted.to_string()).is_ok() {
        return;
    }
    let own = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(0);
    let _ = fs::write(path, wanted.max(own).to_string());
}

/// The shim moves this process into its cgroups meanwhile.
fn wait_for_go(mut control: &UnixStream) -> Result<()> {
    control.read_exact(&mut [0; 1]).context(|| "waiting for the shim".into())
}

/// Gives the path of the terminal, when there is one.
fn connect_streams(process: &ProcessPlan, stdio: Stdio, control: &UnixStream) -> Result<Option<PathBuf>> {
    let what = || "connecting the standard streams".to_owned();
    if process.terminal {
        let master =
            fs::File::options().read(true).write(true).open("/dev/ptmx").context(|| "opening /dev/ptmx".into())?;
        let peer = sys::terminal_peer(master.as_fd()).context(|| "opening the terminal".into())?;
        wire::send_with(control, &[TERMINAL], &[master.as_fd()]).context(what)?;
        for target in 0..3 {
            sys::duplicate_to(peer.as_fd(), target).context(what)?;
        }
        sys::take_terminal().context(|| "taking the terminal".into())?;
        let _ = std::os::unix::fs::fchown(&peer, Some(process.uid), None);
        return Ok(fs::read_link("/proc/self/fd/0").ok());
    }
    let null = fs::File::options().read(true).write(true).open("/dev/null").context(|| "opening /dev/null".into())?;
    for (target, stream) in [(0, stdio.input), (1, stdio.output), (2, stdio.error)] {
        match stream {
            Some(stream) => {
                // A program may open /dev/stdout anew, as another user than the one who made the pipe.
                let _ = std::os::unix::fs::fchown(&stream, Some(process.uid), Some(process.gid));
                sys::duplicate_to(stream.as_fd(), target).context(what)?;
            }
            None => sys::duplicate_to(null.as_fd(), target).context(what)?,
        }
    }
    Ok(None)
}

fn become_program(process: &ProcessPlan, filters: &[Vec<u8>]) -> Result<()> {
    for (resource, soft, hard) in &process.rlimits {
        sys::limit_resource(*resource, *soft, *hard).context(|| format!("setting resource limit {resource}"))?;
    }
    // The daemon does without huge pages; that is not for its containers.
    let _ = sys::set_huge_pages(true);
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    if !Path::new(cwd).exists() {
        fs::create_dir_all(cwd).context(|| format!("making the working directory {cwd}"))?;
    }
    if !process.no_new_privileges {
        load(filters)?;
    }
    take_identity(process)?;
    std::env::set_current_dir(cwd).context(|| format!("chdir to cwd ({cwd:?}) set in config.json failed"))?;
    if process.no_new_privileges {
        sys::no_new_privileges().context(|| "giving up new privileges".into())?;
        load(filters)?;
    }
    let nul = |_| Error::Invalid("an argument or environment variable holds a NUL byte".into());
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_str()).map_err(nul)).collect::<Result<Vec<_>>>();
    let (args, env) = (strings(&process.args)?, strings(&process.env)?);
    let program = find_program(process)?;
    let path = CString::new(program.as_os_str().as_encoded_bytes()).map_err(nul)?;
    let source = sys::exec(&path, &args, &env);
    Err(Error::Io { what: format!("exec {}", program.display()), source })
}

fn load(filters: &[Vec<u8>]) -> Result<()> {
    filters.iter().try_for_each(|filter| sys::load_seccomp(filter).context(|| "loading the seccomp filter".into()))
}

fn take_identity(process: &ProcessPlan) -> Result<()> {
    let what = || "taking the process's identity".to_owned();
    let possible = capability::available();
    let (wanted, ambient) = (process.capabilities & possible, process.ambient & possible);
    for capability in 0..64u8 {
        let known_and_wanted = capability < capability::COUNT && wanted & (1 << capability) != 0;
        if !known_and_wanted && sys::drop_bounding(capability).is_err() {
            break;
        }
    }
    sys::keep_capabilities().context(what)?;
    sys::set_groups(&process.groups).context(what)?;
    sys::set_ids(process.uid, process.gid).context(what)?;
    sys::ambient_clear().context(what)?;
    sys::set_capabilities(wanted, wanted, ambient).context(what)?;
    for capability in 0..capability::COUNT {
        if ambient & (1 << capability) != 0 {
            sys::ambient_raise(capability).context(what)?;
        }
    }
    // After the change of identity, which would have cleared it.
    sys::parent_death_signal(libc::SIGKILL).context(what)
}

/// The program's path as the PATH of its own environment gives it.
fn find_program(process: &ProcessPlan) -> Result<PathBuf> {
    let name = process.args.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::Invalid("no command specified".into()))?;
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let executable =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0);
    let found = path.split(':').map(|folder| Path::new(folder).join(name)).find(executable);
    found.ok_or_else(|| Error::Invalid(format!("exec: {name:?}: executable file not found in $PATH")))
}
