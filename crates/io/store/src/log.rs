//! The log: segments of frames, appended and synced one frame at a time. A frame that failed to sync never counts:
//! the segment is verified and cut back to its last good frame before a new one follows it.
//!
//! Segment header: magic (8), format (4), number (4), log id (8), first sequence (8), the segment it follows (4) and
//! where that one ends (4), checksum (4).

use std::io;
use std::sync::Arc;

use bytes::BufMut;
use coracle_mvcc::Revision;

use crate::disk::{Disk, DiskFile, read_all};
use crate::error::OpenError;
use crate::frame::{self, FRAME_HEADER, Found, u32_at, u64_at};

/// The newest layout of the data directory that this version reads and the one that it writes.
pub const FORMAT: u32 = 1;
pub const SEGMENT_HEADER: usize = 44;
const MAGIC: &[u8; 8] = b"CORALOG\n";
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
const CEILING: usize = 8;

/// Where a value rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: u32,
    pub offset: u32,
    pub len: u32,
}

/// A segment that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub number: u32,
    /// The newest revision in it or before it.
    pub last_revision: Revision,
}

/// One frame as recovery finds it.
pub struct Frame {
    pub file: u32,
    /// Where the payload begins in the file.
    pub offset: usize,
    pub ceiling: Revision,
    pub records: Vec<Found>,
}

pub struct Log {
    disk: Arc<dyn Disk>,
    id: u64,
    /// Oldest first; the last one is written to.
    pub segments: Vec<Segment>,
    tail: Arc<dyn DiskFile>,
    end: u64,
    /// Of the next frame.
    sequence: u64,
    /// The number of the next file.
    pub next_file: u32,
    sound: bool,
}

struct Header {
    number: u32,
    id: u64,
    sequence: u64,
    previous: u32,
    previous_end: u32,
}

pub fn segment_name(number: u32) -> String {
    format!("{number:08}.log")
}

