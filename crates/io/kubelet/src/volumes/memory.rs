//! Directories in memory: what must not come to rest on a disk, and what is asked to be fast.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use rustix::mount::MountFlags;

/// The kind of file system that `statfs` tells of a tmpfs.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Makes a directory whose files are in memory, unless it is one.
pub(super) fn keep(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let found = rustix::fs::statfs(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if found.f_type as u64 == TMPFS_MAGIC { Ok(()) } else { mount(dir, "") }
}

/// Mounts a tmpfs; `options` as mount(8) has them.
pub(super) fn mount(dir: &Path, options: &str) -> Result<(), String> {
    let data = CString::new(options).map_err(|error| error.to_string())?;
    let data = (!options.is_empty()).then_some(data);
    rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_deref())
        .map_err(|error| format!("mounting tmpfs at {}: {error}", dir.display()))
}
