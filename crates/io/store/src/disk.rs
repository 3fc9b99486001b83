//! The disk as the log needs it, so that a test can put one in its place that tears writes, fails syncs and is full.

#[cfg(test)]
pub(crate) mod faulty;
mod unlinked;

pub use unlinked::Unlinked;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A flat folder of files.
pub trait Disk: Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;

    /// An existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// A new, empty file; one of that name is replaced.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
}

pub trait DiskFile: Send + Sync {
    fn size(&self) -> io::Result<u64>;

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes everything written so far durable.
    fn sync(&self) -> io::Result<()>;
}

/// Reads a whole file.
pub fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Whether syncs reach the disk. Temporary data has no need of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncing {
    Durable,
    Never,
}

/// A folder of the file system, locked against other processes as long as this lives.
pub struct Folder {
    path: PathBuf,
    syncing: Syncing,
    _lock: File,
}

impl Folder {
    /// Creates the folder where it is missing. An error of kind `WouldBlock` says that another process has it.
    pub fn lock(path: &Path, syncing: Syncing) -> io::Result<Folder> {
        std::fs::create_dir_all(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), syncing, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn wrap(&self, file: File) -> Arc<dyn DiskFile> {
        Arc::new(RealFile { file, syncing: self.syncing })
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(self.wrap(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        match self.syncing {
            Syncing::Durable => File::open(&self.path)?.sync_all(),
            Syncing::Never => Ok(()),
        }
    }
}

struct RealFile {
    file: File,
    syncing: Syncing,
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        match self.syncing {
            Syncing::Durable => self.file.sync_data(),
            Syncing::Never => Ok(()),
        }
    }
}
