//! The pods of a gang wait until there are as many as it needs, and then for nodes for as many of them.

use crate::framework::{Change, Kind, Permit, Plugin, Point, Status};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub struct GangScheduling;

impl Plugin for GangScheduling {
    fn name(&self) -> &'static str {
        "GangScheduling"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue, Point::Permit]
    }

    fn pre_enqueue(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Status> {
        let key = pod.group_key()?;
        let Some(facts) = cluster.groups.facts(&key) else {
            let name = key.name;
            return Some(Status::lasting(format!(
                "waiting for pods's pod group {name:?} to appear in scheduling queue"
            )));
        };
        let (all, _) = cluster.groups.sizes(&key);
        let is_short = facts.least.is_some_and(|least| all < least);
        is_short.then(|| Status::lasting("waiting for minCount pods from a gang to appear in scheduling queue"))
    }

    fn permit(&self, pod: &PodInfo, _: &str, cluster: &Snapshot) -> Permit {
        let Some(key) = pod.group_key() else { return Permit::Allow };
        let Some(facts) = cluster.groups.facts(&key) else {
            let (namespace, name) = (&key.namespace, &key.name);
            return Permit::Fail(format!(
                "failed to get podGroup {namespace}/{name}: podgroup.scheduling.k8s.io {name:?} not found"
            ));
        };
        let (_, placed) = cluster.groups.sizes(&key);
        match facts.least {
            Some(least) if placed < least => Permit::Wait("waiting for minCount pods from a gang to be scheduled"),
            _ => Permit::Allow,
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::MemberAdded, Kind::PodPlaced, Kind::GroupAdded]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        let own = pod.group_key();
        match change {
            Change::MemberAdded(other) | Change::PodPlaced(other) => own.is_some() && other.group_key() == own,
            Change::GroupAdded(key) => own.as_ref() == Some(key),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::framework::Difference;
    use crate::groups::GroupFacts;
    use crate::pod::{PodKey, Shapes};

    fn pod(name: &str, group: &str) -> Arc<PodInfo> {
        let group = match group {
            "" => "{}".to_owned(),
            group => format!(r#"{{"schedulingGroup":{{"podGroupName":"{group}"}}}}"#),
        };
        let text = format!(r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}"}},"spec":{group}}}"#);
        PodInfo::read(text.as_bytes(), &mut Shapes::default()).unwrap()
    }

    fn key(name: &str) -> PodKey {
        PodKey { namespace: "n".into(), name: name.into() }
    }

    /// Whether a pod that has a node may go there, and whether another of the group may enter the queue.
    fn said(group: &str, least: Option<Option<usize>>, waiting: usize, placed: usize) -> (Permit, Option<String>) {
        let mut cluster = Snapshot::default();
        if let Some(least) = least {
            cluster.groups.set(key("g"), GroupFacts { least });
        }
        for at in 0..waiting {
            cluster.groups.wait(&pod(&format!("w{at}"), group));
        }
        for at in 0..placed {
            cluster.put(pod(&format!("p{at}"), group), "node");
        }
        let one = pod("w0", group);
        let gate = GangScheduling.pre_enqueue(&one, &cluster);
        (GangScheduling.permit(&one, "node", &cluster), gate.map(|status| status.reasons.join(", ")))
    }

    #[test]
    fn a_gang_goes_when_enough_of_it_are_there() {
        let (wait, few) = (
            Permit::Wait("waiting for minCount pods from a gang to be scheduled"),
            Some("waiting for minCount pods from a gang to appear in scheduling queue".to_owned()),
        );
        let absent = Some("waiting for pods's pod group \"g\" to appear in scheduling queue".to_owned());
        let failed = Permit::Fail("failed to get podGroup n/g: podgroup.scheduling.k8s.io \"g\" not found".to_owned());
        for (group, least, (waiting, placed), expected) in [
            ("", Some(Some(3)), (1, 0), (Permit::Allow, None)),
            ("g", None, (3, 0), (failed, absent)),
            ("g", Some(None), (1, 0), (Permit::Allow, None)),
            ("g", Some(Some(3)), (2, 0), (wait.clone(), few)),
            ("g", Some(Some(3)), (3, 0), (wait.clone(), None)),
            ("g", Some(Some(3)), (1, 2), (wait, None)),
            ("g", Some(Some(3)), (0, 3), (Permit::Allow, None)),
        ] {
            assert_eq!(said(group, least, waiting, placed), expected, "{group} {least:?} {waiting}+{placed}");
        }
    }

    #[test]
    fn only_its_own_group_and_who_joins_it_help_a_pod() {
        let (mine, stranger) = (pod("a", "g"), pod("a", ""));
        for (change, helps) in [
            (Change::MemberAdded(pod("b", "g")), true),
            (Change::MemberAdded(pod("b", "h")), false),
            (Change::PodPlaced(pod("b", "g")), true),
            (Change::PodPlaced(pod("b", "")), false),
            (Change::GroupAdded(key("g")), true),
            (Change::GroupAdded(key("h")), false),
            (Change::Class(Difference::Added), false),
        ] {
            assert_eq!(GangScheduling.hint(&mine, &change), helps, "{change:?}");
            assert!(!GangScheduling.hint(&stranger, &change), "{change:?}");
        }
    }
}
