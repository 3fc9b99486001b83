//! Gives files of a volume to the group that the pod asks for.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Everything below `dir` becomes the group's, which may read and write it; directories
/// hand the group on.
pub(crate) fn give(dir: &Path, group: u32) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(dir)?;
    std::os::unix::fs::lchown(dir, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mode = meta.mode() & 0o7777;
    mode |= 0o660;
    if meta.is_dir() {
        mode |= 0o2770;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in fs::read_dir(dir)? {
            give(&entry?.path(), group)?;
        }
    }
    Ok(())
}
