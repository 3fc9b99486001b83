//! Work inside another network namespace. It happens on a thread of its own that ends with the work, because a thread
//! that came back from a namespace by mistake too late would serve somebody else's sockets.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` with the network namespace pinned at `path` and waits for it. `/proc/sys/net` and `/sys/class/net` opened
/// by `work` are those of the namespace too. A panic of `work` is an error.
pub fn run_in<T, F>(path: &Path, work: F) -> io::Result<T>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    let namespace = std::fs::File::open(path)?;
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("netns".into()).stack_size(256 << 10).spawn_scoped(scope, || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the work in the network namespace panicked")))
    })
}

/// A connection made from inside the namespace; blocks up to `timeout`.
pub fn connect(path: &Path, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    run_in(path, || TcpStream::connect_timeout(&address, timeout))?
}
