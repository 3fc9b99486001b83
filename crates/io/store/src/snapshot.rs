//! A snapshot: every live key as of one revision in one file, so that the segments before it can go.
//!
//! Header: magic (8), format (4), number (4), log id (8), revision (8), the log's next sequence (8), milliseconds since
//! the epoch (8), checksum (4). Then frames of entries (creation revision 8, version 8, record), and a last frame that
//! holds their count alone.

use std::io;

use bytes::{BufMut, Bytes};
use coracle_mvcc::{Change, Index, Revision, Span, Version};

use crate::disk::{Disk, read_all};
use crate::error::OpenError;
use crate::frame::{self, FRAME_HEADER, Record, u32_at, u64_at};
use crate::log::{FORMAT, Place};
use crate::slots::{Shared, Slot, settle};

const MAGIC: &[u8; 8] = b"CORASNP\n";
const HEADER: usize = 52;
const KEYS_PER_FRAME: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub number: u32,
    pub log_id: u64,
    pub revision: Revision,
    /// The log from this frame on follows the snapshot.
    pub sequence: u64,
    pub written_at: u64,
}

pub fn snapshot_name(number: u32) -> String {
    format!("{number:08}.snap")
}

impl Snapshot {
    /// Writes the live keys as of its revision, durably, and lets their values rest here from now on.
    pub fn write(&self, shared: &Shared) -> io::Result<()> {
        let (name, draft) = (snapshot_name(self.number), format!("{:08}.tmp", self.number));
        let file = shared.disk.create(&draft)?;
        file.write_at(0, &self.header())?;
        let (mut end, mut sequence, mut places) = (HEADER as u64, 1, Vec::new());
        let mut start = Bytes::new();
        loop {
            let part = self.part(shared, &start)?;
            let Some((last, _)) = part.last() else { break };
            start = [&last[..], b"\0"].concat().into();
            let mut payload = Vec::new();
            for (key, version) in &part {
                let (offset, len) = write_entry(&mut payload, key, version, &shared.entry(key, version)?.value);
                let offset = (end as usize + FRAME_HEADER + offset) as u32;
                places.push((key.clone(), version.mod_revision, Place { file: self.number, offset, len }));
            }
            end = put_frame(file.as_ref(), end, frame::seal(self.log_id, sequence, &payload))?;
            sequence += 1;
        }
        put_frame(file.as_ref(), end, frame::seal(self.log_id, sequence, &(places.len() as u64).to_le_bytes()))?;
        file.sync()?;
        shared.disk.rename(&draft, &name)?;
        shared.disk.sync()?;
        for part in places.chunks(KEYS_PER_FRAME) {
            let mut index = shared.index.write();
            part.iter().for_each(|(key, revision, place)| settle(&mut index, key, *revision, Some(*place)));
        }
        Ok(())
    }

    /// Only the header.
    pub fn peek(disk: &dyn Disk, number: u32) -> Result<Snapshot, OpenError> {
        let name = snapshot_name(number);
        let file = disk.open(&name).map_err(OpenError::read(&name))?;
        let mut bytes = [0; HEADER];
        file.read_at(0, &mut bytes).map_err(OpenError::read(&name))?;
        Snapshot::parse(&name, &bytes)
    }

    /// The index as of this snapshot.
    pub fn load(&self, disk: &dyn Disk) -> Result<Index<Slot>, OpenError> {
        let name = snapshot_name(self.number);
        let file = disk.open(&name).map_err(OpenError::read(&name))?;
        let bytes = read_all(file.as_ref()).map_err(OpenError::read(&name))?;
        let mut index = Index::new(self.revision);
        let (mut place, mut sequence, mut count) = (HEADER, 1, 0);
        loop {
            let damaged = |why| OpenError::damaged(&name, place, why);
            let found = bytes.get(place..).and_then(|rest| frame::open(self.log_id, rest));
            let (_, payload) = found.filter(|(found, _)| *found == sequence).ok_or_else(|| damaged("its frame"))?;
            if payload.len() == 8 {
                return if u64_at(payload, 0) == count { Ok(index) } else { Err(damaged("its count is wrong")) };
            }
            let entries = read_entries(payload).ok_or_else(|| damaged("its records cannot be read"))?;
            count += entries.len() as u64;
            for (key, mut version, offset) in entries {
                if let Some(slot) = &mut version.value {
                    let len = slot.bytes.as_ref().map_or(0, Bytes::len) as u32;
                    let offset = (place + FRAME_HEADER + offset) as u32;
                    slot.place = Some(Place { file: self.number, offset, len });
                }
                index.restore(key, version);
            }
            place += FRAME_HEADER + payload.len();
            sequence += 1;
        }
    }

    fn part(&self, shared: &Shared, start: &Bytes) -> io::Result<Vec<(Bytes, Version<Slot>)>> {
        let index = shared.index.read();
        let span = Span { start, end: b"\0" };
        let range = index.range(span, self.revision).map_err(io::Error::other)?;
        Ok(range.take(KEYS_PER_FRAME).map(|(key, version)| (key.clone(), version.clone())).collect())
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(self.number);
        out.put_u64_le(self.log_id);
        out.put_u64_le(self.revision);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.written_at);
        let checksum = crc32fast::hash(&out);
        out.put_u32_le(checksum);
        out
    }

    fn parse(name: &str, bytes: &[u8; HEADER]) -> Result<Snapshot, OpenError> {
        if bytes.starts_with(MAGIC) && u32_at(bytes, 8) > FORMAT {
            return Err(OpenError::Newer { found: u32_at(bytes, 8), known: FORMAT });
        }
        if !bytes.starts_with(MAGIC) || crc32fast::hash(&bytes[..HEADER - 4]) != u32_at(bytes, HEADER - 4) {
            return Err(OpenError::damaged(name, 0, "its header does not match its checksum"));
        }
        Ok(Snapshot {
            number: u32_at(bytes, 12),
            log_id: u64_at(bytes, 16),
            revision: u64_at(bytes, 24),
            sequence: u64_at(bytes, 32),
            written_at: u64_at(bytes, 40),
        })
    }
}

fn put_frame(file: &dyn crate::disk::DiskFile, at: u64, bytes: Vec<u8>) -> io::Result<u64> {
    file.write_at(at, &bytes)?;
    Ok(at + bytes.len() as u64)
}

/// Where in `out` the value begins, and its length.
fn write_entry(out: &mut Vec<u8>, key: &Bytes, version: &Version<Slot>, value: &Bytes) -> (usize, u32) {
    out.put_u64_le(version.create_revision);
    out.put_u64_le(version.version);
    let change = Change::Put { key: key.clone(), value: value.clone(), expires_at: version.expires_at };
    (Record { revision: version.mod_revision, change }.write(out), value.len() as u32)
}

fn read_entries(payload: &[u8]) -> Option<Vec<(Bytes, Version<Slot>, usize)>> {
    let mut entries = Vec::new();
    let mut place = 0;
    while place < payload.len() {
        let facts = payload.get(place..place + 16)?;
        let (found, end) = frame::record(payload, place + 16)?;
        let Change::Put { key, value, expires_at } = found.record.change else { return None };
        let version = Version {
            mod_revision: found.record.revision,
            create_revision: u64_at(facts, 0),
            version: u64_at(facts, 8),
            expires_at,
            value: Some(Slot { bytes: Some(value), place: None }),
        };
        entries.push((key, version, found.offset));
        place = end;
    }
    Some(entries)
}
