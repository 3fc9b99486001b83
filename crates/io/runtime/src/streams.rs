//! Streams into pods: exec, attach and port-forward, and exec's synchronous form for probes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use coracle_linux::netns;
use coracle_linux::plan::{self, ContainerPlan, ProcessPlan};
use coracle_linux::wire::{self, Reply, Request};
use coracle_proto::cri;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::shim::{self, ShimConnection};
use crate::terminal::Terminal;
use crate::{EmbeddedRuntime, internal};

/// What an exec_sync keeps of each stream, as containerd does.
const EXEC_OUTPUT_BYTES_MAX: u64 = 16 << 20;
const PIPE_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    pub cmd: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    pub columns: u16,
    pub rows: u16,
}

/// A process' streams. With a terminal there is no `stderr`. Dropping `stdin` ends its input.
pub struct Streams {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Without a terminal what is sent here has no effect.
    pub resize: mpsc::Sender<Resize>,
    /// The exit code, 128 + signal for a killed process.
    pub exit: oneshot::Receiver<Result<i32, Status>>,
    /// Dropping or using it kills an exec'd process.
    pub kill: Option<oneshot::Sender<()>>,
}

impl EmbeddedRuntime {
    /// Runs a command in a running container.
    pub async fn exec(self: &Arc<Self>, container_id: &str, options: ExecOptions) -> Result<Streams, Status> {
        let (container, dir) = self.container_and_dir(container_id)?;
        let id = container.record.id.clone();
        if !container.is_running() {
            return Err(Status::not_found(format!("container {id} is not running")));
        }
        let plan: ContainerPlan = plan::read(&container.dir.join(plan::CONTAINER_PLAN)).map_err(internal)?;
        let mut process = ProcessPlan { args: options.cmd, terminal: options.tty, ..plan.process };
        if options.tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".into());
        }
        let mut connection = ShimConnection::connect(&dir).map_err(shim::lost)?;
        let mut pipes = Pipes::make(options.tty, options.stdin)?;
        let request = Request::Exec { container: id, process: Box::new(process), streams: pipes.which() };
        let theirs: Vec<_> = pipes.theirs.iter().map(|descriptor| descriptor.as_fd()).collect();
        connection.send_with(&request, &theirs).await.map_err(shim::lost)?;
        pipes.theirs.clear();
        match shim::accept(connection.receive().await.map_err(shim::lost)?)? {
            Reply::ExecStarted { .. } => {}
            other => return Err(shim::unexpected(&other)),
        }
        let terminal = connection.take_descriptor().map(Terminal::new).transpose().map_err(internal)?;
        let (exit, exited) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        self.options.scope.spawn_until_cancelled("exec", wait_for_exit(connection, exit, killed));
        self.exec_streams(pipes, terminal, (exited, kill))
    }

    fn exec_streams(
        &self,
        pipes: Pipes,
        terminal: Option<Terminal>,
        (exit, kill): (oneshot::Receiver<Result<i32, Status>>, oneshot::Sender<()>),
    ) -> Result<Streams, Status> {
        let (resize, mut sizes) = mpsc::channel::<Resize>(8);
        if let Some(terminal) = terminal {
            let sized = terminal.clone();
            self.options.scope.spawn_until_cancelled("exec resize", async move {
                while let Some(size) = sizes.recv().await {
                    let _ = sized.resize(size.columns, size.rows);
                }
            });
            let stdin = pipes.wants_input.then(|| Box::new(terminal.clone()) as Box<dyn AsyncWrite + Send + Unpin>);
            return Ok(Streams { stdin, stdout: Box::new(terminal), stderr: None, resize, exit, kill: Some(kill) });
        }
        let reader = |end: Option<OwnedFd>| end.map(pipe::Receiver::from_owned_fd).transpose().map_err(internal);
        let stdin = pipes.input.map(pipe::Sender::from_owned_fd).transpose().map_err(internal)?;
        let stdout = reader(pipes.output)?.ok_or_else(|| Status::internal("an exec without output"))?;
        Ok(Streams {
            stdin: stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(stdout),
            stderr: reader(pipes.error)?.map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
            resize,
            exit,
            kill: Some(kill),
        })
    }

    /// Runs a command to its end; `timeout` zero means no end.
    pub async fn exec_sync(
        self: &Arc<Self>,
        container_id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let mut streams = self.exec(container_id, ExecOptions { cmd: cmd.clone(), tty: false, stdin: false }).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let all = async {
            let mut errors = streams.stderr.take().ok_or_else(|| Status::internal("an exec without stderr"))?;
            let read = tokio::try_join!(
                read_bounded(&mut streams.stdout, &mut stdout),
                read_bounded(&mut errors, &mut stderr),
            );
            read.map_err(internal)?;
            (&mut streams.exit).await.map_err(|_| Status::unavailable("the runtime is shutting down"))?
        };
        let ended = if timeout.is_zero() { Ok(all.await) } else { tokio::time::timeout(timeout, all).await };
        let Ok(code) = ended else {
            if let Some(kill) = streams.kill.take() {
                let _ = kill.send(());
            }
            return Err(Status::deadline_exceeded(format!("command {cmd:?} timed out")));
        };
        Ok(cri::ExecSyncResponse { stdout: stdout.into(), stderr: stderr.into(), exit_code: code? })
    }

    /// The streams of a container's own process, from now on.
    pub async fn attach(self: &Arc<Self>, container_id: &str, stdin: bool) -> Result<Streams, Status> {
        let (container, dir) = self.container_and_dir(container_id)?;
        let id = container.record.id.clone();
        let input = stdin && container.config.stdin;
        let mut connection = ShimConnection::connect(&dir).map_err(shim::lost)?;
        connection.call(&Request::Attach { container: id.clone(), input }).await?;
        let (ours_in, theirs_in) = tokio::io::duplex(PIPE_BYTES);
        let (ours_out, theirs_out) = tokio::io::duplex(PIPE_BYTES);
        let (ours_err, theirs_err) = tokio::io::duplex(PIPE_BYTES);
        let (resize, sizes) = mpsc::channel(8);
        let (exit, exited) = oneshot::channel();
        let ends = Ends { input: input.then_some(theirs_in), output: theirs_out, error: theirs_err };
        self.options.scope.spawn_until_cancelled("attach", async move {
            let ended = carry(connection, id, ends, sizes).await;
            let _ = exit.send(ended);
        });
        Ok(Streams {
            stdin: input.then(|| Box::new(ours_in) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(ours_out),
            stderr: (!container.config.tty).then(|| Box::new(ours_err) as Box<dyn AsyncRead + Send + Unpin>),
            resize,
            exit: exited,
            kill: None,
        })
    }

    /// A connection to a port that the pod listens on at its own loopback.
    pub async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<TcpStream, Status> {
        let pin = self.netns_path(sandbox_id)?;
        let connected = tokio::task::spawn_blocking(move || {
            let at = |address: SocketAddr| match &pin {
                Some(pin) => netns::connect(pin, address, CONNECT_TIMEOUT),
                None => std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT),
            };
            at((Ipv4Addr::LOCALHOST, port).into())
                .or_else(|first| at((Ipv6Addr::LOCALHOST, port).into()).map_err(|_| first))
        });
        let stream = connected.await.map_err(internal)?;
        let stream = stream.map_err(|error| {
            Status::unavailable(format!(
                "failed to connect to localhost:{port} inside namespace {sandbox_id:?}: {error}"
            ))
        })?;
        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(internal)
    }
}

