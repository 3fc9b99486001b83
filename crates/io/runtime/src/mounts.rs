//! What is mounted into a container, in order, and the devices it has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use coracle_linux::cgroup::DeviceAccess;
use coracle_linux::plan::{self, Access, ContainerPlan, DevicePlan, MountPlan, MountSource, Propagation};
use coracle_proto::cri::{self, MountPropagation, NamespaceMode};
use tonic::Status;

use crate::sandbox::namespace_options;
use crate::state::Sandbox;
use crate::{EmbeddedRuntime, internal};

const NOSUID: u64 = libc::MS_NOSUID;
const NODEV: u64 = libc::MS_NODEV;
const NOEXEC: u64 = libc::MS_NOEXEC;

pub fn plan(
    runtime: &EmbeddedRuntime,
    sandbox: &Sandbox,
    config: &cri::ContainerConfig,
) -> Result<Vec<MountPlan>, Status> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let privileged = context.is_some_and(|context| context.privileged);
    let shares_ipc = namespace_options(&sandbox.config).ipc() == NamespaceMode::Node;
    let kernel = |target: &str, kind: &str, options: &str, flags| MountPlan {
        target: target.into(),
        source: MountSource::Filesystem { kind: kind.into(), options: options.into() },
        access: Access::ReadWrite,
        propagation: Propagation::Private,
        flags,
    };
    let mut sys = kernel("/sys", "sysfs", "", NOSUID | NODEV | NOEXEC);
    if !privileged {
        sys.access = Access::ReadOnly;
    }
    let mut all = vec![
        kernel("/proc", "proc", "", NOSUID | NODEV | NOEXEC),
        kernel("/dev", "tmpfs", "mode=755,size=65536k", NOSUID),
        kernel("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", NOSUID | NOEXEC),
        sys,
        MountPlan { source: MountSource::Cgroup, ..kernel("/sys/fs/cgroup", "", "", 0) },
    ];
    if shares_ipc {
        all.push(bind("/dev/shm", "/dev/shm".into(), Access::ReadWrite));
        all.push(bind("/dev/mqueue", "/dev/mqueue".into(), Access::ReadWrite));
        all.retain(|mount| !matches!(&mount.source, MountSource::Bind(source) if !source.exists()));
    } else {
        all.push(kernel("/dev/mqueue", "mqueue", "", NOSUID | NODEV | NOEXEC));
        all.push(bind("/dev/shm", sandbox.dir.join(plan::SHM_MOUNT), Access::ReadWrite));
    }
    let readonly = context.is_some_and(|context| context.readonly_rootfs);
    let access = if readonly { Access::ReadOnly } else { Access::ReadWrite };
    for (target, source) in [
        ("/etc/hostname", sandbox.dir.join("hostname")),
        ("/etc/resolv.conf", sandbox.dir.join("resolv.conf")),
        ("/etc/hosts", PathBuf::from("/etc/hosts")),
    ] {
        if !config.mounts.iter().any(|mount| mount.container_path == target) && source.exists() {
            let access = if target == "/etc/hosts" { Access::ReadOnly } else { access };
            all.push(bind(target, source, access));
        }
    }
    let mut asked = config.mounts.iter().map(|mount| asked(runtime, mount)).collect::<Result<Vec<_>, _>>()?;
    // A mount below another one comes after it.
    asked.sort_by_key(|mount| mount.target.components().count());
    all.retain(|mount| !asked.iter().any(|other| other.target == mount.target));
    all.extend(asked);
    Ok(all)
}

fn bind(target: &str, source: PathBuf, access: Access) -> MountPlan {
    MountPlan {
        target: target.into(),
        source: MountSource::Bind(source),
        access,
        propagation: Propagation::Private,
        flags: 0,
    }
}

fn asked(runtime: &EmbeddedRuntime, mount: &cri::Mount) -> Result<MountPlan, Status> {
    if !mount.container_path.starts_with('/') || mount.container_path.split('/').any(|part| part == "..") {
        return Err(Status::invalid_argument(format!("the mount path {:?} is not absolute", mount.container_path)));
    }
    if let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) {
        let source = image_source(runtime, &image.image, &mount.image_sub_path)?;
        return Ok(MountPlan { source, ..bind(&mount.container_path, PathBuf::new(), Access::ReadOnly) });
    }
    let source = PathBuf::from(&mount.host_path);
    if !source.exists() {
        let made = fs::create_dir_all(&source);
        made.map_err(|error| Status::unknown(format!("failed to mkdir {:?}: {error}", mount.host_path)))?;
    }
    let access = match (mount.readonly, mount.recursive_read_only) {
        (true, true) => Access::ReadOnlyRecursive,
        (true, false) => Access::ReadOnly,
        (false, _) => Access::ReadWrite,
    };
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => Propagation::Private,
        MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    Ok(MountPlan { propagation, ..bind(&mount.container_path, source, access) })
}

fn image_source(runtime: &EmbeddedRuntime, name: &str, sub_path: &str) -> Result<MountSource, Status> {
    let images = &runtime.options.images;
    let image = images.get(name).map_err(internal)?;
    let image = image.ok_or_else(|| Status::not_found(format!("image {name:?} not found")))?;
    let sub_path = PathBuf::from(sub_path);
    if !sub_path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Status::invalid_argument(format!("the image sub path {sub_path:?} leads out of the image")));
    }
    Ok(MountSource::Image { layers: images.layers(&image), sub_path })
}

pub fn devices(config: &cri::ContainerConfig, privileged: bool) -> Result<Vec<DevicePlan>, Status> {
    let standard = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut all: Vec<DevicePlan> = standard
        .iter()
        .map(|(name, major, minor)| DevicePlan {
            path: Path::new("/dev").join(name),
            kind: 'c',
            major: *major,
            minor: *minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    if privileged {
        let found = fs::read_dir("/dev").into_iter().flatten().flatten();
        let found: Vec<DevicePlan> = found.filter_map(|entry| device(&entry.path(), &entry.path())).collect();
        all.extend(found.into_iter().filter(|device| !is_made_anyway(&device.path)));
    }
    for asked in &config.devices {
        let found = device(Path::new(&asked.host_path), Path::new(&asked.container_path));
        let missing = || Status::invalid_argument(format!("{:?} is not a device", asked.host_path));
        all.push(found.ok_or_else(missing)?);
    }
    Ok(all)
}

fn is_made_anyway(path: &Path) -> bool {
    let made =
        ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "stdin", "stdout", "stderr", "fd"];
    path.file_name().is_some_and(|name| made.iter().any(|known| name == *known))
}

fn device(source: &Path, target: &Path) -> Option<DevicePlan> {
    let found = fs::metadata(source).ok()?;
    let kind = match found.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(DevicePlan {
        path: target.to_owned(),
        kind,
        major: libc::major(found.rdev()),
        minor: libc::minor(found.rdev()),
        mode: found.mode() & 0o777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// What the device controller lets through: making any node, and using those the container has, its terminals too.
pub fn device_access(plan: &ContainerPlan) -> DeviceAccess {
    if plan.privileged {
        return DeviceAccess::Everything;
    }
    let mut rules: Vec<String> =
        ["c *:* m", "b *:* m", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm"].map(String::from).to_vec();
    rules.extend(plan.devices.iter().map(|device| format!("{} {}:{} rwm", device.kind, device.major, device.minor)));
    DeviceAccess::Only(rules)
}
