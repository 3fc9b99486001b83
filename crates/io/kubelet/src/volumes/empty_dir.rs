//! `emptyDir`: a directory of the pod's own, on the disk or in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use rustix::mount::{MountFlags, mount};

use super::{is_mounted, ownership};
use crate::fields::quantity;

pub(super) fn set_up(dir: &Path, source: &EmptyDirVolumeSource, pod: &Pod) -> Result<(), String> {
    let is_new = !dir.exists();
    let fail = |error: std::io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(dir).map_err(fail)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" if is_mounted(dir) => return Ok(()),
        "Memory" => mount_memory(dir, source)?,
        medium => return Err(format!("storage medium \"{medium}\" is not supported")),
    }
    if is_new || source.medium.as_deref() == Some("Memory") {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).map_err(fail)?;
        if let Some(group) = ownership::fs_group(pod) {
            ownership::give(dir, group).map_err(fail)?;
        }
    }
    Ok(())
}

fn mount_memory(dir: &Path, source: &EmptyDirVolumeSource) -> Result<(), String> {
    let limit = source.size_limit.as_ref().map(|limit| quantity(&limit.0) / 1_000_000_000).filter(|bytes| *bytes > 0);
    let options = limit.map(|bytes| format!("size={bytes}")).unwrap_or_default();
    let data = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    let data = (!data.is_empty()).then_some(data);
    mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_deref())
        .map_err(|error| format!("mounting tmpfs at {}: {error}", dir.display()))
}
