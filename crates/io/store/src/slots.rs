//! Values as the embedded index keeps them: in memory while they are live, on disk once they are history.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use coracle_cache::store::KeyValue;
use coracle_mvcc::{Index, Version};
use parking_lot::{Mutex, RwLock};

use crate::disk::{Disk, DiskFile};
use crate::log::{Place, segment_name};
use crate::snapshot::snapshot_name;

/// A value: in memory, on disk, or both.
#[derive(Clone, Debug)]
pub struct Slot {
    pub bytes: Option<Bytes>,
    /// Absent until the frame with it is on disk.
    pub place: Option<Place>,
}

/// What readers and the log's thread share.
pub struct Shared {
    pub index: RwLock<Index<Slot>>,
    pub disk: Arc<dyn Disk>,
    files: Mutex<HashMap<u32, Arc<dyn DiskFile>>>,
}

impl Shared {
    pub fn new(index: Index<Slot>, disk: Arc<dyn Disk>) -> Shared {
        Shared { index: RwLock::new(index), disk, files: Mutex::default() }
    }

    /// The value in full, from disk where it is history.
    pub fn read(&self, slot: &Slot) -> io::Result<Bytes> {
        match (&slot.bytes, slot.place) {
            (Some(bytes), _) => Ok(bytes.clone()),
            (None, Some(place)) => self.read_place(place),
            (None, None) => Err(io::Error::other("a value is neither in memory nor on disk")),
        }
    }

    pub fn entry(&self, key: &Bytes, version: &Version<Slot>) -> io::Result<KeyValue> {
        let value = version.value.as_ref().map_or(Ok(Bytes::new()), |slot| self.read(slot))?;
        Ok(key_value(key, version, value))
    }

    /// Drops the handle of a file that is removed.
    pub fn forget_file(&self, number: u32) {
        self.files.lock().remove(&number);
    }

    fn read_place(&self, place: Place) -> io::Result<Bytes> {
        let known = self.files.lock().get(&place.file).cloned();
        let file = match known {
            Some(file) => file,
            None => {
                let log = self.disk.open(&segment_name(place.file));
                let file = log.or_else(|_| self.disk.open(&snapshot_name(place.file)))?;
                self.files.lock().insert(place.file, file.clone());
                file
            }
        };
        let mut bytes = vec![0; place.len as usize];
        file.read_at(u64::from(place.offset), &mut bytes)?;
        Ok(bytes.into())
    }
}

pub fn key_value(key: &Bytes, version: &Version<Slot>, value: Bytes) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
    }
}

/// Records where a version's value lies, and drops it from memory where it is history already.
pub fn settle(index: &mut Index<Slot>, key: &Bytes, revision: u64, place: Option<Place>) {
    let Some((version, is_newest)) = index.version_mut(key, revision) else { return };
    let Some(slot) = version.value.as_mut() else { return };
    if place.is_some() {
        slot.place = place;
    }
    if !is_newest && slot.place.is_some() {
        slot.bytes = None;
    }
}
