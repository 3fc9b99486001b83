//! `hostPath`: a path of the node, checked or made as its type says.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

pub(super) fn set_up(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let fail = |error: std::io::Error| format!("hostPath {}: {error}", source.path);
    let meta = fs::metadata(path).ok();
    match (kind, &meta) {
        ("", Some(_)) => return Ok(()),
        // A path of unspecified type that is not there is made by the runtime elsewhere; here it is made at once.
        ("" | "DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(fail)?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(fail);
        }
        ("FileOrCreate", None) => {
            fs::File::create(path).map_err(fail)?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(fail);
        }
        _ => {}
    }
    let fits = meta.is_some_and(|meta| {
        let file_type = meta.file_type();
        match kind {
            "Directory" | "DirectoryOrCreate" => file_type.is_dir(),
            "File" | "FileOrCreate" => file_type.is_file(),
            "Socket" => file_type.is_socket(),
            "CharDevice" => file_type.is_char_device(),
            "BlockDevice" => file_type.is_block_device(),
            _ => false,
        }
    });
    let word = match kind {
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {} is not {word}", source.path)) }
}
