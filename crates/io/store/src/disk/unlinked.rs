//! Files without names: the kernel frees them with the process, however that ends. What `--ephemeral` writes to.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, RealFile, Syncing};

pub struct Unlinked {
    folder: PathBuf,
    files: Mutex<BTreeMap<String, Arc<RealFile>>>,
}

impl Unlinked {
    /// Takes its space from the file system of `folder`, which exists and stays empty.
    pub fn new(folder: &Path) -> Unlinked {
        Unlinked { folder: folder.to_owned(), files: Mutex::default() }
    }
}

impl Disk for Unlinked {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let found = self.files.lock().get(name).cloned();
        Ok(found.ok_or(io::ErrorKind::NotFound)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(format!(".{}.{name}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let file = Arc::new(RealFile { file, syncing: Syncing::Never });
        self.files.lock().insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
