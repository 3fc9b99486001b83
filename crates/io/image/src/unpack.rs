//! Unpacks one layer into a folder that overlayfs can use: whiteouts become character devices 0:0, opaque folders an
//! attribute. No entry reaches outside the folder: every parent is resolved by the kernel within it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, lsetxattr, mkdirat, mknodat,
    openat2, utimensat,
};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use crate::{Context, Error, Result};

const OPAQUE: &str = ".wh..wh..opq";
const WHITEOUT: &str = ".wh.";

/// Reads through and keeps the digest of what went by.
pub struct Hashing<R> {
    inner: R,
    state: Sha256,
    pub bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Hashing<R> {
        Hashing { inner, state: Sha256::new(), bytes: 0 }
    }

    /// `sha256:…` of everything, the unread rest included.
    pub fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(hex(self.state))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.state.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

pub fn digest(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

fn hex(state: Sha256) -> String {
    let mut text = String::from("sha256:");
    for byte in state.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The content of a tar stream, whether plain, gzip or zstd.
pub fn decompress<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = match magic.as_slice() {
        [0x1f, 0x8b, ..] => 'g',
        [0x28, 0xb5, 0x2f, 0xfd] => 'z',
        _ => 't',
    };
    let whole = io::Cursor::new(magic).chain(source);
    Ok(match kind {
        'g' => Box::new(MultiGzDecoder::new(whole)),
        'z' => Box::new(ruzstd::decoding::StreamingDecoder::new(whole).map_err(io::Error::other)?),
        _ => Box::new(whole),
    })
}

/// Unpacks a layer into an empty folder; gives its diff id (digest of the uncompressed tar) and its size there.
pub fn layer(source: impl Read, into: &Path) -> Result<(String, u64)> {
    let root = File::open(into).context(|| format!("opening {}", into.display()))?;
    fs::set_permissions(into, Permissions::from_mode(0o755)).context(|| format!("opening {}", into.display()))?;
    let plain = decompress(source).context(|| "decompressing a layer".into())?;
    let mut archive = Archive::new(Hashing::new(plain));
    let (mut folders, mut bytes) = (Vec::new(), 0);
    for entry in archive.entries().context(|| "reading a layer".into())? {
        let mut entry = entry.context(|| "reading a layer".into())?;
        bytes += entry.size();
        let name = entry.path().map(|path| path.into_owned()).context(|| "reading a name in a layer".into())?;
        unpack(&root, &mut entry, &name, &mut folders)
            .map_err(|error| Error::Unpack { path: name.display().to_string(), reason: error.to_string() })?;
    }
    // Last, because what is made inside a folder changes its time.
    for (path, time) in folders.iter().rev() {
        let _ = utimensat(CWD, path, &times(*time), AtFlags::SYMLINK_NOFOLLOW);
    }
    let diff_id = archive.into_inner().finish().context(|| "reading a layer".into())?;
    Ok((diff_id, bytes))
}

fn unpack<R: Read>(
    root: &File,
    entry: &mut Entry<'_, R>,
    name: &Path,
    folders: &mut Vec<(PathBuf, u64)>,
) -> io::Result<()> {
    let mut parts: Vec<&OsStr> = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir => return Err(io::Error::other("the name leads upwards")),
            _ => {}
        }
    }
    let Some((last, parents)) = parts.split_last() else { return own(&here(root), entry) };
    let parent = open_folder(root, parents)?;
    let inside = here(&parent);
    if *last == OPAQUE {
        return Ok(lsetxattr(&inside, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
    }
    if let Some(hidden) = last.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
        let hidden = inside.join(OsStr::from_bytes(hidden));
        remove(&hidden)?;
        return Ok(mknodat(CWD, &hidden, FileType::CharacterDevice, Mode::empty(), 0)?);
    }
    let path = inside.join(last);
    let kind = entry.header().entry_type();
    if kind == EntryType::Directory {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                fs::remove_file(&path)?;
                fs::create_dir(&path)?;
            }
            Err(_) => fs::create_dir(&path)?,
        }
        folders.push((root_path(root, name), entry.header().mtime().unwrap_or(0)));
        return own(&path, entry);
    }
    remove(&path)?;
    make(root, kind, entry, &path)
}

fn make<R: Read>(root: &File, kind: EntryType, entry: &mut Entry<'_, R>, path: &Path) -> io::Result<()> {
    let link = entry.link_name()?.map(|link| link.into_owned());
    let missing = || io::Error::other("a link without a target");
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc_nofollow()).open(path)?;
            io::copy(entry, &mut file)?;
            file.flush()?;
        }
        EntryType::Symlink => symlink(link.ok_or_else(missing)?, path)?,
        EntryType::Link => {
            let link = link.ok_or_else(missing)?;
            let parts: Vec<&OsStr> = link.iter().filter(|part| *part != "/" && *part != ".").collect();
            let (last, parents) = parts.split_last().ok_or_else(missing)?;
            if parts.iter().any(|part| *part == "..") {
                return Err(io::Error::other("the link leads upwards"));
            }
            // Attributes are those of the file that it is another name of.
            return fs::hard_link(here(&open_folder(root, parents)?).join(last), path);
        }
        EntryType::Fifo => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
        EntryType::Char | EntryType::Block => {
            let kind = if kind == EntryType::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
            let header = entry.header();
            let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
            mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), rustix::fs::makedev(major, minor))?;
        }
        _ => return Ok(()),
    }
    own(path, entry)
}

fn libc_nofollow() -> i32 {
    OFlags::NOFOLLOW.bits() as i32
}

/// The path of an open folder; what is joined to it is resolved from there.
fn here(folder: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", folder.as_raw_fd()))
}

fn root_path(root: &File, name: &Path) -> PathBuf {
    here(root).join(name.strip_prefix("/").unwrap_or(name))
}

/// Opens a folder below the root, making what is missing; links stay inside the root.
fn open_folder(root: &File, parts: &[&OsStr]) -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        openat2(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    let mut path = PathBuf::from(".");
    let mut folder = open(&path)?;
    if let Ok(whole) = open(&parts.iter().collect::<PathBuf>())
        && !parts.is_empty()
    {
        return Ok(whole);
    }
    for part in parts {
        path.push(part);
        folder = match open(&path) {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&folder, *part, Mode::from_raw_mode(0o755))?;
                open(&path)?
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn own<R: Read>(path: &Path, entry: &mut Entry<'_, R>) -> io::Result<()> {
    let header = entry.header();
    let (uid, gid, mode, time) = (header.uid()?, header.gid()?, header.mode()?, header.mtime().unwrap_or(0));
    let is_link = header.entry_type() == EntryType::Symlink;
    lchown(path, Some(uid as u32), Some(gid as u32))?;
    if !is_link {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))?;
    }
    for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
        if let Ok(Some(name)) = extension.key().map(|key| key.strip_prefix("SCHILY.xattr.")) {
            let _ = lsetxattr(path, name, extension.value_bytes(), XattrFlags::empty());
        }
    }
    let _ = utimensat(CWD, path, &times(time), AtFlags::SYMLINK_NOFOLLOW);
    Ok(())
}

fn times(seconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
