//! A disk that fails from a seed. What was written since the last sync is kept per file as single writes; a crash keeps
//! any of them, in any order and torn; a failed sync drops or keeps them at random and forgets that they were dirty.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use coracle_rt::Dice;
use parking_lot::Mutex;

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

#[derive(Clone)]
pub struct Faulty(Arc<Mutex<Inner>>);

struct Inner {
    /// By name, as the running process sees them.
    names: BTreeMap<String, u64>,
    /// By name, as a crash would leave them.
    durable_names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Content>,
    dice: Dice,
    faults: Faults,
    bytes: usize,
}

/// One in so many operations fails; 0 is never.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub sync: u64,
    pub write: u64,
    pub bytes_max: usize,
}

#[derive(Clone, Default)]
struct Content {
    /// As the page cache has it.
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Truncate(usize),
}

impl Write {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Write::Truncate(len) => to.resize(*len, 0),
            Write::Bytes(offset, bytes) => {
                if to.len() < offset + bytes.len() {
                    to.resize(offset + bytes.len(), 0);
                }
                to[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

impl Faulty {
    pub fn new(seed: u64) -> Faulty {
        Faulty(Arc::new(Mutex::new(Inner {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            files: BTreeMap::new(),
            dice: Dice::seeded(seed),
            faults: Faults::default(),
            bytes: 0,
        })))
    }

    pub fn set(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// The power fails and comes back: of unsynced sectors any may have arrived, of unsynced names all or none.
    pub fn crash(&self) {
        let inner = &mut *self.0.lock();
        if inner.dice.below(2) == 0 {
            inner.names = inner.durable_names.clone();
        }
        inner.durable_names = inner.names.clone();
        for content in inner.files.values_mut() {
            for write in std::mem::take(&mut content.dirty) {
                match write {
                    Write::Truncate(len) if inner.dice.below(2) == 0 => content.durable.resize(len, 0),
                    Write::Truncate(_) => (),
                    Write::Bytes(offset, bytes) => {
                        for (place, sector) in bytes.chunks(SECTOR).enumerate() {
                            if inner.dice.below(2) == 0 {
                                Write::Bytes(offset + place * SECTOR, sector.to_vec()).apply(&mut content.durable);
                            }
                        }
                    }
                }
            }
            content.seen = content.durable.clone();
        }
    }

    /// Flips one byte for good.
    pub fn damage(&self, name: &str, offset: usize) {
        let inner = &mut *self.0.lock();
        let content = inner.names.get(name).and_then(|id| inner.files.get_mut(id)).expect("the file exists");
        content.seen[offset] ^= 0xff;
        content.durable[offset] ^= 0xff;
    }

    pub fn len_of(&self, name: &str) -> usize {
        let inner = self.0.lock();
        inner.names.get(name).and_then(|id| inner.files.get(id)).map_or(0, |content| content.seen.len())
    }
}

impl Inner {
    fn fails(&self, one_in: u64) -> bool {
        one_in > 0 && self.dice.below(one_in) == 0
    }
}

struct FaultyFile {
    disk: Faulty,
    id: u64,
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = *self.0.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.0.lock();
        let id = inner.files.len() as u64;
        inner.files.insert(id, Content::default());
        inner.names.insert(name.to_owned(), id);
        Ok(Arc::new(FaultyFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        let id = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.fails(inner.faults.sync) {
            return Err(io::Error::other("injected"));
        }
        inner.durable_names = inner.names.clone();
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[&self.id].seen.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inner = self.disk.0.lock();
        let seen = inner.files[&self.id].seen.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(seen.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let inner = &mut *self.disk.0.lock();
        let full = inner.faults.bytes_max > 0 && inner.bytes + bytes.len() > inner.faults.bytes_max;
        let fails = full || inner.fails(inner.faults.write);
        let kept = if fails { inner.dice.below(bytes.len() as u64) as usize } else { bytes.len() };
        inner.bytes += kept;
        let content = inner.files.get_mut(&self.id).expect("files are never taken out");
        let write = Write::Bytes(offset as usize, bytes[..kept].to_vec());
        write.apply(&mut content.seen);
        content.dirty.push(write);
        match (full, fails) {
            (true, _) => Err(io::ErrorKind::StorageFull.into()),
            (false, true) => Err(io::Error::other("injected")),
            (false, false) => Ok(()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let inner = &mut *self.disk.0.lock();
        let content = inner.files.get_mut(&self.id).expect("files are never taken out");
        let write = Write::Truncate(len as usize);
        write.apply(&mut content.seen);
        content.dirty.push(write);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let inner = &mut *self.disk.0.lock();
        let fails = inner.fails(inner.faults.sync);
        let content = inner.files.get_mut(&self.id).expect("files are never taken out");
        for write in std::mem::take(&mut content.dirty) {
            if !fails || inner.dice.below(2) == 0 {
                write.apply(&mut content.durable);
            }
        }
        if fails { Err(io::Error::other("injected")) } else { Ok(()) }
    }
}
