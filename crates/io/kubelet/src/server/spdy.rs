//! SPDY/3.1 as far as Kubernetes' clients speak it: streams opened by the client, headers compressed with the protocol's
//! dictionary, data both ways. Windows are not kept, as the clients do not keep them either; every stream of ours has a
//! bounded queue instead. Source: the SPDY protocol, draft 3.1.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::upgrade::see_off;

/// The protocol's dictionary for headers, as the draft has it.
const DICTIONARY: &[u8] = include_bytes!("spdy_dictionary.bin");
const FRAME_BYTES_MAX: usize = 16 << 20;
const HEADER_BYTES_MAX: usize = 64 << 10;
const STREAMS_MAX: usize = 256;
const QUEUE_MAX: usize = 32;
const DATA_BYTES_MAX: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FLAG_FIN: u8 = 1;

/// A stream that the client has opened.
pub(crate) struct Stream {
    pub headers: BTreeMap<String, String>,
    /// Ends with the client's last data.
    pub incoming: mpsc::Receiver<Bytes>,
    pub outgoing: Outgoing,
}

/// Our side of a stream.
#[derive(Clone)]
pub(crate) struct Outgoing {
    id: u32,
    sender: mpsc::Sender<Write>,
}

enum Write {
    Data { id: u32, bytes: Bytes, fin: bool },
    Reset { id: u32 },
    Pong(Bytes),
    Reply { id: u32 },
    Close,
}

impl Outgoing {
    /// Whether the connection still takes data.
    pub async fn send(&self, bytes: Bytes) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(DATA_BYTES_MAX));
            if self.sender.send(Write::Data { id: self.id, bytes: part, fin: false }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Nothing more comes from us on this stream.
    pub async fn finish(&self) {
        let _ = self.sender.send(Write::Data { id: self.id, bytes: Bytes::new(), fin: true }).await;
    }

    pub async fn reset(&self) {
        let _ = self.sender.send(Write::Reset { id: self.id }).await;
    }

    /// Ends the connection once everything sent before is out.
    pub async fn close_connection(&self) {
        let _ = self.sender.send(Write::Close).await;
    }
}

