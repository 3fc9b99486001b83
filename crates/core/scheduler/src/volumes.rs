//! What a pod's volumes ask of a node.

use crate::text::SpecText;

/// A PersistentVolumeClaim that the pod uses, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub name: String,
    /// The controller makes it for this pod alone.
    pub ephemeral: bool,
}

impl Claim {
    pub fn of(spec: &SpecText, pod: &str) -> Vec<Claim> {
        let claim = |volume: &crate::text::VolumeText| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(Claim { name: claim.claim_name.clone(), ephemeral: false }),
            (None, Some(_)) => Some(Claim { name: format!("{pod}-{}", volume.name), ephemeral: true }),
            (None, None) => None,
        };
        spec.volumes.iter().filter_map(claim).collect()
    }
}

/// A disk of the old in-tree kinds that two pods of a node cannot share freely.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    Gce { name: String, read_only: bool },
    Aws { id: String },
    Iscsi { iqn: String, read_only: bool },
    Rbd { monitors: Vec<String>, pool: String, image: String, read_only: bool },
}

impl Disk {
    pub fn of(spec: &SpecText) -> Vec<Disk> {
        let mut disks = Vec::new();
        for volume in &spec.volumes {
            let gce = volume.gce_persistent_disk.as_ref();
            disks.extend(
                gce.map(|disk| Disk::Gce { name: disk.pd_name.clone(), read_only: disk.read_only == Some(true) }),
            );
            disks.extend(volume.aws_elastic_block_store.as_ref().map(|disk| Disk::Aws { id: disk.volume_id.clone() }));
            disks.extend(
                volume
                    .iscsi
                    .as_ref()
                    .map(|disk| Disk::Iscsi { iqn: disk.iqn.clone(), read_only: disk.read_only == Some(true) }),
            );
            disks.extend(volume.rbd.as_ref().map(|disk| Disk::Rbd {
                monitors: disk.monitors.clone(),
                pool: disk.pool.clone().unwrap_or_else(|| "rbd".into()),
                image: disk.image.clone(),
                read_only: disk.read_only == Some(true),
            }));
        }
        disks
    }

    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Disk) -> bool {
        match (self, other) {
            (Disk::Gce { name, read_only }, Disk::Gce { name: other, read_only: both }) => {
                name == other && !(*read_only && *both)
            }
            (Disk::Aws { id }, Disk::Aws { id: other }) => id == other,
            (Disk::Iscsi { iqn, read_only }, Disk::Iscsi { iqn: other, read_only: both }) => {
                iqn == other && !(*read_only && *both)
            }
            (
                Disk::Rbd { monitors, pool, image, read_only },
                Disk::Rbd { monitors: others, pool: other_pool, image: other_image, read_only: both },
            ) => {
                let shared = monitors.iter().any(|monitor| others.contains(monitor));
                shared && pool == other_pool && image == other_image && !(*read_only && *both)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_shared_only_for_reading() {
        let gce = |read_only| Disk::Gce { name: "d".into(), read_only };
        assert!(gce(false).conflicts(&gce(true)));
        assert!(!gce(true).conflicts(&gce(true)));
        let aws = Disk::Aws { id: "v".into() };
        assert!(aws.conflicts(&aws) && !aws.conflicts(&gce(false)));
    }
}
