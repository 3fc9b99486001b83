//! `emptyDir`: a directory of the pod's own, on the disk or in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::{is_mounted, memory, ownership};
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
    memory::mount(dir, &limit.map(|bytes| format!("size={bytes}")).unwrap_or_default())
}
