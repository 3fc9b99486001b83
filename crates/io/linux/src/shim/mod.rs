//! The shim: one small process with one thread per pod. It holds the pod's namespaces, starts and reaps its
//! containers, writes their logs and serves whoever connects to its socket. It outlives the daemon; all it knows is on
//! disk as well. It knows plans, not pods.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

mod connection;
mod container;
mod log;
mod pod;

use crate::plan::{self, ContainerStatus};
use crate::wire::{self, Reply, Request};
use crate::{Context, Result, sys};
use connection::Connection;
use container::Container;
use log::Stream;
use pod::Pod;

/// More at once are refused.
const CONNECTIONS_MAX: usize = 256;
/// What is taken of a container's output at once.
const READ_BYTES_MAX: usize = 16 << 10;

/// Serves one pod until `Shutdown`. Runs in a process of its own, forked by the zygote.
pub fn run(stream: UnixStream) -> ! {
    sys::set_process_name(c"coracle-shim");
    let _ = rustix::process::setsid();
    sys::default_signals();
    sys::ignore_signal(libc::SIGPIPE);
    let _ = std::env::set_current_dir("/");
    let _ = container::leave_terminal();
    let code = match serve(stream) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    sys::exit_now(code)
}

fn serve(mut stream: UnixStream) -> Result<()> {
    let request = wire::read_frame(&mut stream).context(|| "reading the first request".into())?;
    let Request::Open { dir } = request else { return Ok(()) };
    match Shim::open(Path::new(&dir)) {
        Ok(mut shim) => {
            shim.accept(stream);
            // Whoever had the pod made hears of it from now on.
            shim.connections[0].subscribed = true;
            let ready = shim.ready();
            shim.connections[0].send(&ready);
            shim.serve()
        }
        Err(error) => {
            let _ = stream.write_all(&wire::encode(&Reply::Failed { message: error.chain() }));
            Err(error)
        }
    }
}

struct Shim {
    pod: Pod,
    listener: UnixListener,
    socket: PathBuf,
    signals: OwnedFd,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    ending: bool,
}

impl Shim {
    fn open(dir: &Path) -> Result<Shim> {
        let signals = sys::child_signals().context(|| "watching for ended children".into())?;
        sys::become_subreaper().context(|| "becoming a subreaper".into())?;
        let pod = Pod::open(dir)?;
        let socket = dir.join(plan::SHIM_SOCKET);
        let listener = listen(dir, &socket)?;
        Ok(Shim { pod, listener, socket, signals, connections: Vec::new(), containers: Vec::new(), ending: false })
    }

    fn accept(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() && self.connections.len() < CONNECTIONS_MAX {
            self.connections.push(Connection::new(stream));
        }
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            self.wait()?;
            while let Ok((stream, _)) = self.listener.accept() {
                self.accept(stream);
            }
            for index in 0..self.containers.len() {
                self.containers[index].pass_input();
                self.forward(index, false);
            }
            self.reap();
            for index in 0..self.connections.len() {
                self.connections[index].flush();
                self.hear(index);
            }
            self.close_connections();
            if self.ending && self.containers.iter().all(|container| !container.is_running()) {
                let _ = fs::remove_file(&self.socket);
                for connection in &mut self.connections {
                    connection.say_goodbye();
                }
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let mut set = vec![sys::readable(&self.signals), sys::readable(&self.listener)];
        for connection in &self.connections {
            let mut entry = sys::readable(&connection.stream);
            if self.is_stuck(connection) {
                entry.events = 0;
            }
            if connection.has_pending() {
                entry.events |= libc::POLLOUT;
            }
            set.push(entry);
        }
        for container in &self.containers {
            let id = &container.status.id;
            // A client that does not read holds its container back, as a full pipe would.
            if !self.connections.iter().any(|connection| connection.is_attached_to(id) && connection.has_pending()) {
                set.extend([&container.output, &container.error].into_iter().flatten().map(sys::readable));
            }
            if let Some(input) = container.wants_input() {
                set.push(libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLOUT, revents: 0 });
            }
        }
        sys::poll(&mut set, -1).context(|| "waiting".into())?;
        sys::drain(&self.signals);
        Ok(())
    }

