//! Defaults of volumes: an empty directory where no source is named, file modes, and the old plugins' fields.

use coracle_meta::Value;

use super::{fill, image, within};

const MODE: i32 = 0o644;

/// One volume of a pod.
pub fn volume(volume: &mut Value) {
    let has_source = volume.entries_at(&[]).any(|(key, source)| key != "name" && !source.is_null());
    if !has_source {
        volume.set(&["emptyDir"], Value::map());
    }
    within(volume, &["emptyDir", "sizeLimit"], super::quantities::canonical_amount);
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, &[source], |source| source.set_default(&["defaultMode"], MODE));
    }
    within(volume, &["downwardAPI"], downward_items);
    within(volume, &["projected"], |projected| {
        for source in projected.list_at_mut(&["sources"]) {
            within(source, &["downwardAPI"], downward_items);
            within(source, &["serviceAccountToken"], |token| token.set_default(&["expirationSeconds"], 3600));
        }
    });
    within(volume, &["hostPath"], |source| source.set_default(&["type"], ""));
    within(volume, &["ephemeral", "volumeClaimTemplate", "spec"], claim_spec);
    within(volume, &["image"], |source| {
        let policy = image::pull_policy(source.str_at(&["reference"]));
        fill(source, &["pullPolicy"], policy);
    });
    plugin(volume);
}

/// Sources that volumes of pods and persistent volumes share.
pub fn plugin(source: &mut Value) {
    within(source, &["iscsi"], |iscsi| fill(iscsi, &["iscsiInterface"], "default"));
    within(source, &["rbd"], |rbd| {
        fill(rbd, &["pool"], "rbd");
        fill(rbd, &["user"], "admin");
        fill(rbd, &["keyring"], "/etc/ceph/keyring");
    });
    within(source, &["azureDisk"], |disk| {
        disk.set_default(&["cachingMode"], "ReadWrite");
        disk.set_default(&["fsType"], "ext4");
        disk.set_default(&["readOnly"], false);
        disk.set_default(&["kind"], "Shared");
    });
    within(source, &["scaleIO"], |scale| {
        fill(scale, &["storageMode"], "ThinProvisioned");
        fill(scale, &["fsType"], "xfs");
    });
}

/// The spec of a claim, wherever it stands.
pub fn claim_spec(spec: &mut Value) {
    spec.set_default(&["volumeMode"], "Filesystem");
    within(spec, &["resources", "requests"], super::quantities::canonical);
    within(spec, &["resources", "limits"], super::quantities::canonical);
}

fn downward_items(source: &mut Value) {
    for item in source.list_at_mut(&["items"]) {
        within(item, &["fieldRef"], |field| fill(field, &["apiVersion"], "v1"));
        resource_field(item);
    }
}

/// The divisor of a reference to a container's resource: written even where it is zero.
pub fn resource_field(holder: &mut Value) {
    within(holder, &["resourceFieldRef"], |field| {
        field.set_default(&["divisor"], "0");
        within(field, &["divisor"], super::quantities::canonical_amount);
    });
}