/// Serves a connection until it ends, telling every stream that the client opens.
pub(crate) async fn serve<S>(connection: S, streams: mpsc::Sender<Stream>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send,
{
    let (reader, writer) = tokio::io::split(connection);
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let reading = read_frames(reader, sender, streams);
    let writing = write_frames(writer, receiver);
    tokio::pin!(reading, writing);
    tokio::select! {
        ended = &mut reading => ended,
        ended = &mut writing => {
            see_off(reading).await;
            ended
        }
    }
}

struct Reading {
    headers: HeaderReader,
    open: BTreeMap<u32, mpsc::Sender<Bytes>>,
    writes: mpsc::Sender<Write>,
    streams: mpsc::Sender<Stream>,
}

async fn read_frames<R>(mut reader: R, writes: mpsc::Sender<Write>, streams: mpsc::Sender<Stream>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
{
    let mut state = Reading { headers: HeaderReader::new()?, open: BTreeMap::new(), writes, streams };
    loop {
        let mut head = [0; 8];
        match reader.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(invalid("frame too long"));
        }
        let mut body = BytesMut::zeroed(length);
        reader.read_exact(&mut body).await?;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let fin = head[4] & FLAG_FIN != 0;
        if first & 0x8000_0000 == 0 {
            state.data(first, body.freeze(), fin).await;
            continue;
        }
        match (first & 0xffff) as u16 {
            SYN_STREAM => state.open_stream(body.freeze(), fin).await?,
            HEADERS => drop(state.headers.read(body.get(4..).unwrap_or_default())?),
            RST_STREAM if body.len() >= 4 => drop(state.open.remove(&stream_id(&body))),
            PING => state.write(Write::Pong(body.freeze())).await?,
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

impl Reading {
    async fn open_stream(&mut self, body: Bytes, fin: bool) -> io::Result<()> {
        if body.len() < 10 {
            return Err(invalid("short SYN_STREAM"));
        }
        let id = stream_id(&body);
        let headers = self.headers.read(&body[10..])?;
        if self.open.len() >= STREAMS_MAX {
            return self.write(Write::Reset { id }).await;
        }
        let (sender, incoming) = mpsc::channel(QUEUE_MAX);
        if !fin {
            self.open.insert(id, sender);
        }
        self.write(Write::Reply { id }).await?;
        let outgoing = Outgoing { id, sender: self.writes.clone() };
        let stream = Stream { headers, incoming, outgoing };
        self.streams.send(stream).await.map_err(|_| invalid("nobody takes streams"))
    }

    async fn data(&mut self, id: u32, bytes: Bytes, fin: bool) {
        if let Some(sender) = self.open.get(&id)
            && !bytes.is_empty()
            && sender.send(bytes).await.is_err()
        {
            self.open.remove(&id);
        }
        if fin {
            self.open.remove(&id);
        }
    }

    async fn write(&self, write: Write) -> io::Result<()> {
        self.writes.send(write).await.map_err(|_| invalid("the connection is closed"))
    }
}

async fn write_frames<W>(mut writer: W, mut receiver: mpsc::Receiver<Write>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut headers = HeaderWriter { begun: false };
    while let Some(write) = receiver.recv().await {
        let mut out = BytesMut::new();
        match write {
            Write::Data { id, bytes, fin } => {
                out.put_u32(id);
                out.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
                out.extend_from_slice(&bytes);
            }
            Write::Reset { id } => {
                control(&mut out, RST_STREAM, 8);
                out.put_u32(id);
                out.put_u32(5);
            }
            Write::Pong(body) => {
                control(&mut out, PING, body.len());
                out.extend_from_slice(&body);
            }
            Write::Reply { id } => {
                let block = headers.empty_block();
                control(&mut out, SYN_REPLY, 4 + block.len());
                out.put_u32(id);
                out.extend_from_slice(&block);
            }
            Write::Close => {
                writer.flush().await?;
                return writer.shutdown().await;
            }
        }
        writer.write_all(&out).await?;
        if receiver.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(())
}

fn control(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

fn stream_id(body: &[u8]) -> u32 {
    body.get(..4).map_or(0, |id| u32::from_be_bytes([id[0] & 0x7f, id[1], id[2], id[3]]))
}

/// Reads header blocks. All of a connection are one zlib stream whose window begins with the dictionary; it is put there
/// as if it had been sent, in a block without compression.
struct HeaderReader {
    inflate: Decompress,
    begun: bool,
}

impl HeaderReader {
    fn new() -> io::Result<HeaderReader> {
        let mut inflate = Decompress::new(false);
        let mut dictionary = stored_block(DICTIONARY);
        let mut out = Vec::with_capacity(DICTIONARY.len() + 64);
        inflate.decompress_vec(&dictionary, &mut out, FlushDecompress::Sync).map_err(io::Error::other)?;
        dictionary.clear();
        if out.len() != DICTIONARY.len() {
            return Err(invalid("the dictionary was not taken"));
        }
        Ok(HeaderReader { inflate, begun: false })
    }

    fn read(&mut self, block: &[u8]) -> io::Result<BTreeMap<String, String>> {
        let mut input = block;
        if !self.begun {
            // The zlib header, and the checksum that names the dictionary.
            let skip = if block.get(1).is_some_and(|flags| flags & 0x20 != 0) { 6 } else { 2 };
            input = block.get(skip..).ok_or_else(|| invalid("short header block"))?;
            self.begun = true;
        }
        let mut out: Vec<u8> = Vec::with_capacity(1024);
        loop {
            let (in_before, out_before) = (self.inflate.total_in(), out.len());
            self.inflate.decompress_vec(input, &mut out, FlushDecompress::Sync).map_err(io::Error::other)?;
            input = &input[(self.inflate.total_in() - in_before) as usize..];
            let stuck = input.is_empty() && out.len() < out.capacity();
            if stuck || (out.len() == out_before && out.len() < out.capacity()) {
                break;
            }
            if out.len() > HEADER_BYTES_MAX {
                return Err(invalid("headers too long"));
            }
            out.reserve(1024);
        }
        parse_headers(&out)
    }
}

fn parse_headers(mut block: &[u8]) -> io::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    let count = take_u32(&mut block)?;
    for _ in 0..count {
        let name = take_text(&mut block)?;
        headers.insert(name.to_lowercase(), take_text(&mut block)?);
    }
    Ok(headers)
}

fn take_u32(block: &mut &[u8]) -> io::Result<u32> {
    if block.len() < 4 { Err(invalid("short header block")) } else { Ok(block.get_u32()) }
}

fn take_text(block: &mut &[u8]) -> io::Result<String> {
    let length = take_u32(block)? as usize;
    if block.len() < length {
        return Err(invalid("short header block"));
    }
    let (text, rest) = block.split_at(length);
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Writes header blocks without compression, which every reader of zlib takes.
struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    fn empty_block(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            // Deflate, 32 KiB window, with a dictionary; the check bits make the pair a multiple of 31.
            out.extend_from_slice(&[0x78, 0xbb]);
            out.extend_from_slice(&adler32(DICTIONARY).to_be_bytes());
        }
        out.extend_from_slice(&stored_block(&0_u32.to_be_bytes()));
        // The empty block of a flush: Go's reader hands out what came before only when it meets one.
        out.extend_from_slice(&stored_block(&[]));
        out
    }
}

fn stored_block(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u16;
    let mut out = vec![0];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(content);
    out
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    high << 16 | low
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYN_STREAM blocks of one connection as Go's compress/zlib writes them.
    #[test]
    fn header_blocks_of_one_connection_share_a_window() {
        let mut reader = HeaderReader::new().unwrap();
        let mut block = vec![0x78, 0xbb];
        block.extend_from_slice(&adler32(DICTIONARY).to_be_bytes());
        let mut plain = 1_u32.to_be_bytes().to_vec();
        for text in ["Streamtype", "error"] {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        block.extend_from_slice(&stored_block(&plain));
        assert_eq!(reader.read(&block).unwrap()["streamtype"], "error");
        assert_eq!(reader.read(&stored_block(&plain)).unwrap()["streamtype"], "error");
    }

    #[test]
    fn header_blocks_of_ours_end_with_a_flush() {
        let mut writer = HeaderWriter { begun: false };
        for _ in 0..2 {
            assert!(writer.empty_block().ends_with(&[0, 0, 0, 0xff, 0xff]));
        }
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        assert_eq!((DICTIONARY.len(), adler32(DICTIONARY)), (1423, 0xe3c6_a7c2));
    }

    #[tokio::test]
    async fn a_stream_is_answered_and_carries_data_both_ways() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (sender, mut streams) = mpsc::channel::<Stream>(4);
        let echo = async {
            let mut stream = streams.recv().await.unwrap();
            let data = stream.incoming.recv().await.unwrap();
            stream.outgoing.send(data).await;
            stream.outgoing.close_connection().await;
        };
        let talk = async move {
            let mut out = BytesMut::new();
            let block = HeaderWriter { begun: false }.empty_block();
            control(&mut out, SYN_STREAM, 10 + block.len());
            out.put_u32(1);
            out.put_bytes(0, 6);
            out.extend_from_slice(&block);
            out.put_u32(1);
            out.put_u32(1 << 24 | 2);
            out.extend_from_slice(b"hi");
            client.write_all(&out).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (_, (), answer) = tokio::join!(serve(server, sender), echo, talk);
        assert_eq!(answer[..4], [0x80, 3, 0, 2]);
        assert!(answer.ends_with(&[0, 0, 0, 1, 0, 0, 0, 2, b'h', b'i']));
    }
}
