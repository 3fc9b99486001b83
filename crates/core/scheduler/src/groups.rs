//! Groups of pods that are scheduled together: what their PodGroups say, and which pods they have. Pods without a group
//! leave no trace here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::scheduling::v1alpha2::PodGroup;

use crate::pod::{PodInfo, PodKey};

/// What scheduling needs to know of a PodGroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// How many pods of a gang need nodes at the same time; `None` where each may go by itself.
    pub least: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    facts: Option<GroupFacts>,
    /// Known pods that count on no node.
    waiting: BTreeSet<PodKey>,
    /// How many count on one.
    placed: usize,
}

/// By namespace and name, whether or not their PodGroup is there.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<PodKey, Group>);

impl GroupFacts {
    pub fn new(group: &PodGroup) -> GroupFacts {
        let gang = group.spec.scheduling_policy.gang.as_ref();
        GroupFacts { least: gang.map(|gang| usize::try_from(gang.min_count).unwrap_or(0)) }
    }
}

impl Groups {
    /// Takes over what a PodGroup says; tells whether it is new.
    pub fn set(&mut self, key: PodKey, facts: GroupFacts) -> bool {
        self.0.entry(key).or_default().facts.replace(facts).is_none()
    }

    pub fn remove(&mut self, key: &PodKey) {
        self.change(key, |group| group.facts = None);
    }

    pub fn facts(&self, key: &PodKey) -> Option<GroupFacts> {
        self.0.get(key)?.facts
    }

    /// The pods that have no node.
    pub fn waiting(&self, key: &PodKey) -> Vec<PodKey> {
        self.0.get(key).map(|group| group.waiting.iter().cloned().collect()).unwrap_or_default()
    }

    /// How many pods there are, and how many of them count on a node.
    pub fn sizes(&self, key: &PodKey) -> (usize, usize) {
        self.0.get(key).map_or((0, 0), |group| (group.waiting.len() + group.placed, group.placed))
    }

    /// A pod is known and has no node; tells whether it was not known so before.
    pub fn wait(&mut self, pod: &PodInfo) -> bool {
        let Some(key) = pod.group_key() else { return false };
        self.0.entry(key).or_default().waiting.insert(pod.key.clone())
    }

    /// A pod counts on a node from now on.
    pub fn place(&mut self, pod: &PodInfo) {
        let Some(key) = pod.group_key() else { return };
        let group = self.0.entry(key).or_default();
        group.waiting.remove(&pod.key);
        group.placed += 1;
    }

    /// A pod that counted on a node counts no more.
    pub fn lift(&mut self, pod: &PodInfo) {
        if let Some(key) = pod.group_key() {
            self.change(&key, |group| group.placed = group.placed.saturating_sub(1));
        }
    }

    /// A pod that had no node is gone.
    pub fn forget(&mut self, pod: &PodInfo) {
        if let Some(key) = pod.group_key() {
            self.change(&key, |group| drop(group.waiting.take(&pod.key)));
        }
    }

    fn change(&mut self, key: &PodKey, change: impl FnOnce(&mut Group)) {
        let Some(group) = self.0.get_mut(key) else { return };
        change(group);
        if group.facts.is_none() && group.waiting.is_empty() && group.placed == 0 {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::Shapes;
    use crate::snapshot::Snapshot;

    fn pod(name: &str) -> Arc<PodInfo> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"spec":{{"schedulingGroup":{{"podGroupName":"g"}}}}}}"#
        );
        PodInfo::read(text.as_bytes(), &mut Shapes::default()).unwrap()
    }

    #[test]
    fn a_group_knows_its_pods_and_leaves_nothing_behind() {
        let (key, mut cluster) = (PodKey { namespace: "n".into(), name: "g".into() }, Snapshot::default());
        assert!(cluster.groups.wait(&pod("a")) && !cluster.groups.wait(&pod("a")));
        cluster.groups.wait(&pod("b"));
        cluster.put(pod("a"), "somewhere");
        cluster.put(pod("a"), "elsewhere");
        assert_eq!((cluster.groups.sizes(&key), cluster.groups.waiting(&key)), ((2, 1), vec![pod("b").key.clone()]));
        assert!(cluster.groups.set(key.clone(), GroupFacts { least: Some(2) }));
        assert!(!cluster.groups.set(key.clone(), GroupFacts { least: None }), "it was there");
        cluster.lift(&pod("a").key);
        cluster.groups.forget(&pod("b"));
        cluster.groups.remove(&key);
        assert!(cluster.groups.0.is_empty());
    }
}
