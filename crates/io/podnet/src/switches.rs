//! The machine's switches that a pod network needs in another position. Clusters share them: each writes down that it
//! needs them, the first also what they were, and the last to go puts that back. The notes are in /run and so live as
//! long as the switches' values.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Under /proc/sys/net/ipv4. Packets are passed on; and nobody is told of a shorter way, for pods are to keep sending
/// through the node, and the kernel's count of such messages would hold back its "unreachable".
const WANTED: [(&str, &str); 2] = [("ip_forward", "1"), ("conf/all/send_redirects", "0")];
const BEFORE: &str = "before";

/// The switches and notes of one network namespace.
pub struct Switches {
    notes: PathBuf,
    root: PathBuf,
}

impl Switches {
    /// Of the namespace this process is in.
    pub fn here() -> io::Result<Switches> {
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        let notes = PathBuf::from(format!("/run/coracle/switches-{namespace}"));
        Ok(Switches { notes, root: "/proc/sys/net/ipv4".into() })
    }

    /// Puts the switches where this cluster needs them.
    pub fn need(&self, cluster: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        let before = self.notes.join(BEFORE);
        if !before.exists() {
            let values: io::Result<Vec<String>> = WANTED.iter().map(|(name, _)| self.read(name)).collect();
            write_whole(&before, &values?.join("\n"))?;
        }
        fs::write(self.user(cluster), "")?;
        for (name, wanted) in WANTED {
            if self.read(name)? != wanted {
                fs::write(self.root.join(name), wanted)?;
            }
        }
        Ok(())
    }

    /// This cluster needs them no more; the last one puts back what was.
    pub fn release(&self, cluster: &str) -> io::Result<()> {
        if !self.notes.exists() {
            return Ok(());
        }
        let lock = self.lock()?;
        let had = remove(&self.user(cluster))?;
        let others = fs::read_dir(&self.notes)?.flatten().any(|entry| is_user(&entry.path()));
        if others || !had {
            return Ok(());
        }
        let before = fs::read_to_string(self.notes.join(BEFORE))?;
        for ((name, _), value) in WANTED.iter().zip(before.lines()) {
            fs::write(self.root.join(name), value)?;
        }
        drop(lock);
        fs::remove_dir_all(&self.notes)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.root.join(name))?.trim().to_owned())
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
        let root = std::env::temp_dir().join(format!("coracle-switches-{}", std::process::id()));
        fs::create_dir_all(root.join("conf/all")).unwrap();
        let switches = Switches { notes: root.join("notes"), root: root.clone() };
        let values = || WANTED.map(|(name, _)| fs::read_to_string(root.join(name)).unwrap());
        fs::write(root.join("ip_forward"), "0\n").unwrap();
        fs::write(root.join("conf/all/send_redirects"), "1\n").unwrap();
        switches.need("a").unwrap();
        switches.need("b").unwrap();
        switches.need("a").unwrap();
        assert_eq!(values(), ["1", "0"]);
        switches.release("a").unwrap();
        switches.release("a").unwrap();
        assert_eq!(values(), ["1", "0"]);
        switches.release("b").unwrap();
        assert_eq!(values(), ["0", "1"]);
        assert!(!switches.notes.exists());
        switches.release("b").unwrap();
        fs::remove_dir_all(root).unwrap();
    }
}
