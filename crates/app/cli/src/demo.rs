//! A workload that needs no registry: the binary itself as an image. `demo serve` is a small web server that shows
//! which pod answered, `demo fetch` a client for use inside pods.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Demo {
    /// Answers HTTP with the name, node and address of the pod
    Serve {
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Prints what a URL answers
    Fetch {
        /// `http://HOST[:PORT]/PATH`
        url: String,
        /// How many times
        #[arg(short = 'n', long, default_value_t = 1)]
        times: u32,
    },
}

const DRAIN_MAX: Duration = Duration::from_secs(10);
const REQUEST_BYTES_MAX: usize = 16 * 1024;

pub fn run(demo: Demo) -> Result<()> {
    match demo {
        Demo::Serve { port } => serve(port),
        Demo::Fetch { url, times } => (0..times).try_for_each(|_| fetch(&url).map(|body| print!("{body}"))),
    }
}

/// Serves until SIGTERM or SIGINT, then lets the requests in hand end.
fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listening on port {port}"))?;
    let stopping = Arc::new(AtomicBool::new(false));
    stop_on_signal(port, stopping.clone())?;
    println!("listening on port {port}");
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            break;
        }
        let Ok(connection) = connection else { continue };
        let (open, stopping) = (open.clone(), stopping.clone());
        open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            let _ = answer(connection, &stopping);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    let deadline = Instant::now() + DRAIN_MAX;
    while open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("stopped");
    Ok(())
}

/// Sets the flag at a signal and wakes the accept loop by a connection of its own.
fn stop_on_signal(port: u16, stopping: Arc<AtomicBool>) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the signal thread")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
            let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
            tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        });
        stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", port));
    });
    Ok(())
}

/// Answers the requests of one connection until it closes or the server stops.
fn answer(mut connection: TcpStream, stopping: &AtomicBool) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut pending = Vec::new();
    loop {
        let Some(path) = next_request(&mut connection, &mut pending)? else { return Ok(()) };
        let last = stopping.load(Ordering::SeqCst);
        let (status, body) = match path.as_str() {
            "/healthz" => ("200 OK", "ok\n".to_owned()),
            "/" => ("200 OK", greeting()),
            _ => ("404 Not Found", "not found\n".to_owned()),
        };
        let close = if last { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {close}\r\n\r\n",
            body.len()
        );
        connection.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        if last {
            return Ok(());
        }
    }
}

/// The path of the next request; `None` at the end of the connection. Bodies are not expected.
fn next_request(connection: &mut TcpStream, pending: &mut Vec<u8>) -> std::io::Result<Option<String>> {
    let mut chunk = [0; 2048];
    loop {
        if let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&pending[..end]).into_owned();
            pending.drain(..end + 4);
            let target = head.split(' ').nth(1).unwrap_or("/").to_owned();
            return Ok(Some(target.split('?').next().unwrap_or("/").to_owned()));
        }
        let read = connection.read(&mut chunk)?;
        if read == 0 || pending.len() > REQUEST_BYTES_MAX {
            return Ok(None);
        }
        pending.extend_from_slice(&chunk[..read]);
    }
}

fn greeting() -> String {
    let from = |name: &str| std::env::var(name).unwrap_or_else(|_| "unknown".into());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let pod = std::env::var("POD_NAME").unwrap_or_else(|_| host.trim().to_owned());
    format!("Hello from pod {pod} on node {} at {}\n", from("NODE_NAME"), from("POD_IP"))
}

/// One GET over a fresh connection.
fn fetch(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("only http:// URLs are fetched")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut connection = TcpStream::connect(&address).with_context(|| format!("connecting to {address}"))?;
    connection.set_read_timeout(Some(Duration::from_secs(10))).context("setting a read time-out")?;
    write!(connection, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").context("sending")?;
    // The server keeps the connection open unless it stops: read as much as it says.
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = connection.read(&mut chunk).context("receiving")?;
        text.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&text);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            anyhow::ensure!(read > 0, "{address} closed the connection without an answer");
            continue;
        };
        let status = head.lines().next().unwrap_or_default();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let complete =
            length.and_then(|(_, length)| length.parse().ok()).is_some_and(|length: usize| body.len() >= length);
        if read == 0 || complete {
            anyhow::ensure!(status.contains(" 200 "), "{url}: {status}");
            return Ok(body.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_can_be_fetched() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || answer(listener.accept().unwrap().0, &AtomicBool::new(true)));
        assert_eq!(fetch(&format!("http://127.0.0.1:{port}/healthz")).unwrap(), "ok\n");
    }
}
