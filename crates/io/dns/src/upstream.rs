//! Names outside the cluster: the request goes on, as it is, to the machine's own resolvers, one after the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const ANSWER_BYTES_MAX: usize = 65_535;
const HEADER_BYTES: usize = 12;
/// As many as resolv.conf(5) allows.
const RESOLVERS_MAX: usize = 3;
const DNS_PORT: u16 = 53;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The first answer any of the resolvers gives.
pub async fn forward(request: &[u8], transport: Transport, resolvers: &[SocketAddr]) -> Option<Vec<u8>> {
    for _ in 0..ROUNDS {
        for resolver in resolvers {
            let answer = async {
                match transport {
                    Transport::Udp => over_udp(request, *resolver).await,
                    Transport::Tcp => over_tcp(request, *resolver).await,
                }
            };
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver failed"),
                Err(_) => tracing::debug!(%resolver, "a resolver did not answer in time"),
            }
        }
    }
    None
}

async fn over_udp(request: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of its own per request, and only this resolver heard: a forged answer must guess both port and number.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], request) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(request: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_framed(&mut stream, request).await?;
    let answer = read_framed(&mut stream).await?.unwrap_or_default();
    if answers(&answer, request) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Same number, and marked as an answer.
fn answers(answer: &[u8], request: &[u8]) -> bool {
    answer.len() >= HEADER_BYTES
        && request.len() >= HEADER_BYTES
        && answer[..2] == request[..2]
        && answer[2] & 0x80 != 0
}

/// Reads one message of a TCP stream; `None` at its end.
pub async fn read_framed(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The resolvers of a resolv.conf.
pub fn resolvers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    addresses.take(RESOLVERS_MAX).map(|address| SocketAddr::new(address, DNS_PORT)).collect()
}
