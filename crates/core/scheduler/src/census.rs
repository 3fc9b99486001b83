//! How many pods of each shape count on which node, found by their labels: who counts what a selector picks need not look
//! at every pod. Pods that are being deleted do not count.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use coracle_meta::selector::{LabelSelector, Operator};

use crate::pod::{PodInfo, Shape};

/// Where a shape lies; it is held on to.
type Address = usize;

/// Of a label's key and value. Where two labels have one, shapes are found that have the other: who finds them looks.
type Digest = u64;

#[derive(Clone, Debug, Default)]
pub struct Census(HashMap<String, Namespace>);

#[derive(Clone, Debug, Default)]
struct Namespace {
    shapes: HashMap<Address, Counted>,
    by_label: HashMap<Digest, Addresses>,
}

#[derive(Clone, Debug)]
struct Counted {
    shape: Arc<Shape>,
    pods: Spots,
}

/// How many pods there are on which node, by its serial. Pods with a label of their own, of which there may be many, are
/// on one.
#[derive(Clone, Debug)]
#[expect(clippy::box_collection, reason = "there may be as many as pods, and few of them are not one")]
enum Spots {
    One(u64, u32),
    Many(Box<HashMap<u64, u32>>),
}

/// The shapes that have a label; again it is often one.
#[derive(Clone, Debug)]
#[expect(clippy::box_collection, reason = "there may be as many as pods, and few of them are not one")]
enum Addresses {
    One(Address),
    Many(Box<HashSet<Address>>),
}

fn digest(key: &str, value: &str) -> Digest {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

impl Spots {
    fn add(&mut self, serial: u64) {
        match self {
            Spots::One(known, pods) if *known == serial => *pods += 1,
            Spots::One(known, pods) => *self = Spots::Many(Box::new(HashMap::from([(*known, *pods), (serial, 1)]))),
            Spots::Many(all) => *all.entry(serial).or_default() += 1,
        }
    }

    /// Tells whether any are left.
    fn remove(&mut self, serial: u64) -> bool {
        match self {
            Spots::One(known, pods) => {
                *pods -= u32::from(*known == serial);
                *pods > 0
            }
            Spots::Many(all) => {
                if let Some(pods) = all.get_mut(&serial) {
                    *pods -= 1;
                    if *pods == 0 {
                        all.remove(&serial);
                    }
                }
                !all.is_empty()
            }
        }
    }

    fn tell(&self, each: &mut impl FnMut(u64, u32)) {
        match self {
            Spots::One(serial, pods) => each(*serial, *pods),
            Spots::Many(all) => all.iter().for_each(|(serial, pods)| each(*serial, *pods)),
        }
    }
}

impl Addresses {
    fn len(&self) -> usize {
        match self {
            Addresses::One(_) => 1,
            Addresses::Many(all) => all.len(),
        }
    }

    fn each(&self, mut each: impl FnMut(&Address)) {
        match self {
            Addresses::One(address) => each(address),
            Addresses::Many(all) => all.iter().for_each(each),
        }
    }

    fn add(&mut self, address: Address) {
        match self {
            Addresses::One(known) => *self = Addresses::Many(Box::new(HashSet::from([*known, address]))),
            Addresses::Many(all) => drop(all.insert(address)),
        }
    }

    /// Tells whether any are left.
    fn remove(&mut self, address: Address) -> bool {
        match self {
            Addresses::One(known) => *known != address,
            Addresses::Many(all) => {
                all.remove(&address);
                !all.is_empty()
            }
        }
    }
}

/// Where the shapes are found that a selector picks.
enum Found<'a> {
    Among(&'a Addresses),
    Nowhere,
    Anywhere,
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
        match namespace.shapes.get_mut(&address) {
            Some(counted) => counted.pods.add(serial),
            None => namespace.know(address, Counted { shape: pod.shape.clone(), pods: Spots::One(serial, 1) }),
        }
    }

    /// It does so no more.
    pub fn remove(&mut self, pod: &PodInfo, serial: u64) {
        let address = Arc::as_ptr(&pod.shape).addr();
        let Some(namespace) = self.0.get_mut(&pod.shape.namespace).filter(|_| !pod.deleting) else { return };
        let Some(counted) = namespace.shapes.get_mut(&address) else { return };
        if !counted.pods.remove(serial) {
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
        let mut look = |counted: &Counted| {
            if selector.matches(&counted.shape.labels) {
                counted.pods.tell(&mut each);
            }
        };
        match namespace.find(selector) {
            Found::Among(some) => some.each(|address| namespace.shapes.get(address).into_iter().for_each(&mut look)),
            Found::Nowhere => (),
            Found::Anywhere => namespace.shapes.values().for_each(look),
        }
    }
}

impl Namespace {
    /// The fewest shapes among which all are that the selector picks.
    fn find(&self, selector: &LabelSelector) -> Found<'_> {
        let exact = selector.requirements().iter().filter_map(|requirement| {
            match (requirement.operator, requirement.values.as_slice()) {
                (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => {
                    Some(self.by_label.get(&digest(&requirement.key, value)))
                }
                _ => None,
            }
        });
        match exact.min_by_key(|some| some.map_or(0, Addresses::len)) {
            Some(Some(some)) => Found::Among(some),
            Some(None) => Found::Nowhere,
            None => Found::Anywhere,
        }
    }

    fn know(&mut self, address: Address, counted: Counted) {
        for (key, value) in &counted.shape.labels {
            let known = self.by_label.entry(digest(key, value));
            known.and_modify(|addresses| addresses.add(address)).or_insert(Addresses::One(address));
        }
        self.shapes.insert(address, counted);
    }

    fn forget(&mut self, address: Address) {
        let Some(counted) = self.shapes.remove(&address) else { return };
        for digest in counted.shape.labels.iter().map(|(key, value)| digest(key, value)) {
            if self.by_label.get_mut(&digest).is_some_and(|addresses| !addresses.remove(address)) {
                self.by_label.remove(&digest);
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
