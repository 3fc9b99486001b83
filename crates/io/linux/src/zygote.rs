//! The zygote: a process with one thread and almost no memory, forked before the daemon has any of either. On each
//! request it forks a shim and hands it the socket that came along; it parses nothing and keeps nothing. When it dies
//! the daemon starts another from its own binary, and no shim notices.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::{Context, Result, frugal, shim, sys, wire};

/// The name under which the binary, started again, is a zygote. Its socket is then standard input.
const NAME: &str = "coracle-zygote";

/// The daemon's end.
#[derive(Debug)]
pub struct Zygote {
    current: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    pid: i32,
}

/// To be called first thing in `main`, before any thread: forks the zygote. In a process that was started as a zygote
/// it never returns.
pub fn start() -> Result<Zygote> {
    // A zygote and its shims write to a few pages each; a huge one at each of them would be most of their memory.
    let _ = sys::set_huge_pages(false);
    if std::env::args_os().next().is_some_and(|name| name == NAME) {
        serve(sys::inherited(0));
    }
    let (ours, theirs) = pair()?;
    match sys::fork().context(|| "forking the zygote".into())? {
        sys::Fork::Child => {
            drop(ours);
            serve(theirs)
        }
        sys::Fork::Parent(pid) => Ok(Zygote { current: Mutex::new(Running { socket: ours, pid }) }),
    }
}

impl Zygote {
    /// A new shim, waiting for `Open` on the returned stream.
    pub fn spawn_shim(&self) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().context(|| "making a socket pair".into())?;
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if wire::send_with(&current.socket, b"s", &[theirs.as_fd()]).is_err() {
            sys::wait_for(current.pid, false);
            *current = restart()?;
            wire::send_with(&current.socket, b"s", &[theirs.as_fd()])
                .context(|| "asking the zygote for a shim".into())?;
        }
        Ok(ours)
    }

    /// The zygote's process id at this moment.
    pub fn pid(&self) -> i32 {
        self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pid
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "making the zygote's sockets".into())
}

fn restart() -> Result<Running> {
    let (ours, theirs) = pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context(|| "starting a new zygote".into())?;
    Ok(Running { socket: ours, pid: child.id() as i32 })
}

/// Forks a shim per message until the daemon is gone.
fn serve(socket: OwnedFd) -> ! {
    frugal::begin();
    sys::set_process_name(c"coracle-zygote");
    // Its own session: a Ctrl-C meant for the daemon does not end it.
    let _ = rustix::process::setsid();
    sys::ignore_signal(libc::SIGCHLD);
    loop {
        let mut byte = [0; 8];
        let mut received = Vec::new();
        match wire::receive_with(&socket, &mut byte, &mut received) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => sys::exit_now(0),
            Ok(_) => {}
        }
        let Some(stream) = received.pop() else { continue };
        // A fork that fails closes the stream, which tells the daemon.
        if let Ok(sys::Fork::Child) = sys::fork() {
            drop(socket);
            shim::run(UnixStream::from(stream));
        }
    }
}
