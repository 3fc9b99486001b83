//! The machine's switch for passing packets on. Clusters share it: each writes down that it needs it, the first also
//! what it was, and the last to go puts that back. The notes are in /run and so live as long as the switch's value.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
const BEFORE: &str = "before";

/// The notes of one network namespace.
pub struct Forwarding {
    notes: PathBuf,
    switch: PathBuf,
}

impl Forwarding {
    /// Of the namespace this process is in.
    pub fn here() -> io::Result<Forwarding> {
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        let notes = PathBuf::from(format!("/run/coracle/forwarding-{namespace}"));
        Ok(Forwarding { notes, switch: SWITCH.into() })
    }

    /// Turns passing on on, for this cluster.
    pub fn need(&self, cluster: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        let before = self.notes.join(BEFORE);
        if !before.exists() {
            write_whole(&before, fs::read_to_string(&self.switch)?.trim())?;
        }
        fs::write(self.user(cluster), "")?;
        if fs::read_to_string(&self.switch)?.trim() != "1" {
            fs::write(&self.switch, "1")?;
        }
        Ok(())
    }

    /// This cluster needs it no more; the last one puts back what was.
    pub fn release(&self, cluster: &str) -> io::Result<()> {
        if !self.notes.exists() {
            return Ok(());
        }
        let lock = self.lock()?;
        let had = remove(&self.user(cluster))?;
        let before = self.notes.join(BEFORE);
        let others = fs::read_dir(&self.notes)?.flatten().any(|entry| is_user(&entry.path()));
        if others || !before.exists() {
            return Ok(());
        }
        if had && fs::read_to_string(&before)?.trim() == "0" {
            fs::write(&self.switch, "0")?;
        }
        remove(&before)?;
        drop(lock);
        fs::remove_dir_all(&self.notes)
    }

    fn user(&self, cluster: &str) -> PathBuf {
        self.notes.join(format!("{cluster}.cluster"))
    }

    fn lock(&self) -> io::Result<fs::File> {
        fs::create_dir_all(&self.notes)?;
        let file = fs::File::create(self.notes.join("lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

fn is_user(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cluster")
}

/// Whether the file was there.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a file so that it is there whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cluster_puts_back_what_was() {
        let root = std::env::temp_dir().join(format!("coracle-forwarding-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let forwarding = Forwarding { notes: root.join("notes"), switch: root.join("switch") };
        let value = || fs::read_to_string(&forwarding.switch).unwrap();
        fs::write(&forwarding.switch, "0\n").unwrap();
        forwarding.need("a").unwrap();
        forwarding.need("b").unwrap();
        forwarding.need("a").unwrap();
        assert_eq!(value(), "1");
        forwarding.release("a").unwrap();
        forwarding.release("a").unwrap();
        assert_eq!(value(), "1");
        forwarding.release("b").unwrap();
        assert_eq!(value(), "0");
        assert!(!forwarding.notes.exists());
        forwarding.release("b").unwrap();
        fs::remove_dir_all(root).unwrap();
    }
}
