//! A part of a volume, mounted so that no symbolic link of the volume leads out of it: the path is opened beneath the
//! volume, and what was opened is bound to a place of our own.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::is_mounted;
use crate::node_context::{NodeContext, uid_of};

/// One use of a part of a volume.
pub(crate) struct SubPath<'a> {
    /// Empty for the whole volume.
    pub path: String,
    pub container: &'a str,
    /// Of the mount in the container's list.
    pub place: usize,
}

impl SubPath<'_> {
    /// The place on the host that shows the part; a directory is made where nothing is.
    pub fn bind(&self, node: &NodeContext, pod: &Pod, volume: &str, source: &Path) -> Result<PathBuf, String> {
        let path = Path::new(&self.path);
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(format!("subPath \"{}\" must not be absolute or contain '..'", self.path));
        }
        let fail = |error: String| {
            format!(
                "failed to prepare subPath for volumeMount \"{volume}\" of container \"{}\": {error}",
                self.container
            )
        };
        let opened = open(source, path).map_err(|error| fail(error.to_string()))?;
        let subpaths = node.pod_dir(uid_of(pod)).join("volume-subpaths");
        let place = subpaths.join(volume).join(self.container).join(self.place.to_string());
        if is_mounted(&place) {
            rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH)
                .map_err(|error| fail(error.to_string()))?;
        }
        make_place(&opened, &place).map_err(|error| fail(error.to_string()))?;
        let from = format!("/proc/self/fd/{}", opened.as_raw_fd());
        rustix::mount::mount_bind(from, &place).map_err(|error| fail(error.to_string()))?;
        Ok(place)
    }
}

fn open(source: &Path, path: &Path) -> std::io::Result<OwnedFd> {
    let root = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let look = |path: &Path| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath);
    match look(path) {
        Err(rustix::io::Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let mut made = PathBuf::new();
    let mut parent = rustix::io::dup(&root)?;
    for part in path.components() {
        made.push(part);
        match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        parent = look(&made)?;
    }
    Ok(parent)
}

/// An empty file or directory to bind to, as what is bound is one.
fn make_place(opened: &OwnedFd, place: &Path) -> std::io::Result<()> {
    let meta = rustix::fs::fstat(opened)?;
    if rustix::fs::FileType::from_raw_mode(meta.st_mode).is_dir() {
        return fs::create_dir_all(place);
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(place).map(drop)
}
