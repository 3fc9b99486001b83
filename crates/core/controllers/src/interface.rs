//! All that Kubernetes 1.36's controllers tell and write, compared with what the cases of this crate produce: event
//! reasons, types of conditions and fields of status. `testdata/interface.txt` holds upstream's, a fact a line.

use std::collections::BTreeSet;
use std::process::Command;

use coracle_testkit::witness::FACTS_FILE;

/// Facts that no case here can produce, and why. This list only shrinks.
const NOT_PRODUCED: &[(&str, &str)] = &[
    // Reads are of a view and do not fail; writes that fail here are retried, and the next decision is told.
    ("cronjob-controller event FailedGet", "reads do not fail"),
    ("endpointslice-controller event FailedToListPods", "reads do not fail"),
    ("endpointslice-controller event FailedToListEndpointSlices", "reads do not fail"),
    ("endpointslice-controller event FailedToUpdateEndpointSlices", "a refused slice is retried untold"),
    ("endpoints-controller event FailedToCreateEndpoint", "refused endpoints are retried untold"),
    ("endpoints-controller event FailedToUpdateEndpoint", "refused endpoints are retried untold"),
    ("service-cidr-controller event KubernetesServiceCIDRError", "a refused status is retried untold"),
    // What validation keeps out of the store, or a bound before it out of the decision.
    ("cronjob-controller event UnParseableCronJobSchedule", "told as UnparseableSchedule"),
    ("cronjob-controller event MissSchedule", "times before the deadline are not looked at, here as there"),
    ("persistentvolume-binder-controller event VolumeUnknownReclaimPolicy", "validation knows every policy"),
    // Undone by an annotation of extensions/v1beta1, which kubectl no longer writes.
    ("deployment-controller event DeploymentRollback", "of a version that is gone"),
    ("deployment-controller event DeploymentRollbackRevisionNotFound", "of a version that is gone"),
    ("deployment-controller event DeploymentRollbackTemplateUnchanged", "of a version that is gone"),
    // Volumes are provisioned, deleted and recycled by CSI drivers, not in this process.
    ("persistentvolume-binder-controller event ProvisioningCleanupFailed", "done by CSI drivers"),
    ("persistentvolume-binder-controller event ProvisioningSucceeded", "done by CSI drivers"),
    ("persistentvolume-binder-controller event RecyclerPod", "recycling is refused"),
    ("persistentvolume-binder-controller event VolumeDelete", "done by CSI drivers"),
    ("persistentvolume-binder-controller event VolumeRecycled", "recycling is refused"),
    // Not here yet.
    ("endpointslice-controller event TopologyAwareHintsDisabled", "hints are not given"),
    ("endpointslice-controller event TopologyAwareHintsEnabled", "hints are not given"),
    ("garbage-collector-controller event OwnerRefInvalidNamespace", "such an owner counts as gone, untold"),
];

/// What the other tests of this binary make controllers tell and write. They run in a process of their own, so that
/// their order here does not matter.
fn produced() -> BTreeSet<String> {
    let file = std::env::temp_dir().join(format!("coracle-facts-{}", std::process::id()));
    let binary = std::env::current_exe().unwrap();
    let ran = Command::new(binary).args(["--skip", "interface::"]).env(FACTS_FILE, &file).output().unwrap();
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn controllers_tell_and_write_what_those_of_kubernetes_do() {
    let upstream: BTreeSet<String> = include_str!("testdata/interface.txt").lines().map(str::to_owned).collect();
    let excepted: BTreeSet<String> = NOT_PRODUCED.iter().map(|(fact, _)| (*fact).to_owned()).collect();
    let produced = produced();
    let missing: Vec<_> = upstream.difference(&produced).filter(|fact| !excepted.contains(*fact)).collect();
    // A patch replaces a list whole, so it carries conditions that are others'.
    let strange: Vec<_> = produced.difference(&upstream).filter(|fact| !fact.contains(" condition ")).collect();
    let stale: Vec<_> = excepted.iter().filter(|fact| produced.contains(*fact) || !upstream.contains(*fact)).collect();
    assert!(missing.is_empty(), "nothing produces:\n{missing:#?}");
    assert!(strange.is_empty(), "unknown to Kubernetes:\n{strange:#?}");
    assert!(stale.is_empty(), "excepted, yet produced or unknown:\n{stale:#?}");
}
