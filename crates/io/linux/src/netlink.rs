//! A socket to the kernel's netlink: finished messages in, acknowledgements or answers out. It knows the envelope of a
//! message and nothing of its meaning; the callers bring the bytes. It blocks, for the kernel answers at once.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// Length of a message's envelope.
const ENVELOPE: usize = 16;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const FLAG_ACK: u16 = 4;
const FLAG_MULTI: u16 = 2;
/// One batch may fill the send buffer; the kernel rounds what it is given down to what it has.
const BUFFER_BYTES_MAX: usize = 64 << 20;

/// Which part of the kernel a socket speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

/// What the kernel said no to.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused netlink message {sequence} of kind {kind:#x}")]
pub struct Refused {
    /// The sequence number the caller gave the message.
    pub sequence: u32,
    pub kind: u16,
    #[source]
    pub source: io::Error,
}

/// One conversation with the kernel, in the network namespace of the thread that opened it.
pub struct Socket {
    socket: OwnedFd,
}

impl Socket {
    pub fn open(family: Family) -> io::Result<Socket> {
        // Number 0, the default of the address family, is the routing protocol.
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        let timeout = std::time::Duration::from_secs(10);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(timeout))?;
        Ok(Socket { socket })
    }

    /// Sends messages that ask for acknowledgement in one piece and waits for every answer. The first refusal is the
    /// error; of a batch the kernel then has applied nothing.
    pub fn transact(&mut self, messages: &[u8]) -> io::Result<()> {
        let mut open = acknowledged(messages);
        self.make_room(messages.len(), open.len());
        rustix::net::send(&self.socket, messages, SendFlags::empty())?;
        let mut refused = None;
        while !open.is_empty() {
            let answer = self.receive()?;
            for message in split(&answer) {
                if message.kind != KIND_ERROR {
                    continue;
                }
                let code = -i32_at(message.body, 0);
                let kind = u16_at(message.body, 8);
                open.retain(|sequence| *sequence != message.sequence);
                if code != 0 && refused.is_none() {
                    let source = io::Error::from_raw_os_error(code);
                    refused = Some(Refused { sequence: message.sequence, kind, source });
                }
                // A batch whose envelope is refused gets this one answer.
                if code != 0 && !is_in(messages, message.sequence, FLAG_ACK) {
                    open.clear();
                }
            }
        }
        match refused {
            Some(refused) => Err(io::Error::new(refused.source.kind(), refused)),
            None => Ok(()),
        }
    }

    /// Sends one request for a listing and gives the body of every answer, without envelopes.
    pub fn dump(&mut self, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        rustix::net::send(&self.socket, request, SendFlags::empty())?;
        let mut found = Vec::new();
        loop {
            let answer = self.receive()?;
            for message in split(&answer) {
                match message.kind {
                    KIND_DONE => return Ok(found),
                    KIND_ERROR => match -i32_at(message.body, 0) {
                        0 => return Ok(found),
                        code => return Err(io::Error::from_raw_os_error(code)),
                    },
                    _ => found.push(message.body.to_vec()),
                }
                if message.flags & FLAG_MULTI == 0 {
                    return Ok(found);
                }
            }
        }
    }

    fn make_room(&self, bytes: usize, answers: usize) {
        // Without the right to exceed the system's limit the default stays, and large batches fail with ENOBUFS.
        let send = (bytes * 2 + (64 << 10)).min(BUFFER_BYTES_MAX);
        let receive = (answers * 1024 + (64 << 10)).min(BUFFER_BYTES_MAX);
        let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, send);
        let _ = sockopt::set_socket_recv_buffer_size_force(&self.socket, receive);
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut nothing = [0u8; 0];
        let (_, length) = rustix::net::recv(&self.socket, &mut nothing[..], RecvFlags::PEEK | RecvFlags::TRUNC)?;
        let mut buffer = vec![0; length];
        let (read, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
        buffer.truncate(read);
        Ok(buffer)
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn split(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while bytes.len() >= ENVELOPE {
        let length = (u32_at(bytes, 0) as usize).clamp(ENVELOPE, bytes.len());
        messages.push(Message {
            kind: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            sequence: u32_at(bytes, 8),
            body: &bytes[ENVELOPE..length],
        });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    messages
}

fn acknowledged(messages: &[u8]) -> Vec<u32> {
    split(messages).iter().filter(|message| message.flags & FLAG_ACK != 0).map(|message| message.sequence).collect()
}

fn is_in(messages: &[u8], sequence: u32, flag: u16) -> bool {
    split(messages).iter().any(|message| message.sequence == sequence && message.flags & flag != 0)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |part| u16::from_ne_bytes([part[0], part[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |part| u32::from_ne_bytes([part[0], part[1], part[2], part[3]]))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    u32_at(bytes, at) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_the_loopback_link() {
        let mut request = Vec::new();
        request.extend_from_slice(&32u32.to_ne_bytes());
        request.extend_from_slice(&18u16.to_ne_bytes());
        request.extend_from_slice(&0x301u16.to_ne_bytes());
        request.extend_from_slice(&[0; 24]);
        let links = Socket::open(Family::Route).unwrap().dump(&request).unwrap();
        assert!(links.iter().any(|link| link[4..8] == 1u32.to_ne_bytes()));
    }

    #[test]
    fn work_happens_inside_the_namespace() {
        let own = std::path::Path::new("/proc/self/ns/net");
        if rustix::process::geteuid().is_root() {
            assert_eq!(crate::netns::run_in(own, || 7).unwrap(), 7);
        }
        assert!(crate::netns::run_in(std::path::Path::new("/nonexistent"), || 7).is_err());
    }
}
