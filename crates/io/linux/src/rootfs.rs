//! The file tree of a container, made in its own mount namespace and nowhere else: when its last process ends, every
//! mount of it is gone. Sources are taken from the machine's tree before the root changes, targets are resolved after
//! it: a symbolic link in an image leads nowhere but into that image.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::plan::{Access, ContainerPlan, DevicePlan, MountPlan, MountSource, Propagation, RootPlan};
use crate::{Context, Error, Result, sys};

const ATTR_RDONLY: u64 = 0x1;
const ATTR_NOSUID: u64 = 0x2;
const ATTR_NODEV: u64 = 0x4;
const ATTR_NOEXEC: u64 = 0x8;
/// mount(2) takes one page of options; beyond this the newer interface is used, which takes a layer at a time.
const OPTIONS_BYTES_MAX: usize = 3800;

/// Sources of binds, taken from the machine's tree while it can still be seen.
pub struct Sources(Vec<Option<OwnedFd>>);

impl Sources {
    /// Run before the mount namespace is left: a source whose mounts go both ways must come from the machine's own.
    pub fn take(mounts: &[MountPlan]) -> Result<Sources> {
        let take = |mount: &MountPlan| match (&mount.source, mount.propagation) {
            (MountSource::Bind(source), Propagation::Bidirectional) => open(source, mount).map(Some),
            _ => Ok(None),
        };
        mounts.iter().map(take).collect::<Result<_>>().map(Sources)
    }

    /// Images are put together at `scratch`, an empty folder.
    fn take_rest(&mut self, mounts: &[MountPlan], scratch: &Path) -> Result<()> {
        for (slot, mount) in self.0.iter_mut().zip(mounts) {
            match &mount.source {
                MountSource::Bind(source) if slot.is_none() => *slot = Some(open(source, mount)?),
                MountSource::Image { layers, sub_path } => *slot = Some(open_image(layers, sub_path, scratch)?),
                _ => {}
            }
        }
        Ok(())
    }
}

fn open(source: &Path, mount: &MountPlan) -> Result<OwnedFd> {
    let tree = sys::open_tree_clone(source, true).context(|| format!("taking {} to mount it", source.display()))?;
    let propagation = match mount.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => libc::MS_SHARED,
    };
    let (readonly, recursive) = match mount.access {
        Access::ReadWrite => (0, true),
        Access::ReadOnly => (ATTR_RDONLY, false),
        Access::ReadOnlyRecursive => (ATTR_RDONLY, true),
    };
    let what = || format!("setting up the mount of {}", source.display());
    sys::mount_setattr(tree.as_fd(), 0, propagation, true).context(what)?;
    sys::mount_setattr(tree.as_fd(), readonly, 0, recursive).context(what)?;
    Ok(tree)
}

/// The tree of an image to be looked at: nothing in it can be written or run.
fn open_image(layers: &[PathBuf], sub_path: &Path, scratch: &Path) -> Result<OwnedFd> {
    let what = || "mounting an image".to_owned();
    let tree = match layers {
        [] => return Err(Error::Invalid("an image has no layers".into())),
        // The kernel makes no overlay of one layer alone.
        [only] => clone_beneath(only, sub_path)?,
        several => {
            mount_overlay(&Overlay { lower: several, writable: None }, scratch).context(what)?;
            let tree = clone_beneath(scratch, sub_path);
            sys::umount_detach(scratch).context(what)?;
            tree?
        }
    };
    let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    sys::mount_setattr(tree.as_fd(), attributes, libc::MS_PRIVATE, true).context(what)?;
    Ok(tree)
}

/// What is at a path inside of a folder; no link leads out of it.
fn clone_beneath(folder: &Path, path: &Path) -> Result<OwnedFd> {
    let what = || format!("taking {} of {}", path.display(), folder.display());
    if path.as_os_str().is_empty() {
        return sys::open_tree_clone(folder, false).context(what);
    }
    let look = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, look, Mode::empty()).context(what)?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&root, path, look, Mode::empty(), inside).context(what)?;
    sys::open_tree_clone(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), false).context(what)
}

