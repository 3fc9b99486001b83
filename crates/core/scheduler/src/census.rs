//! How many pods of each shape count on which node, found by their labels: who counts what a selector picks need not look
//! at every pod. Pods that are being deleted do not count.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_meta::selector::{LabelSelector, Operator};

use crate::pod::{PodInfo, Shape};

/// Where a shape lies; it is held on to.
type Address = usize;

#[derive(Clone, Debug, Default)]
pub struct Census(HashMap<String, Namespace>);

#[derive(Clone, Debug, Default)]
struct Namespace {
    shapes: HashMap<Address, Counted>,
    by_label: HashMap<(String, String), Vec<Address>>,
}

#[derive(Clone, Debug)]
struct Counted {
    shape: Arc<Shape>,
    /// By the serial of the node.
    pods: HashMap<u64, u32>,
}

impl Census {
    /// A pod counts on the node of this serial.
    pub fn add(&mut self, pod: &PodInfo, serial: u64) {
        if pod.deleting {
            return;
        }
        if !self.0.contains_key(&pod.shape.namespace) {
            self.0.insert(pod.shape.namespace.clone(), Namespace::default());
        }
        let Some(namespace) = self.0.get_mut(&pod.shape.namespace) else { return };
        let address = Arc::as_ptr(&pod.shape).addr();
        let counted = namespace.shapes.entry(address).or_insert_with(|| {
            for label in &pod.shape.labels {
                namespace.by_label.entry(label.clone()).or_default().push(address);
            }
            Counted { shape: pod.shape.clone(), pods: HashMap::new() }
        });
        *counted.pods.entry(serial).or_default() += 1;
    }

    /// It does so no more.
    pub fn remove(&mut self, pod: &PodInfo, serial: u64) {
        let address = Arc::as_ptr(&pod.shape).addr();
        let Some(namespace) = self.0.get_mut(&pod.shape.namespace).filter(|_| !pod.deleting) else { return };
        let Some(counted) = namespace.shapes.get_mut(&address) else { return };
        if let Some(pods) = counted.pods.get_mut(&serial) {
            *pods -= 1;
            if *pods == 0 {
                counted.pods.remove(&serial);
            }
        }
        if counted.pods.is_empty() {
            namespace.forget(address);
        }
        if namespace.shapes.is_empty() {
            self.0.remove(&pod.shape.namespace);
        }
    }

    /// Tells of the pods that a selector picks in a namespace: of nodes, by serial and some maybe more than once, how
    /// many are there.
    pub fn count(&self, namespace: &str, selector: &LabelSelector, mut each: impl FnMut(u64, u32)) {
        let Some(namespace) = self.0.get(namespace) else { return };
        let picked = |counted: &&Counted| selector.matches(&counted.shape.labels);
        let mut tell = |counted: &Counted| counted.pods.iter().for_each(|(serial, pods)| each(*serial, *pods));
        match namespace.rarest(selector) {
            Some(addresses) => {
                addresses.iter().filter_map(|address| namespace.shapes.get(address)).filter(picked).for_each(tell);
            }
            None => namespace.shapes.values().filter(picked).for_each(&mut tell),
        }
    }
}

impl Namespace {
    /// The fewest shapes among which all are that the selector picks; `None` where that is not known.
    fn rarest(&self, selector: &LabelSelector) -> Option<&[Address]> {
        let exact = selector.requirements().iter().filter_map(|requirement| {
            let one = match (requirement.operator, requirement.values.as_slice()) {
                (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => value,
                _ => return None,
            };
            Some(self.by_label.get(&(requirement.key.clone(), one.clone())).map_or(&[][..], Vec::as_slice))
        });
        exact.min_by_key(|addresses| addresses.len())
    }

    fn forget(&mut self, address: Address) {
        let Some(counted) = self.shapes.remove(&address) else { return };
        for label in &counted.shape.labels {
            if let Some(addresses) = self.by_label.get_mut(label) {
                addresses.retain(|known| *known != address);
                if addresses.is_empty() {
                    self.by_label.remove(label);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Shapes;

    fn pod(namespace: &str, labels: &str, extra: &str, shapes: &mut Shapes) -> Arc<PodInfo> {
        let text = format!(
            r#"{{"metadata":{{"name":"p","namespace":"{namespace}","labels":{{{labels}}}{extra}}},"spec":{{}}}}"#
        );
        PodInfo::read(text.as_bytes(), shapes).unwrap()
    }

    fn counted(census: &Census, selector: &str) -> Vec<(u64, u32)> {
        let mut found = HashMap::<u64, u32>::new();
        census.count("n", &LabelSelector::parse(selector).unwrap(), |serial, pods| {
            *found.entry(serial).or_default() += pods;
        });
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort();
        found
    }

    #[test]
    fn pods_are_counted_by_node_whatever_they_are_selected_by() {
        let (mut shapes, mut census) = (Shapes::default(), Census::default());
        let web = pod("n", r#""app":"web","v":"1""#, "", &mut shapes);
        let other = pod("n", r#""app":"web","v":"2""#, "", &mut shapes);
        let stranger = pod("elsewhere", r#""app":"web","v":"1""#, "", &mut shapes);
        let leaving = pod("n", r#""app":"web","v":"1""#, r#","deletionTimestamp":"2026-01-01T00:00:00Z""#, &mut shapes);
        let all = [(&web, 1), (&web, 1), (&web, 2), (&other, 2), (&stranger, 2), (&leaving, 1)];
        all.iter().for_each(|(pod, serial)| census.add(pod, *serial));
        for (selector, expected) in [
            ("app=web", vec![(1, 2), (2, 2)]),
            ("app=web,v=1", vec![(1, 2), (2, 1)]),
            ("v in (2)", vec![(2, 1)]),
            ("v!=1", vec![(2, 1)]),
            ("app", vec![(1, 2), (2, 2)]),
            ("app=db", vec![]),
        ] {
            assert_eq!(counted(&census, selector), expected, "{selector}");
        }
        all.iter().for_each(|(pod, serial)| census.remove(pod, *serial));
        assert!(census.0.is_empty());
    }
}