    /// Whether this client's input would pile up.
    fn is_stuck(&self, connection: &Connection) -> bool {
        let too_much = |container: &Container| {
            connection.is_attached_to(&container.status.id)
                && container.pending_input.len() > container::INPUT_BYTES_MAX
        };
        self.containers.iter().any(too_much)
    }

    /// Passes on what a container wrote; all of it when `to_the_end`.
    fn forward(&mut self, index: usize, to_the_end: bool) {
        // Not on the stack: there every page of it would be this shim's for good.
        let mut buffer = Vec::with_capacity(READ_BYTES_MAX);
        let container = &mut self.containers[index];
        for stream in [Stream::Output, Stream::Error] {
            loop {
                let id = &container.status.id;
                let listeners = || self.connections.iter().filter(|connection| connection.is_attached_to(id));
                if !to_the_end && listeners().any(Connection::has_pending) {
                    break;
                }
                if !container.read(stream, &mut buffer) {
                    break;
                }
                let id = &container.status.id;
                let mut frame = Vec::new();
                for connection in self.connections.iter_mut().filter(|connection| connection.is_attached_to(id)) {
                    if frame.is_empty() {
                        frame = wire::encode(&Reply::Output { error: stream == Stream::Error, data: buffer.clone() });
                    }
                    connection.send_bytes(&frame);
                }
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, code)) = sys::reap() {
            for connection in self.connections.iter_mut().filter(|connection| connection.exec == Some(pid)) {
                connection.exec = None;
                connection.send(&Reply::Exited { code });
            }
            let found =
                self.containers.iter().position(|container| container.status.pid == pid && container.is_running());
            let Some(index) = found else { continue };
            self.forward(index, true);
            self.containers[index].finish(code);
            let status = self.containers[index].status.clone();
            for connection in self.connections.iter_mut().filter(|connection| connection.is_attached_to(&status.id)) {
                connection.attached = None;
                connection.send(&Reply::Exited { code });
            }
            self.tell(status);
        }
    }

    fn tell(&mut self, status: ContainerStatus) {
        let event = wire::encode(&Reply::Event { status });
        for connection in self.connections.iter_mut().filter(|connection| connection.subscribed) {
            connection.send_bytes(&event);
        }
    }

    fn hear(&mut self, index: usize) {
        self.connections[index].receive();
        while !self.is_stuck(&self.connections[index]) {
            let Some(request) = self.connections[index].next_request() else { return };
            if let Some(reply) = self.answer(index, request) {
                self.connections[index].send(&reply);
            }
        }
    }

    fn ready(&self) -> Reply {
        let containers = self.containers.iter().map(|container| container.status.clone()).collect();
        Reply::Ready { version: wire::VERSION, pid: std::process::id() as i32, containers }
    }

    fn running(&mut self, id: &str) -> std::result::Result<&mut Container, Reply> {
        let found = self.containers.iter_mut().find(|container| container.status.id == id && container.is_running());
        found.ok_or_else(|| Reply::NotFound { message: format!("container {id} is not running") })
    }

