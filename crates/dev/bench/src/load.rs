//! A closed-loop load: each connection sends its next request when the answer to the last has been read. HTTP/1.1 over
//! TLS, written by hand so that the generator costs far less than what it measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_client::{Kubeconfig, tls};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::table::Samples;

/// A response of any case is smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where requests go and as whom.
#[derive(Clone)]
pub struct Endpoint {
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    /// `Host`, and `Authorization` where a token is used.
    headers: String,
}

/// Makes the request with this sequence number, or ends the load.
pub type Next = dyn Fn(u64) -> Option<Vec<u8>> + Send + Sync;

#[derive(Debug, Default)]
pub struct Measured {
    pub answered: u64,
    /// Answered with a status of 300 and above.
    pub failed: u64,
    pub seconds: f64,
    pub latencies_ms: Samples,
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }
}

impl Endpoint {
    pub fn of(config: &Kubeconfig) -> Result<Endpoint> {
        let (cluster, user) = config.current()?;
        let address = cluster.server.strip_prefix("https://").context("a server is measured over HTTPS")?;
        let address = address.trim_end_matches('/').to_owned();
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).context("the server's name")?;
        let mut settings = tls::client_config(config, cluster, user)?;
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        let token = user.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let headers = format!("Host: {address}\r\n{}", token.unwrap_or_default());
        Ok(Endpoint { address, name, tls: TlsConnector::from(Arc::new(settings)), headers })
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\n{}Accept: application/json\r\n\r\n", self.headers).into_bytes()
    }

    /// A request with a body; `what` is its method and path.
    pub fn send(&self, what: &str, content_type: &str, body: &str) -> Vec<u8> {
        let (headers, length) = (&self.headers, body.len());
        let head = format!("{what} HTTP/1.1\r\n{headers}Accept: application/json\r\nContent-Type: {content_type}\r\n");
        format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    }

    pub async fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(Connection { stream: self.tls.connect(self.name.clone(), tcp).await?, buffer: Vec::new() })
    }

    /// Runs the load on a thread of its own until `window` has passed or `next` ends it.
    pub async fn load(&self, connections: usize, window: Duration, next: Arc<Next>) -> Result<Measured> {
        let endpoint = self.clone();
        let run = move || -> Result<Measured> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(endpoint.drive(connections, window, next))
        };
        tokio::task::spawn_blocking(run).await.context("the load generator ended early")?
    }

    async fn drive(self, connections: usize, window: Duration, next: Arc<Next>) -> Result<Measured> {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(self.connect().await.context("connecting to the server")?);
        }
        let sequence = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let tasks: Vec<_> = open
            .into_iter()
            .map(|connection| tokio::spawn(connection.repeat(began + window, sequence.clone(), next.clone())))
            .collect();
        let mut all = Measured::default();
        for task in tasks {
            let one = task.await.context("a connection's task")??;
            all.answered += one.answered;
            all.failed += one.failed;
            all.latencies_ms.0.extend(one.latencies_ms.0);
        }
        all.seconds = began.elapsed().as_secs_f64();
        Ok(all)
    }
}

/// One kept connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn repeat(mut self, until: Instant, sequence: Arc<AtomicU64>, next: Arc<Next>) -> Result<Measured> {
        let mut measured = Measured::default();
        loop {
            let begun = Instant::now();
            let Some(request) = next(sequence.fetch_add(1, Ordering::Relaxed)).filter(|_| begun < until) else {
                return Ok(measured);
            };
            let status = self.exchange(&request).await?;
            measured.answered += 1;
            measured.failed += u64::from(status >= 300);
            measured.latencies_ms.0.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }

    /// Sends a request, reads the answer to its end and returns its status.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some((status, _)) = answer(&self.buffer) {
                return Ok(status);
            }
            ensure!(self.buffer.len() < ANSWER_BYTES_MAX, "an answer is too long");
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed a connection");
        }
    }
}

/// Status and length of an answer that is there completely.
fn answer(bytes: &[u8]) -> Option<(u16, usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = match length {
        Some(length) => head_end + length,
        None => chunked_end(bytes, head_end)?,
    };
    (bytes.len() >= end).then_some((status, end))
}

/// Where a chunked body ends, without trailers.
fn chunked_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line_length = bytes.get(at..)?.windows(2).take(32).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line_length]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line_length + 2 + size + 2;
        if size == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let text = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(answer(text), Some((201, text.len())));
        assert_eq!(answer(&text[..text.len() - 1]), None);
    }

    #[test]
    fn a_chunked_answer_ends_with_the_empty_chunk() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(answer(text), Some((200, text.len())));
        for cut in 0..text.len() {
            assert_eq!(answer(&text[..cut]), None, "cut at {cut}");
        }
    }
}