/// Enters a mount namespace of its own with the container's root as `/`.
pub fn enter(plan: &ContainerPlan, mut sources: Sources) -> Result<()> {
    sys::unshare(libc::CLONE_NEWNS).context(|| "making a mount namespace".into())?;
    sys::mount("", Path::new("/"), "", libc::MS_SLAVE | libc::MS_REC, "")
        .context(|| "detaching from the machine's mounts".into())?;
    sources.take_rest(&plan.mounts, &plan.root.target)?;
    mount_root(&plan.root)?;
    std::env::set_current_dir(&plan.root.target).context(|| format!("entering {}", plan.root.target.display()))?;
    sys::pivot_root_here().context(|| "changing the root".into())?;
    sys::umount_detach(Path::new(".")).context(|| "letting go of the machine's root".into())?;
    std::env::set_current_dir("/").context(|| "entering the new root".into())?;
    sys::umask(0);
    for (mount, source) in plan.mounts.iter().zip(sources.0) {
        apply(mount, source)?;
        if mount.target == Path::new("/dev") {
            fill_dev(&plan.devices)?;
        }
    }
    sys::umask(0o022);
    Ok(())
}

/// What comes last, when nothing needs to be made inside the root any more.
pub fn seal(plan: &ContainerPlan) -> Result<()> {
    for mount in &plan.mounts {
        if matches!(mount.source, MountSource::Cgroup) {
            mount_cgroups(&mount.target, plan.privileged);
        }
    }
    for path in &plan.readonly_paths {
        let path = Path::new(path);
        if let Ok(tree) = sys::open_tree_clone(path, true) {
            sys::mount_setattr(tree.as_fd(), ATTR_RDONLY, 0, true)
                .and_then(|()| sys::move_mount(tree.as_fd(), path))
                .context(|| format!("making {} read-only", path.display()))?;
        }
    }
    for path in &plan.masked_paths {
        mask(Path::new(path))?;
    }
    if plan.root.readonly {
        let root = File::open("/").context(|| "opening the root".into())?;
        sys::mount_setattr(root.as_fd(), ATTR_RDONLY, 0, false).context(|| "making the root read-only".into())?;
    }
    Ok(())
}

fn mount_root(root: &RootPlan) -> Result<()> {
    let target = &root.target;
    if root.upper.as_os_str().is_empty() {
        let folder = root.lower.first().ok_or_else(|| Error::Invalid("the root has no folder".into()))?;
        let tree = sys::open_tree_clone(folder, true).context(|| format!("taking {}", folder.display()))?;
        return sys::move_mount(tree.as_fd(), target).context(|| "mounting the root".into());
    }
    let overlay = Overlay { lower: &root.lower, writable: Some((&root.upper, &root.work)) };
    mount_overlay(&overlay, target).context(|| format!("mounting the overlay at {}", target.display()))
}

/// Folders above each other, the topmost first.
struct Overlay<'a> {
    lower: &'a [PathBuf],
    /// Where changes go, and a folder for the kernel's own use.
    writable: Option<(&'a Path, &'a Path)>,
}

fn mount_overlay(overlay: &Overlay<'_>, target: &Path) -> std::io::Result<()> {
    let options = overlay_options(overlay);
    let plain = options.len() < OPTIONS_BYTES_MAX && !overlay.lower.iter().any(|path| has_separator(path));
    if !plain {
        return Ok(overlay_by_layers(overlay, target)?);
    }
    let volatile = format!("{options},volatile");
    if overlay.writable.is_some() && sys::mount("overlay", target, "overlay", 0, &volatile).is_ok() {
        return Ok(());
    }
    sys::mount("overlay", target, "overlay", 0, &options)
}

fn has_separator(path: &Path) -> bool {
    path.to_string_lossy().contains([':', ',', '\\'])
}

/// A container's upper folder is mounted once, so it need not be synced when it is unmounted: `volatile`, where the
/// kernel has it.
fn overlay_options(overlay: &Overlay<'_>) -> String {
    let lower: Vec<_> = overlay.lower.iter().map(|path| path.to_string_lossy()).collect();
    let lower = lower.join(":");
    match overlay.writable {
        Some((upper, work)) => format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display()),
        None => format!("lowerdir={lower}"),
    }
}

