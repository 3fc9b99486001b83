//! The daemon's end of a shim's socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;

use coracle_linux::plan::{self, ContainerStatus};
use coracle_linux::wire::{self, Reply, Request};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tonic::Status;

pub struct ShimConnection {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl ShimConnection {
    /// Connects to the shim of the pod in this folder, through a descriptor: paths of sockets are short.
    pub fn connect(dir: &Path) -> io::Result<ShimConnection> {
        let folder = File::open(dir)?;
        let short = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), plan::SHIM_SOCKET);
        ShimConnection::new(BlockingStream::connect(short)?)
    }

    pub fn new(stream: BlockingStream) -> io::Result<ShimConnection> {
        stream.set_nonblocking(true)?;
        Ok(ShimConnection { stream: UnixStream::from_std(stream)?, received: Vec::new(), descriptors: Vec::new() })
    }

    pub async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&wire::encode(request)).await
    }

    /// Sends a request together with descriptors.
    pub async fn send_with(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = wire::encode(request);
        let sent = loop {
            self.stream.writable().await?;
            let socket = self.stream.as_fd();
            match self.stream.try_io(Interest::WRITABLE, || wire::send_with(socket, &bytes, descriptors)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break sent?,
            }
        };
        self.stream.write_all(&bytes[sent..]).await
    }

    /// The next message; an error of kind `UnexpectedEof` when the shim is gone.
    pub async fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = wire::take_frame(&mut self.received)? {
                return Ok(reply);
            }
            self.stream.readable().await?;
            let (socket, mut buffer) = (self.stream.as_fd(), [0; 16 << 10]);
            let descriptors = &mut self.descriptors;
            let got = self.stream.try_io(Interest::READABLE, || wire::receive_with(socket, &mut buffer, descriptors));
            match got {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A descriptor that came with what was received.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop()
    }

    pub async fn call(&mut self, request: &Request) -> Result<Reply, Status> {
        self.send(request).await.map_err(lost)?;
        accept(self.receive().await.map_err(lost)?)
    }
}

/// One request over a connection of its own.
pub async fn call(dir: &Path, request: &Request) -> Result<Reply, Status> {
    ShimConnection::connect(dir).map_err(lost)?.call(request).await
}

/// Statuses of all containers that a shim knows, and from then on its events.
pub async fn subscribe(connection: &mut ShimConnection) -> Result<Vec<ContainerStatus>, Status> {
    match connection.call(&Request::Subscribe).await? {
        Reply::Ready { containers, .. } => Ok(containers),
        other => Err(unexpected(&other)),
    }
}

pub fn accept(reply: Reply) -> Result<Reply, Status> {
    match reply {
        Reply::Failed { message } => Err(Status::unknown(message)),
        Reply::NotFound { message } => Err(Status::not_found(message)),
        other => Ok(other),
    }
}

pub fn unexpected(reply: &Reply) -> Status {
    Status::internal(format!("the shim answered {reply:?}"))
}

pub fn lost(error: io::Error) -> Status {
    Status::unavailable(format!("talking to the pod's shim: {error}"))
}