/// The pipes of an exec without a terminal, by end.
#[derive(Default)]
struct Pipes {
    wants_input: bool,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    fn make(tty: bool, wants_input: bool) -> Result<Pipes, Status> {
        let mut pipes = Pipes { wants_input, ..Pipes::default() };
        if tty {
            return Ok(pipes);
        }
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|error| Status::internal(format!("making a pipe: {error}")));
        let own = |end: &OwnedFd| {
            let flags = rustix::fs::fcntl_getfl(end)?;
            rustix::fs::fcntl_setfl(end, flags | rustix::fs::OFlags::NONBLOCK)
        };
        if wants_input {
            let (theirs, ours) = pipe()?;
            own(&ours).map_err(internal)?;
            pipes.theirs.push(theirs);
            pipes.input = Some(ours);
        }
        for slot in [&mut pipes.output, &mut pipes.error] {
            let (ours, theirs) = pipe()?;
            own(&ours).map_err(internal)?;
            pipes.theirs.push(theirs);
            *slot = Some(ours);
        }
        Ok(pipes)
    }

    fn which(&self) -> wire::Streams {
        wire::Streams { input: self.input.is_some(), output: self.output.is_some(), error: self.error.is_some() }
    }
}

async fn wait_for_exit(
    mut connection: ShimConnection,
    exit: oneshot::Sender<Result<i32, Status>>,
    mut killed: oneshot::Receiver<()>,
) {
    let mut may_be_killed = true;
    loop {
        tokio::select! {
            asked = &mut killed, if may_be_killed => {
                may_be_killed = false;
                if asked.is_ok() {
                    let _ = connection.send(&Request::ExecKill).await;
                }
            }
            reply = connection.receive() => match reply {
                Ok(Reply::Exited { code }) => return drop(exit.send(Ok(code))),
                Ok(_) => {}
                Err(error) => return drop(exit.send(Err(shim::lost(error)))),
            },
        }
    }
}

async fn read_bounded(source: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> std::io::Result<()> {
    (&mut *source).take(EXEC_OUTPUT_BYTES_MAX).read_to_end(into).await?;
    tokio::io::copy(source, &mut tokio::io::sink()).await.map(drop)
}

struct Ends {
    input: Option<DuplexStream>,
    output: DuplexStream,
    error: DuplexStream,
}

/// Carries an attached client's streams until the container ends or the client has gone.
async fn carry(
    mut connection: ShimConnection,
    container: String,
    mut ends: Ends,
    mut sizes: mpsc::Receiver<Resize>,
) -> Result<i32, Status> {
    let mut buffer = vec![0; 8 << 10];
    let mut sizes_open = true;
    loop {
        let input = async {
            match &mut ends.input {
                Some(input) => input.read(&mut buffer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reply = connection.receive() => match reply.map_err(shim::lost)? {
                Reply::Exited { code } => return Ok(code),
                Reply::Output { error, data } => {
                    let end = if error { &mut ends.error } else { &mut ends.output };
                    // A client that does not want one of the streams has dropped it.
                    let _ = end.write_all(&data).await;
                }
                _ => {}
            },
            read = input => {
                let length = read.unwrap_or(0);
                let request = if length == 0 { Request::InputEnd } else { Request::Input { data: buffer[..length].to_vec() } };
                if length == 0 {
                    ends.input = None;
                }
                connection.send(&request).await.map_err(shim::lost)?;
            }
            size = sizes.recv(), if sizes_open => match size {
                Some(Resize { columns, rows }) => {
                    let container = container.clone();
                    connection.send(&Request::Resize { container, columns, rows }).await.map_err(shim::lost)?;
                }
                None => sizes_open = false,
            },
        }
    }
}
