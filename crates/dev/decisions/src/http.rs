//! As much HTTP/1.1 as one well-behaved client on this machine needs.

use std::io::{self, BufRead, Write};

use serde_json::Value;

/// A request's body, or a header, is refused beyond this.
const BODY_BYTES_MAX: usize = 16 << 20;

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Vec<u8>,
}

impl Request {
    /// The next request of a connection; `None` at its end.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(ToOwned::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let length = body_length(from)?;
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(Some(Request { method, path: path.into(), query: query.into(), body }))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn body_length(from: &mut impl BufRead) -> io::Result<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    match length <= BODY_BYTES_MAX {
        true => Ok(length),
        false => Err(io::Error::other("a body is too long")),
    }
}

pub fn answer(to: &mut impl Write, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    to.write_all(head.as_bytes())?;
    to.write_all(body.as_bytes())?;
    to.flush()
}

/// Begins a body that comes in pieces.
pub fn begin_stream(to: &mut impl Write) -> io::Result<()> {
    to.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    to.flush()
}

pub fn send_piece(to: &mut impl Write, piece: &str) -> io::Result<()> {
    to.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let text = b"POST /a?b=c HTTP/1.1\r\nContent-length: 2\r\nX: y\r\n\r\n{}GET /d HTTP/1.1\r\n\r\n";
        let mut from = io::BufReader::new(&text[..]);
        let first = Request::read(&mut from).unwrap().unwrap();
        assert_eq!((first.method.as_str(), first.path.as_str(), first.query.as_str()), ("POST", "/a", "b=c"));
        assert_eq!(first.body, b"{}");
        assert_eq!(Request::read(&mut from).unwrap().unwrap().path, "/d");
        assert!(Request::read(&mut from).unwrap().is_none());
    }
}