    fn answer(&mut self, index: usize, request: Request) -> Option<Reply> {
        let answered = match request {
            Request::Open { .. } => Ok(Reply::Failed { message: "this shim has its pod".into() }),
            Request::Hello => Ok(self.ready()),
            Request::Subscribe => {
                self.connections[index].subscribed = true;
                Ok(self.ready())
            }
            Request::Start { container } => Ok(self.start(&container)),
            Request::Signal { container, signal, everyone } => self.signal(&container, signal, everyone),
            Request::Exec { container, process, streams } => {
                let stdio = self.connections[index].take_streams(streams);
                self.running(&container).map(drop).map(|()| self.exec(index, &container, &process, stdio))
            }
            Request::ExecKill => {
                let sent = self.connections[index].exec.map(|pid| sys::kill(pid, libc::SIGKILL));
                return sent.is_none().then_some(Reply::Done);
            }
            Request::Attach { container, input } => self.running(&container).map(drop).map(|()| {
                self.connections[index].attached = Some((container, input));
                Reply::Done
            }),
            Request::Input { data } => return self.input(index, |container| container.feed(&data)),
            // Who attaches may go and come back: only input that is meant for one client ends with it.
            Request::InputEnd => {
                return self.input(index, |container| {
                    if container.stdin_once {
                        container.end_input();
                    }
                });
            }
            Request::Resize { container, columns, rows } => {
                self.running(&container).map(|container| done(container.resize(columns, rows)))
            }
            Request::ReopenLog { container } => self.running(&container).map(|container| done(container.reopen_log())),
            Request::Forget { container } => {
                self.containers.retain(|known| known.status.id != container || known.is_running());
                Ok(Reply::Done)
            }
            Request::Shutdown => {
                self.shut_down(index);
                return None;
            }
        };
        Some(answered.unwrap_or_else(|refusal| refusal))
    }

    fn start(&mut self, id: &str) -> Reply {
        if self.ending || self.containers.iter().any(|container| container.status.id == id) {
            return Reply::Failed { message: format!("container {id} was started before, or the pod ends") };
        }
        match Container::start(&self.pod, id, &self.containers) {
            Ok(container) => {
                let status = container.status.clone();
                self.containers.push(container);
                self.tell(status.clone());
                Reply::Started { status }
            }
            Err(error) => Reply::Failed { message: error.chain() },
        }
    }

    fn signal(&mut self, id: &str, signal: i32, everyone: bool) -> std::result::Result<Reply, Reply> {
        let pid = self.running(id)?.status.pid;
        let sent = sys::kill(pid, signal).context(|| format!("sending signal {signal} to {pid}"));
        if everyone {
            // The first process of a namespace takes all others with it; without one they are in its session.
            let _ = sys::kill(-pid, signal);
        }
        Ok(done(sent))
    }

    fn exec(&mut self, index: usize, id: &str, process: &plan::ProcessPlan, stdio: crate::child::Stdio) -> Reply {
        let Some(container) = self.containers.iter().find(|container| container.status.id == id) else {
            return Reply::NotFound { message: format!("container {id} is not running") };
        };
        match container.exec(&self.pod, process, stdio) {
            Ok((pid, master)) => {
                let connection = &mut self.connections[index];
                connection.exec = Some(pid);
                connection.send_with_descriptor(&Reply::ExecStarted { pid }, master);
                Reply::Done
            }
            Err(error) => Reply::Failed { message: error.chain() },
        }
    }

    fn input(&mut self, index: usize, deed: impl FnOnce(&mut Container)) -> Option<Reply> {
        let (id, input) = self.connections[index].attached.clone()?;
        if let Some(container) = self.containers.iter_mut().find(|container| container.status.id == id && input) {
            deed(container);
        }
        None
    }

    fn shut_down(&mut self, index: usize) {
        self.ending = true;
        self.connections[index].awaits_end = true;
        let running = self.containers.iter().filter(|container| container.is_running());
        for pid in running.map(|container| container.status.pid).chain(self.pod.first) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }

    fn close_connections(&mut self) {
        for connection in self.connections.iter().filter(|connection| connection.closed) {
            let Some((id, true)) = &connection.attached else { continue };
            let container = self.containers.iter_mut().find(|container| container.status.id == *id);
            if let Some(container) = container.filter(|container| container.stdin_once) {
                container.end_input();
            }
        }
        self.connections.retain(|connection| !connection.closed);
    }
}

fn done(result: Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed { message: error.chain() },
    }
}

/// Binds through the folder's descriptor: the path of a socket may have at most 107 bytes.
fn listen(dir: &Path, socket: &Path) -> Result<UnixListener> {
    let what = || format!("listening on {}", socket.display());
    let _ = fs::remove_file(socket);
    let folder = fs::File::open(dir).context(what)?;
    let short = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), plan::SHIM_SOCKET);
    let listener = UnixListener::bind(short).context(what)?;
    listener.set_nonblocking(true).context(what)?;
    Ok(listener)
}
