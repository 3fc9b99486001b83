//! A container as its shim sees it: started from the plan on disk, its streams, its log, and its status, written to
//! disk at every change.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::pipe::{PipeFlags, pipe_with};

use super::log::{Log, Stream};
use super::pod::{self, Pod, Processes};
use crate::child::{self, FAILURE, Stdio, TERMINAL};
use crate::plan::{self, ContainerPlan, ContainerStatus, Namespace, ProcessPlan};
use crate::{Context, Error, Result, cgroup, sys, terminal, wire};

/// Input that the container has not taken yet; beyond it, the attached client waits.
pub const INPUT_BYTES_MAX: usize = 256 << 10;

pub struct Container {
    pub status: ContainerStatus,
    dir: PathBuf,
    pub output: Option<OwnedFd>,
    pub error: Option<OwnedFd>,
    input: Option<OwnedFd>,
    master: Option<OwnedFd>,
    pub pending_input: Vec<u8>,
    input_ends: bool,
    pub stdin_once: bool,
    log: Log,
    oom_file: Option<PathBuf>,
    oom_kills_before: u64,
}

impl Container {
    pub fn start(pod: &Pod, id: &str, others: &[Container]) -> Result<Container> {
        let dir = pod.dir.join(plan::CONTAINERS).join(id);
        let plan: ContainerPlan = plan::read(&dir.join(plan::CONTAINER_PLAN))?;
        let mut container = Container {
            status: ContainerStatus { id: id.to_owned(), ..ContainerStatus::default() },
            dir,
            output: None,
            error: None,
            input: None,
            master: None,
            pending_input: Vec::new(),
            input_ends: false,
            stdin_once: plan.stdin_once,
            log: Log::open(plan.log.clone()).context(|| "opening the container's log".into())?,
            oom_file: plan.oom_file.clone(),
            oom_kills_before: 0,
        };
        container.oom_kills_before = container.oom_kills();
        let stdio = container.make_streams(&plan)?;
        let target;
        let processes = match &plan.pid {
            Namespace::Host => Processes::Machine,
            Namespace::Own => Processes::New,
            Namespace::Pod => pod.processes.as_ref().map_or(Processes::New, Processes::Of),
            Namespace::Target(other) => {
                let running = others.iter().find(|candidate| candidate.status.id == *other && candidate.is_running());
                let running =
                    running.ok_or_else(|| Error::Invalid(format!("target container {other} is not running")))?;
                target = pod::open_namespace(running.status.pid, "pid")?;
                Processes::Of(&target)
            }
        };
        let (control, theirs) = UnixStream::pair().context(|| "making a socket pair".into())?;
        let pid = match pod.fork_into(processes)? {
            sys::Fork::Child => {
                drop(control);
                child::first(&plan, &pod.namespaces(), stdio, theirs)
            }
            sys::Fork::Parent(pid) => pid,
        };
        drop((theirs, stdio));
        container.status.pid = pid;
        container.take_master(launch(control, &plan.cgroup_procs, pid)?)?;
        container.status.started_at = now();
        container.save();
        Ok(container)
    }

    fn make_streams(&mut self, plan: &ContainerPlan) -> Result<Stdio> {
        let mut stdio = Stdio::default();
        if plan.process.terminal {
            return Ok(stdio);
        }
        let (output, theirs) = pipe()?;
        (self.output, stdio.output) = (Some(output), Some(theirs));
        let (error, theirs) = pipe()?;
        (self.error, stdio.error) = (Some(error), Some(theirs));
        unblock([&self.output, &self.error])?;
        if plan.stdin {
            let (theirs, input) = pipe()?;
            (self.input, stdio.input) = (Some(input), Some(theirs));
            unblock([&self.input])?;
        }
        Ok(stdio)
    }

    fn take_master(&mut self, master: Option<OwnedFd>) -> Result<()> {
        let Some(master) = master else { return Ok(()) };
        let copy = || master.try_clone().context(|| "copying the terminal".into());
        self.output = Some(copy()?);
        self.input = Some(copy()?);
        unblock([&self.output])?;
        self.master = Some(master);
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.status.finished_at == 0
    }

    pub fn has_terminal(&self) -> bool {
        self.master.is_some()
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.master {
            Some(master) => {
                sys::resize_terminal(master.as_fd(), columns, rows).context(|| "resizing the terminal".into())
            }
            None => Err(Error::Invalid("the container has no terminal".into())),
        }
    }

    pub fn reopen_log(&mut self) -> Result<()> {
        self.log.reopen().context(|| "reopening the log".into())
    }