/// The numbers of files with this ending, in order.
pub fn numbers(names: &[String], ending: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.strip_suffix(ending)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

impl Log {
    /// Begins a log in an empty folder, or behind the snapshots of one.
    pub fn create(disk: Arc<dyn Disk>, id: u64, number: u32) -> Result<Log, OpenError> {
        let header = Header { number, id, sequence: 1, previous: 0, previous_end: 0 };
        let tail = begin(disk.as_ref(), &header).map_err(OpenError::write(&segment_name(number)))?;
        let segments = vec![Segment { number, last_revision: 0 }];
        let (end, next_file) = (SEGMENT_HEADER as u64, number + 1);
        Ok(Log { disk, id, segments, tail, end, sequence: 1, next_file, sound: true })
    }

    /// Reads the segments `numbers`, oldest first, and gives every frame to `take`. A torn end is cut off; anything
    /// else that is not as it was written is an error. `None` where there is no segment at all. The oldest segment has
    /// to begin at frame `known_until` or before.
    pub fn recover(
        disk: Arc<dyn Disk>,
        numbers: Vec<u32>,
        known_until: u64,
        take: &mut dyn FnMut(Frame) -> Result<(), OpenError>,
    ) -> Result<Option<Log>, OpenError> {
        let next_file = numbers.last().map_or(1, |last| last + 1);
        let chain = chain(disk.as_ref(), numbers, known_until)?;
        let Some(first) = chain.first() else { return Ok(None) };
        let (id, sequence) = (first.id, first.sequence);
        let mut recovery = Recovery { disk: disk.clone(), id, sequence, segments: Vec::new(), revision: 0 };
        let mut last = None;
        for (place, header) in chain.iter().enumerate() {
            let ends = chain.get(place + 1).map(|next| next.previous_end as usize);
            last = Some(recovery.segment(header, ends, take)?);
        }
        let Some((tail, end)) = last else { return Ok(None) };
        let (segments, sequence) = (recovery.segments, recovery.sequence);
        Ok(Some(Log { disk, id, segments, tail, end, sequence, next_file, sound: true }))
    }

    /// Of the next frame.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Writes one frame and makes it durable. Tells the file and where in it the records begin. After a failure the
    /// frame does not count, and the next call first mends the log.
    pub fn append(&mut self, records: &[u8], ceiling: Revision, last: Revision) -> io::Result<(u32, u64)> {
        if !self.sound {
            self.mend()?;
        }
        if self.end > SEGMENT_BYTES_MAX {
            self.roll()?;
        }
        let mut payload = Vec::with_capacity(CEILING + records.len());
        payload.put_u64_le(ceiling);
        payload.put_slice(records);
        let bytes = frame::seal(self.id, self.sequence, &payload);
        self.sound = false;
        self.tail.write_at(self.end, &bytes)?;
        self.tail.sync()?;
        self.sound = true;
        let offset = self.end + (FRAME_HEADER + CEILING) as u64;
        self.end += bytes.len() as u64;
        self.sequence += 1;
        let segment = self.segments.last_mut().expect("a log has a segment that it writes to");
        segment.last_revision = last;
        Ok((segment.number, offset))
    }

    /// Removes segments whose every revision is at most `revision`; the one written to stays.
    pub fn forget(&mut self, revision: Revision) -> io::Result<()> {
        while self.segments.len() > 1 && self.segments[0].last_revision <= revision {
            self.disk.remove(&segment_name(self.segments[0].number))?;
            self.segments.remove(0);
        }
        self.disk.sync()
    }

    /// A number for a file beside the segments.
    pub fn take_number(&mut self) -> u32 {
        self.next_file += 1;
        self.next_file - 1
    }

    /// After a failure: proves what was acknowledged, cuts off what was not, and goes on in a new segment.
    fn mend(&mut self) -> io::Result<()> {
        let number = self.segments.last().map_or(0, |segment| segment.number);
        let name = segment_name(number);
        let file = self.disk.open(&name)?;
        let mut bytes = vec![0; usize::try_from(self.end).map_err(io::Error::other)?];
        file.read_at(0, &mut bytes)?;
        let mut place = SEGMENT_HEADER;
        while place < bytes.len() {
            let Some((_, payload)) = frame::open(self.id, &bytes[place..]) else {
                return Err(io::Error::other(format!("{name} no longer holds what was acknowledged, offset {place}")));
            };
            place += FRAME_HEADER + payload.len();
        }
        file.truncate(self.end)?;
        file.sync()?;
        self.roll()?;
        self.sound = true;
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        let number = self.take_number();
        let previous = self.segments.last().map_or(0, |segment| segment.number);
        let previous_end = self.end as u32;
        let header = Header { number, id: self.id, sequence: self.sequence, previous, previous_end };
        self.tail = begin(self.disk.as_ref(), &header)?;
        let last_revision = self.segments.last().map_or(0, |segment| segment.last_revision);
        self.segments.push(Segment { number, last_revision });
        self.end = SEGMENT_HEADER as u64;
        Ok(())
    }
}

fn begin(disk: &dyn Disk, header: &Header) -> io::Result<Arc<dyn DiskFile>> {
    let name = segment_name(header.number);
    let file = disk.create(&name)?;
    file.write_at(0, &header.write())?;
    file.sync()?;
    disk.sync()?;
    Ok(file)
}

/// The headers of the segments that follow each other, oldest first. Segments that were begun while the disk failed,
/// which none follows, hold nothing and are removed, as are those that lie wholly before a gap that a snapshot covers.
fn chain(disk: &dyn Disk, mut numbers: Vec<u32>, known_until: u64) -> Result<Vec<Header>, OpenError> {
    let mut chain: Vec<Header> = Vec::new();
    let mut surplus = Vec::new();
    while let Some(number) = numbers.pop() {
        let name = segment_name(number);
        let wanted = chain.first().map(|next| next.previous);
        if wanted.is_none_or(|wanted| wanted == number) {
            let (bytes, header) = read_header(disk, &name)?;
            match header {
                Ok(header) => {
                    chain.insert(0, header);
                    continue;
                }
                Err(error) if bytes > SEGMENT_HEADER as u64 || wanted.is_some() => return Err(error),
                Err(_) => (),
            }
        }
        surplus.push(name);
    }
    if let Some(first) = chain.first().filter(|first| first.sequence > known_until) {
        return Err(OpenError::Missing { file: segment_name(first.previous) });
    }
    for name in surplus {
        disk.remove(&name).map_err(OpenError::write(&name))?;
    }
    Ok(chain)
}

fn read_header(disk: &dyn Disk, name: &str) -> Result<(u64, Result<Header, OpenError>), OpenError> {
    let file = disk.open(name).map_err(OpenError::read(name))?;
    let len = file.size().map_err(OpenError::read(name))?;
    let mut bytes = vec![0; (len as usize).min(SEGMENT_HEADER)];
    file.read_at(0, &mut bytes).map_err(OpenError::read(name))?;
    match Header::read(name, &bytes) {
        Err(newer @ OpenError::Newer { .. }) => Err(newer),
        header => Ok((len, header)),
    }
}

struct Recovery {
    disk: Arc<dyn Disk>,
    id: u64,
    /// Of the next frame.
    sequence: u64,
    segments: Vec<Segment>,
    revision: Revision,
}

impl Recovery {
    /// Reads one segment, up to where its successor says that it ends; the file and where its frames end.
    fn segment(
        &mut self,
        header: &Header,
        ends: Option<usize>,
        take: &mut dyn FnMut(Frame) -> Result<(), OpenError>,
    ) -> Result<(Arc<dyn DiskFile>, u64), OpenError> {
        let name = segment_name(header.number);
        let file = self.disk.open(&name).map_err(OpenError::read(&name))?;
        let bytes = read_all(file.as_ref()).map_err(OpenError::read(&name))?;
        if self.id != header.id || self.sequence != header.sequence {
            return Err(OpenError::damaged(&name, 0, "it does not follow the segment before it"));
        }
        let mut sequence = header.sequence;
        let mut place = SEGMENT_HEADER;
        while place < ends.unwrap_or(bytes.len()) {
            let found =
                frame::open(header.id, &bytes[place.min(bytes.len())..]).filter(|(found, _)| *found == sequence);
            let Some((_, payload)) = found else {
                self.cut(&name, file.as_ref(), &bytes, (place, sequence, ends))?;
                break;
            };
            let frame = read_frame(header.number, place, payload);
            let frame = frame.ok_or_else(|| OpenError::damaged(&name, place, "its records cannot be read"))?;
            self.revision = frame.records.last().map_or(self.revision, |last| last.record.revision);
            place += FRAME_HEADER + payload.len();
            sequence += 1;
            take(frame)?;
        }
        if ends.is_none() {
            // What a killed process wrote may not have reached the disk yet.
            file.sync().map_err(OpenError::write(&name))?;
        }
        self.sequence = sequence;
        self.segments.push(Segment { number: header.number, last_revision: self.revision });
        Ok((file, place as u64))
    }

    /// Cuts a torn end off the newest segment.
    fn cut(
        &self,
        name: &str,
        file: &dyn DiskFile,
        bytes: &[u8],
        (place, sequence, ends): (usize, u64, Option<usize>),
    ) -> Result<(), OpenError> {
        if ends.is_some() {
            return Err(OpenError::damaged(name, place, "a frame does not match its checksum"));
        }
        // A frame is written only after the one before it was synced.
        if frame::any_from(self.id, sequence + 1, &bytes[place..]) {
            return Err(OpenError::damaged(name, place, "a frame before the last does not match its checksum"));
        }
        tracing::info!(file = name, offset = place, "cutting off a write that was never acknowledged");
        file.truncate(place as u64).map_err(OpenError::write(name))
    }
}

fn read_frame(file: u32, place: usize, payload: &[u8]) -> Option<Frame> {
    let ceiling = u64_at(payload.get(..CEILING)?, 0);
    Some(Frame { file, offset: place + FRAME_HEADER, ceiling, records: frame::records(payload, CEILING)? })
}

impl Header {
    fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(self.number);
        out.put_u64_le(self.id);
        out.put_u64_le(self.sequence);
        out.put_u32_le(self.previous);
        out.put_u32_le(self.previous_end);
        let checksum = crc32fast::hash(&out);
        out.put_u32_le(checksum);
        out
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Header, OpenError> {
        Header::refuse_newer(bytes)?;
        let whole = bytes.len() >= SEGMENT_HEADER && bytes.starts_with(MAGIC);
        if !whole || crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]) != u32_at(bytes, SEGMENT_HEADER - 4) {
            return Err(OpenError::damaged(name, 0, "its header does not match its checksum"));
        }
        Ok(Header {
            number: u32_at(bytes, 12),
            id: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            previous: u32_at(bytes, 32),
            previous_end: u32_at(bytes, 36),
        })
    }

    fn refuse_newer(bytes: &[u8]) -> Result<(), OpenError> {
        match bytes.starts_with(MAGIC) && bytes.len() >= 12 && u32_at(bytes, 8) > FORMAT {
            true => Err(OpenError::Newer { found: u32_at(bytes, 8), known: FORMAT }),
            false => Ok(()),
        }
    }
}