fn overlay_by_layers(overlay: &Overlay<'_>, target: &Path) -> rustix::io::Result<()> {
    let made = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in overlay.lower {
        fsconfig_set_string(made.as_fd(), "lowerdir+", layer)?;
    }
    if let Some((upper, work)) = overlay.writable {
        fsconfig_set_string(made.as_fd(), "upperdir", upper)?;
        fsconfig_set_string(made.as_fd(), "workdir", work)?;
        fsconfig_set_flag(made.as_fd(), "volatile")?;
    }
    fsconfig_create(made.as_fd())?;
    let tree = fsmount(made.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    rustix::mount::move_mount(tree.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn apply(mount: &MountPlan, source: Option<OwnedFd>) -> Result<()> {
    let target = &mount.target;
    let what = || format!("mounting {}", target.display());
    match (&mount.source, source) {
        (MountSource::Bind(_) | MountSource::Image { .. }, Some(tree)) => {
            let stat = rustix::fs::fstat(&tree).context(what)?;
            let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            make_target(target, is_dir).context(what)?;
            sys::move_mount(tree.as_fd(), target).context(what)
        }
        (MountSource::Bind(_) | MountSource::Image { .. }, None) => {
            Err(Error::Invalid(format!("the source of {} was not taken", target.display())))
        }
        (MountSource::Filesystem { kind, options }, _) => {
            make_target(target, true).context(what)?;
            let mut flags = mount.flags as libc::c_ulong;
            if mount.access != Access::ReadWrite {
                flags |= libc::MS_RDONLY;
            }
            sys::mount(kind, target, kind, flags, options).context(what)
        }
        (MountSource::Cgroup, _) => make_target(target, true).context(what),
    }
}

fn make_target(target: &Path, directory: bool) -> std::io::Result<()> {
    if fs::metadata(target).is_ok() {
        return Ok(());
    }
    let make_dir = |path: &Path| {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    if directory {
        return make_dir(target);
    }
    if let Some(parent) = target.parent().filter(|parent| !parent.exists()) {
        make_dir(parent)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o644).open(target).map(drop)
}

fn fill_dev(devices: &[DevicePlan]) -> Result<()> {
    for device in devices {
        let what = || format!("making the device {}", device.path.display());
        if let Some(parent) = device.path.parent() {
            fs::create_dir_all(parent).context(what)?;
        }
        let kind = if device.kind == 'b' { libc::S_IFBLK } else { libc::S_IFCHR };
        sys::make_node(&device.path, kind | device.mode, device.major, device.minor).context(what)?;
        chown(&device.path, Some(device.uid), Some(device.gid)).context(what)?;
    }
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ];
    for (to, link) in links {
        symlink(to, link).context(|| format!("linking {link}"))?;
    }
    Ok(())
}

/// Puts the terminal of a container where programs look for the console.
pub fn bind_console(peer: &Path) -> Result<()> {
    let console = Path::new("/dev/console");
    make_target(console, false)
        .and_then(|()| sys::open_tree_clone(peer, false))
        .and_then(|tree| sys::move_mount(tree.as_fd(), console))
        .context(|| "mounting /dev/console".into())
}

fn mask(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let what = || format!("masking {}", path.display());
    if found.is_dir() {
        return sys::mount("tmpfs", path, "tmpfs", libc::MS_RDONLY, "size=0k").context(what);
    }
    let null = sys::open_tree_clone(Path::new("/dev/null"), false).context(what)?;
    sys::move_mount(null.as_fd(), path).context(what)
}

/// Shows the container its own cgroups. It is a courtesy: what cannot be mounted is left out.
fn mount_cgroups(target: &Path, writable: bool) {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | if writable { 0 } else { libc::MS_RDONLY };
    let hierarchies = crate::cgroup::hierarchies_of_self();
    if hierarchies.iter().all(|controllers| controllers.is_empty()) {
        let _ = sys::mount("cgroup", target, "cgroup2", flags, "");
        return;
    }
    if sys::mount("tmpfs", target, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, "mode=755,size=64k")
        .is_err()
    {
        return;
    }
    for controllers in hierarchies.iter().filter(|controllers| !controllers.is_empty()) {
        let name = controllers.strip_prefix("name=").unwrap_or(controllers);
        let folder: PathBuf = target.join(name);
        if fs::create_dir(&folder).is_ok() && sys::mount("cgroup", &folder, "cgroup", flags, controllers).is_err() {
            let _ = fs::remove_dir(&folder);
        }
    }
    let _ = sys::mount("tmpfs", target, "", libc::MS_REMOUNT | flags, "mode=755,size=64k");
}