    /// Reads what the container has written to a stream into the buffer's room and logs it. Whether anything was there.
    pub fn read(&mut self, stream: Stream, buffer: &mut Vec<u8>) -> bool {
        let source = if stream == Stream::Output { &mut self.output } else { &mut self.error };
        let Some(open) = source.as_ref() else { return false };
        buffer.clear();
        match terminal::read_to_the_end(|| rustix::io::read(open, rustix::buffer::spare_capacity(buffer))) {
            Ok(length) if length > 0 => {
                self.log.write(stream, buffer);
                true
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
            _ => {
                *source = None;
                false
            }
        }
    }

    pub fn wants_input(&self) -> Option<&OwnedFd> {
        self.input.as_ref().filter(|_| !self.pending_input.is_empty())
    }

    pub fn feed(&mut self, data: &[u8]) {
        if self.input.is_some() {
            self.pending_input.extend_from_slice(data);
            self.pass_input();
        }
    }

    pub fn end_input(&mut self) {
        if self.has_terminal() {
            return;
        }
        self.input_ends = true;
        self.pass_input();
    }

    pub fn pass_input(&mut self) {
        while let Some(input) = self.input.as_ref().filter(|_| !self.pending_input.is_empty()) {
            match rustix::io::write(input, &self.pending_input) {
                Ok(length) => drop(self.pending_input.drain(..length)),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.input = None,
            }
        }
        self.pending_input = Vec::new();
        if self.input_ends {
            self.input = None;
        }
    }

    /// Its first process has ended. Output must have been read before.
    pub fn finish(&mut self, code: i32) {
        self.log.finish();
        (self.output, self.error, self.input, self.master) = (None, None, None, None);
        self.status.finished_at = now();
        self.status.exit_code = code;
        self.status.oom_killed = self.oom_kills() > self.oom_kills_before;
        self.save();
    }

    fn oom_kills(&self) -> u64 {
        let text = self.oom_file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    fn save(&self) {
        // The daemon hears it by message as well; without a disk that is all that is left.
        let _ = plan::write(&self.dir.join(plan::CONTAINER_STATUS), &self.status);
    }

    /// Forks a further process; gives its id and, with a terminal, the master.
    pub fn exec(&self, pod: &Pod, process: &ProcessPlan, stdio: Stdio) -> Result<(i32, Option<OwnedFd>)> {
        let plan: ContainerPlan = plan::read(&self.dir.join(plan::CONTAINER_PLAN))?;
        let first = sys::pidfd_open(self.status.pid).context(|| "opening the container's process".into())?;
        let processes = pod::open_namespace(self.status.pid, "pid")?;
        let (control, theirs) = UnixStream::pair().context(|| "making a socket pair".into())?;
        let pid = match pod.fork_into(Processes::Of(&processes))? {
            sys::Fork::Child => {
                drop(control);
                child::further(process, first.as_fd(), stdio, theirs)
            }
            sys::Fork::Parent(pid) => pid,
        };
        drop((theirs, stdio));
        Ok((pid, launch(control, &plan.cgroup_procs, pid)?))
    }
}

/// Moves the child into its cgroups, lets it go on and waits until it is the program. Gives its terminal's master.
fn launch(mut control: UnixStream, procs_files: &[PathBuf], pid: i32) -> Result<Option<OwnedFd>> {
    let moved = cgroup::enter(procs_files, pid);
    if moved.is_ok() {
        let _ = control.write_all(b"g");
    }
    let (mut master, mut words, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
    if moved.is_err() {
        let _ = sys::kill(pid, libc::SIGKILL);
    }
    loop {
        match wire::receive_with(&control, &mut buffer, &mut master) {
            Ok(0) => break,
            Ok(length) => words.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // A child that failed before it was let go on leaves our word unread; its own has been read by now.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).context(|| "listening to the new process".into()),
        }
    }
    let words = words.strip_prefix(&[TERMINAL]).unwrap_or(&words);
    let failed = words.first() == Some(&FAILURE);
    if failed || moved.is_err() {
        sys::wait_for(pid, true);
    }
    moved?;
    if failed {
        return Err(Error::Invalid(String::from_utf8_lossy(&words[1..]).into_owned()));
    }
    Ok(master.pop())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "making a pipe".into())
}

fn unblock<const N: usize>(descriptors: [&Option<OwnedFd>; N]) -> Result<()> {
    for descriptor in descriptors.into_iter().flatten() {
        let flags = rustix::fs::fcntl_getfl(descriptor).context(|| "reading flags".into())?;
        rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK).context(|| "setting flags".into())?;
    }
    Ok(())
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Standard streams to /dev/null: a shim outlives whatever terminal its daemon had.
pub fn leave_terminal() -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null").context(|| "opening /dev/null".into())?;
    (0..3).try_for_each(|target| sys::duplicate_to(null.as_fd(), target)).context(|| "leaving the terminal".into())
}
