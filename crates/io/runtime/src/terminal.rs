//! The master side of a pseudo-terminal as an asynchronous stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use coracle_linux::{sys, terminal};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Cheap to clone: one clone reads, one writes, one resizes.
#[derive(Clone)]
pub struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    pub fn new(master: OwnedFd) -> io::Result<Terminal> {
        let flags = fcntl_getfl(&master)?;
        fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "an OwnedFd keeps its descriptor open for as long as it is registered")]
        let master = AsyncFd::new(master)?;
        Ok(Terminal { master: Arc::new(master) })
    }

    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        sys::resize_terminal(self.master.get_ref().as_fd(), columns, rows)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let read = |master: &AsyncFd<OwnedFd>| {
                terminal::read_to_the_end(|| rustix::io::read(master, &mut *room)).map_err(io::Error::from)
            };
            match guard.try_io(read) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // The last process that had the terminal has closed it.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|master| rustix::io::write(master, data).map_err(io::Error::from)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
