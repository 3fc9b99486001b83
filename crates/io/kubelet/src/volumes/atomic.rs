//! Writes the files of a volume so that a reader sees all of the old or all of the new: the files lie in a directory
//! with a time in its name, `..data` points to it, and every visible name points through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// By path within the volume: content and mode.
pub(super) type Payload = BTreeMap<String, File>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

pub(super) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    if let Some(bad) = payload.keys().find(|path| !is_plain(path)) {
        return Err(io::Error::other(format!("invalid path: {bad}")));
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777 | if group.is_some() { 0o2000 } else { 0 }))?;
    let current = fs::read_link(dir.join(DATA)).ok();
    let unchanged = current.as_ref().is_some_and(|current| holds(&dir.join(current), payload));
    if !unchanged {
        let fresh = fresh_name(dir)?;
        for (path, file) in payload {
            write_file(&dir.join(&fresh).join(path), file, group)?;
        }
        if let Some(group) = group {
            std::os::unix::fs::chown(dir.join(&fresh), None, Some(group))?;
        }
        let staged = dir.join(NEW_DATA);
        if staged.symlink_metadata().is_ok() {
            fs::remove_file(&staged)?;
        }
        symlink(&fresh, &staged)?;
        fs::rename(&staged, dir.join(DATA))?;
    }
    link_names(dir, payload)?;
    if let Some(old) = current.filter(|_| !unchanged) {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

/// Relative, without `..`, and its first part not of our own names.
fn is_plain(path: &str) -> bool {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let first = path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    plain && first.is_some_and(|first| !first.starts_with(".."))
}

fn fresh_name(dir: &Path) -> io::Result<PathBuf> {
    for number in 0_u32..10_000 {
        let name = PathBuf::from(format!("..gen_{number}"));
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => {
                fs::set_permissions(dir.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free name for new data"))
}

fn write_file(path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.content)?;
    if group.is_some() || file.owner.is_some() {
        std::os::unix::fs::chown(path, file.owner, group)?;
    }
    let mode = if group.is_some() { file.mode | 0o040 } else { file.mode };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Whether a data directory has just these files with just this content.
fn holds(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    collect(dir, dir, &mut found);
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|content| content == file.content))
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.insert(relative.to_owned());
        }
    }
}

fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = payload.keys().map(first).collect();
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let link = dir.join(&name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(&name), link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File { content: content.as_bytes().to_vec(), mode: 0o644, owner: None };
        files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    #[test]
    fn files_change_all_at_once_and_old_names_go() {
        let dir = std::env::temp_dir().join(format!("coracle-atomic-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        write(&dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        let first = fs::read_link(dir.join(DATA)).unwrap();
        write(&dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), first, "the same files are not written again");
        write(&dir, &payload(&[("a", "3")]), None).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(dir.join("sub").symlink_metadata().is_err());
        assert!(!dir.join(first).exists());
        assert!(write(&dir, &payload(&[("../x", "1")]), None).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
