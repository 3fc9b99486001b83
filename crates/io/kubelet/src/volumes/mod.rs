//! Volumes of pods: made and brought up to date before containers start, taken down after they have ended. One kind of
//! volume is one file and one line of `set_up_one`.

mod atomic;
mod empty_dir;
mod host_path;
mod memory;
mod ownership;
mod payload;
mod projected;
mod sub_path;

use std::path::{Path, PathBuf};

use coracle_reconcile::ViewExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume, VolumeMount};

use crate::act::Work;
use crate::node_context::{NodeContext, namespace_of, uid_of};

pub(crate) use sub_path::SubPath;

/// Makes all volumes of the pod, or brings them up to date. The answer is when to do so again by itself; the message of
/// an error goes into the pod's FailedMount event.
pub(crate) async fn set_up(work: &Work) -> Result<Option<Timestamp>, String> {
    let mut refresh_at: Option<Timestamp> = None;
    for volume in work.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let next = set_up_one(work, volume)
            .await
            .map_err(|error| format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name))?;
        refresh_at = [refresh_at, next].into_iter().flatten().min();
    }
    Ok(refresh_at)
}

async fn set_up_one(work: &Work, volume: &Volume) -> Result<Option<Timestamp>, String> {
    let (node, pod) = (work.node.as_ref(), work.pod.as_ref());
    if let Some(source) = &volume.empty_dir {
        return empty_dir::set_up(&dir_of(node, pod, volume), source, pod).map(|()| None);
    }
    if let Some(source) = &volume.host_path {
        return host_path::set_up(source).map(|()| None);
    }
    if let Some(source) = &volume.config_map {
        let payload = payload::config_map(node, pod, source)?;
        return write(node, pod, volume, &payload).map(|()| None);
    }
    if let Some(source) = &volume.secret {
        let payload = payload::secret(node, pod, source)?;
        return write(node, pod, volume, &payload).map(|()| None);
    }
    if let Some(source) = &volume.downward_api {
        let payload = payload::downward_api(work, source.items.as_deref().unwrap_or_default(), source.default_mode)?;
        return write(node, pod, volume, &payload).map(|()| None);
    }
    if let Some(source) = &volume.projected {
        let (payload, refresh_at) = projected::collect(work, source).await?;
        return write(node, pod, volume, &payload).map(|()| refresh_at);
    }
    if volume.image.is_some() {
        // Pulled with the images of the containers that mount it, and mounted by the runtime.
        return Ok(None);
    }
    if volume.persistent_volume_claim.is_some() {
        return local_source(node, pod, volume).map(|_| None);
    }
    Err(format!("no volume plugin matched: {} volumes are not supported", kind_of(volume)))
}

fn write(node: &NodeContext, pod: &Pod, volume: &Volume, payload: &atomic::Payload) -> Result<(), String> {
    let dir = dir_of(node, pod, volume);
    if volume.config_map.is_none() {
        memory::keep(&dir)?;
    }
    atomic::write(&dir, payload, ownership::fs_group(pod))
        .map_err(|error| format!("writing payload to volume directory {}: {error}", dir.display()))
}

/// Whether a volume is only to be read, whatever its mounts say: what the kubelet writes is nobody else's to change.
pub(crate) fn is_read_only(pod: &Pod, name: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| {
        let written = [
            volume.config_map.is_some(),
            volume.secret.is_some(),
            volume.downward_api.is_some(),
            volume.projected.is_some(),
        ];
        volume.name == name && written.contains(&true)
    })
}

/// The path on the host that a mount of a container shows.
pub(crate) fn mount_source(
    node: &NodeContext,
    pod: &Pod,
    mount: &VolumeMount,
    sub_path: &SubPath<'_>,
) -> Result<String, String> {
    let volume =
        pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).find(|volume| volume.name == mount.name);
    let Some(volume) = volume else { return Err(format!("cannot find volume \"{}\" to mount", mount.name)) };
    let source = match (&volume.host_path, &volume.persistent_volume_claim) {
        (Some(source), _) => PathBuf::from(&source.path),
        (_, Some(_)) => local_source(node, pod, volume)?,
        _ => dir_of(node, pod, volume),
    };
    let source = if sub_path.path.is_empty() { source } else { sub_path.bind(node, pod, &volume.name, &source)? };
    Ok(source.to_string_lossy().into_owned())
}

/// Of a claim bound to a volume that is a directory of this node.
fn local_source(node: &NodeContext, pod: &Pod, volume: &Volume) -> Result<PathBuf, String> {
    let claim = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.as_str()).unwrap_or_default();
    let namespace = namespace_of(pod);
    let found = node.view.get_as::<PersistentVolumeClaim>(namespace, claim);
    let found = found.ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" not found"))?;
    let name = found.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    if name.is_empty() {
        return Err(format!("persistentvolumeclaim \"{claim}\" is not bound"));
    }
    let persistent = node.view.get_as::<PersistentVolume>("", &name);
    let spec = persistent.and_then(|persistent| persistent.spec.clone());
    let spec = spec.ok_or_else(|| format!("persistentvolume \"{name}\" not found"))?;
    match (spec.host_path, spec.local) {
        (Some(source), _) => host_path::set_up(&source).map(|()| PathBuf::from(source.path)),
        (_, Some(source)) => Ok(PathBuf::from(source.path)),
        _ => Err(format!("persistentvolume \"{name}\": only hostPath and local volumes are supported")),
    }
}

/// Takes everything of the pod off the disk. Nothing is removed through a mount that stays.
pub(crate) fn tear_down(node: &NodeContext, uid: &str) -> Result<(), String> {
    let dir = node.pod_dir(uid);
    if uid.is_empty() || !dir.exists() {
        return Ok(());
    }
    unmount_below(&dir)?;
    std::fs::remove_dir_all(&dir).map_err(|error| format!("removing {}: {error}", dir.display()))
}

/// Unmounts all that is mounted below a directory, the last first.
fn unmount_below(dir: &Path) -> Result<(), String> {
    for mount in mounts_below(dir).into_iter().rev() {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW)
            .map_err(|error| format!("unmounting {}: {error}", mount.display()))?;
    }
    let left = mounts_below(dir);
    if left.is_empty() { Ok(()) } else { Err(format!("still mounted: {left:?}")) }
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    points.filter(|point| point.starts_with(dir)).collect()
}

fn is_mounted(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|point| point == dir)
}

/// The mount table writes blanks and the like as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn dir_of(node: &NodeContext, pod: &Pod, volume: &Volume) -> PathBuf {
    let plugin = format!("kubernetes.io~{}", kind_of(volume));
    node.pod_dir(uid_of(pod)).join("volumes").join(plugin).join(&volume.name)
}

/// The name of a volume's kind, as directories and messages have it.
fn kind_of(volume: &Volume) -> &'static str {
    let kinds = [
        (volume.empty_dir.is_some(), "empty-dir"),
        (volume.host_path.is_some(), "host-path"),
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.downward_api.is_some(), "downward-api"),
        (volume.projected.is_some(), "projected"),
        (volume.persistent_volume_claim.is_some(), "persistent-volume-claim"),
        (volume.csi.is_some(), "csi"),
        (volume.image.is_some(), "image"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
    ];
    kinds.into_iter().find(|(present, _)| *present).map_or("unknown", |(_, name)| name)
}
