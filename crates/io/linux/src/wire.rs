//! How daemon and shim talk: frames of a length (four bytes, little-endian) and JSON on a unix stream socket, and the
//! messages. Version 1; a shim answers its version in `Hello`, so that a newer daemon can speak as it did.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::plan::{ContainerStatus, ProcessPlan};

pub const VERSION: u32 = 1;
/// No message is longer; a longer length means a broken peer.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// The first message on the socket a zygote handed over: become the shim of the pod in this folder. `Ready` and
    /// events follow, as after `Subscribe`.
    Open {
        dir: String,
    },
    /// Version and the status of every container.
    Hello,
    /// As `Hello`, and from then on an `Event` for every change.
    Subscribe,
    /// Runs the container whose plan lies in `containers/ID/plan.json`.
    Start {
        container: String,
    },
    /// Sends a signal to the container's first process, or to every process it has.
    Signal {
        container: String,
        signal: i32,
        everyone: bool,
    },
    /// Runs a process in a container, on the descriptors that come with this message: standard input, output, error
    /// as `streams` says. With a terminal, its master comes back with `ExecStarted`. `Exited` follows.
    Exec {
        container: String,
        process: Box<ProcessPlan>,
        streams: Streams,
    },
    /// Kills what this connection started by `Exec`.
    ExecKill,
    /// Output of the container from now on, as `Output` frames, and `Input` towards it. `Exited` follows.
    Attach {
        container: String,
        input: bool,
    },
    Input {
        data: Vec<u8>,
    },
    InputEnd,
    Resize {
        container: String,
        columns: u16,
        rows: u16,
    },
    ReopenLog {
        container: String,
    },
    /// The shim forgets an exited container.
    Forget {
        container: String,
    },
    /// Kills everything and ends.
    Shutdown,
}

/// Which descriptors accompany an exec, in this order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Streams {
    pub input: bool,
    pub output: bool,
    pub error: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Done,
    Failed {
        message: String,
    },
    /// No such container, or it does not run.
    NotFound {
        message: String,
    },
    Ready {
        version: u32,
        pid: i32,
        containers: Vec<ContainerStatus>,
    },
    Started {
        status: ContainerStatus,
    },
    ExecStarted {
        pid: i32,
    },
    Exited {
        code: i32,
    },
    Event {
        status: ContainerStatus,
    },
    Output {
        error: bool,
        data: Vec<u8>,
    },
}

pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).expect("messages have only string keys");
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// The first whole frame at the start of `buffer`, taken out of it; `None` while it is incomplete.
pub fn take_frame<T: for<'a> Deserialize<'a>>(buffer: &mut Vec<u8>) -> Result<Option<T>, std::io::Error> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too long"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[4..4 + length])?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

pub fn read_frame<T: for<'a> Deserialize<'a>>(stream: &mut impl Read) -> std::io::Result<T> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes(head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

pub fn write_frame<T: Serialize>(stream: &mut impl Write, message: &T) -> std::io::Result<()> {
    stream.write_all(&encode(message))
}

/// Sends bytes with descriptors attached to the first of them; gives how many bytes went.
pub fn send_with(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Receives bytes and the descriptors that came with them; 0 bytes: the peer has closed.
pub fn receive_with(socket: impl AsFd, bytes: &mut [u8], into: &mut Vec<OwnedFd>) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            into.extend(descriptors);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "too many descriptors"));
    }
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_only_when_whole() {
        let frame = encode(&Request::Hello);
        let mut buffer = frame[..frame.len() - 1].to_vec();
        assert!(take_frame::<Request>(&mut buffer).unwrap().is_none());
        buffer.push(frame[frame.len() - 1]);
        assert!(matches!(take_frame::<Request>(&mut buffer).unwrap(), Some(Request::Hello)));
        assert!(buffer.is_empty());
    }
}
