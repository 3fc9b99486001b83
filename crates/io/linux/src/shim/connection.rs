//! One client of a shim: requests in, replies out, never blocking.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::child::Stdio;
use crate::wire::{self, Reply, Request, Streams};

/// A client that leaves more than this unread is cut off; events and replies are small.
const UNREAD_BYTES_MAX: usize = 1 << 20;

pub struct Connection {
    pub stream: UnixStream,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    unsent: Vec<u8>,
    pub subscribed: bool,
    /// The container it listens to, and whether it may write.
    pub attached: Option<(String, bool)>,
    pub exec: Option<i32>,
    /// It asked for the shutdown and hears when it is done.
    pub awaits_end: bool,
    pub closed: bool,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Connection {
        Connection {
            stream,
            received: Vec::new(),
            descriptors: Vec::new(),
            unsent: Vec::new(),
            subscribed: false,
            attached: None,
            exec: None,
            awaits_end: false,
            closed: false,
        }
    }

    pub fn has_pending(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub fn is_attached_to(&self, id: &str) -> bool {
        self.attached.as_ref().is_some_and(|(attached, _)| attached == id)
    }

    pub fn send(&mut self, reply: &Reply) {
        self.send_bytes(&wire::encode(reply));
    }

    pub fn send_bytes(&mut self, frame: &[u8]) {
        self.unsent.extend_from_slice(frame);
        self.flush();
        self.closed |= self.unsent.len() > UNREAD_BYTES_MAX;
    }

    /// Sends a reply with a descriptor; only used when nothing else waits, so it goes in one piece.
    pub fn send_with_descriptor(&mut self, reply: &Reply, descriptor: Option<OwnedFd>) {
        let Some(descriptor) = descriptor else { return self.send(reply) };
        self.closed |= wire::send_with(&self.stream, &wire::encode(reply), &[descriptor.as_fd()]).is_err();
    }

    pub fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.closed = true;
                    self.unsent = Vec::new();
                }
            }
        }
        self.unsent = Vec::new();
    }

    pub fn receive(&mut self) {
        let mut buffer = [0; 2 << 10];
        while !self.closed && self.received.len() <= wire::FRAME_BYTES_MAX {
            match wire::receive_with(&self.stream, &mut buffer, &mut self.descriptors) {
                Ok(0) => self.closed = true,
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.closed = true,
            }
        }
    }

    pub fn next_request(&mut self) -> Option<Request> {
        match wire::take_frame(&mut self.received) {
            Ok(request) => {
                if self.received.is_empty() {
                    self.received = Vec::new();
                }
                request
            }
            Err(error) => {
                self.send(&Reply::Failed { message: error.to_string() });
                self.closed = true;
                None
            }
        }
    }

    /// The descriptors that came with an exec.
    pub fn take_streams(&mut self, streams: Streams) -> Stdio {
        let mut arrived = std::mem::take(&mut self.descriptors).into_iter();
        let mut next = |wanted: bool| if wanted { arrived.next() } else { None };
        Stdio { input: next(streams.input), output: next(streams.output), error: next(streams.error) }
    }

    pub fn say_goodbye(&mut self) {
        if self.awaits_end {
            self.send(&Reply::Done);
        }
        let _ = self.stream.set_nonblocking(false);
        self.flush();
    }
}
