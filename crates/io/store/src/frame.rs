//! Bytes of the log: a frame is what one sync makes durable, a list of records under one checksum.
//!
//! Frame: magic, length, checksum (4 bytes each), sequence (8), payload. The checksum covers the log's random id and
//! the sequence, so that no value a client stores can pass for a frame. Payload: the ceiling (8), then records.
//! Record: kind (1), revision (8), expiry (8), key length (4), value length (4), key, value. Little endian.

use bytes::{BufMut, Bytes};
use coracle_mvcc::{Change, Revision};

pub const FRAME_HEADER: usize = 20;
const MAGIC: u32 = 0x4c52_4f43;
const RECORD_HEADER: usize = 25;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One write, as a frame carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub revision: Revision,
    pub change: Change<Bytes>,
}

/// A record read back, and where in the file its value lies.
pub struct Found {
    pub record: Record,
    pub offset: usize,
}

impl Record {
    pub fn key(&self) -> &Bytes {
        match &self.change {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }

    /// Appends the record; tells where its value begins in `out`.
    pub fn write(&self, out: &mut Vec<u8>) -> usize {
        let (kind, value, expires_at) = match &self.change {
            Change::Put { value, expires_at, .. } => (PUT, value.as_ref(), *expires_at),
            Change::Delete { .. } => (DELETE, [].as_slice(), 0),
        };
        out.put_u8(kind);
        out.put_u64_le(self.revision);
        out.put_u64_le(expires_at);
        out.put_u32_le(self.key().len() as u32);
        out.put_u32_le(value.len() as u32);
        out.put_slice(self.key());
        out.put_slice(value);
        out.len() - value.len()
    }
}

/// The frame of a payload.
pub fn seal(log_id: u64, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER + payload.len());
    out.put_u32_le(MAGIC);
    out.put_u32_le(payload.len() as u32);
    out.put_u32_le(checksum(log_id, sequence, payload));
    out.put_u64_le(sequence);
    out.put_slice(payload);
    out
}

/// The frame at the start of `bytes`, if one stands there whole: its sequence and payload.
pub fn open(log_id: u64, bytes: &[u8]) -> Option<(u64, &[u8])> {
    let header = bytes.get(..FRAME_HEADER)?;
    if u32_at(header, 0) != MAGIC {
        return None;
    }
    let sequence = u64_at(header, 12);
    let payload = bytes.get(FRAME_HEADER..FRAME_HEADER.checked_add(u32_at(header, 4) as usize)?)?;
    (u32_at(header, 8) == checksum(log_id, sequence, payload)).then_some((sequence, payload))
}

/// Whether a whole frame of this sequence or a later one begins anywhere in `bytes`.
pub fn any_from(log_id: u64, sequence: u64, bytes: &[u8]) -> bool {
    let starts = MAGIC.to_le_bytes();
    let candidates = bytes.windows(starts.len()).enumerate().filter(|(_, window)| *window == starts);
    let mut frames = candidates.filter_map(|(place, _)| open(log_id, &bytes[place..]));
    frames.any(|(found, _)| found >= sequence)
}

/// The records of a payload behind its first `skip` bytes, `None` where it is not made of records.
pub fn records(payload: &[u8], skip: usize) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    let mut place = skip;
    while place < payload.len() {
        let (record, end) = record(payload, place)?;
        found.push(record);
        place = end;
    }
    Some(found)
}

/// The record at `place`, and where it ends.
pub fn record(payload: &[u8], place: usize) -> Option<(Found, usize)> {
    let header = payload.get(place..place.checked_add(RECORD_HEADER)?)?;
    let (revision, expires_at) = (u64_at(header, 1), u64_at(header, 9));
    let key_start = place + RECORD_HEADER;
    let offset = key_start.checked_add(u32_at(header, 17) as usize)?;
    let end = offset.checked_add(u32_at(header, 21) as usize)?;
    let key = Bytes::copy_from_slice(payload.get(key_start..offset)?);
    let change = match header[0] {
        PUT => Change::Put { key, value: Bytes::copy_from_slice(payload.get(offset..end)?), expires_at },
        DELETE => Change::Delete { key },
        _ => return None,
    };
    Some((Found { record: Record { revision, change }, offset }, end))
}

pub fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[place + index]))
}

pub fn u64_at(bytes: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[place + index]))
}

fn checksum(log_id: u64, sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log_id.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}
