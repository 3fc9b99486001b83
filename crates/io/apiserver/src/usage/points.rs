//! What a node was read to use, and what two readings say of the time between them. Source of what counts as a restart:
//! metrics-server's `pkg/storage`.

use std::collections::BTreeMap;

/// What of a container's life is too short to tell its use by.
const LIFE_MILLIS_MIN: i64 = 1000;

/// One reading of a node or a container.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Milliseconds since 1970; 0 where the kubelet does not tell the start.
    pub started: i64,
    pub at: i64,
    /// Since the start.
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
}

/// What was used up to `at`: of memory then, of processors on average over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    pub at: i64,
    pub window_millis: i64,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

/// One reading of all there is on a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub node: Point,
    /// Containers' names and points, by their pod's namespace and name.
    pub pods: BTreeMap<(String, String), BTreeMap<String, Point>>,
}

/// The two readings that are kept of a node.
#[derive(Clone, Debug)]
pub struct Pair {
    pub earlier: Reading,
    pub later: Reading,
}

impl Pair {
    pub fn window_millis(&self) -> i64 {
        self.later.node.at - self.earlier.node.at
    }

    pub fn node(&self) -> Option<Used> {
        between(Some(&self.earlier.node), &self.later.node)
    }

    /// What each container uses; `None` where one of them cannot be told yet, since a sum without it would be wrong.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Vec<(String, Used)>> {
        let key = (namespace.to_owned(), name.to_owned());
        let earlier = self.earlier.pods.get(&key);
        let containers = self.later.pods.get(&key)?.iter();
        let used = containers.map(|(container, later)| {
            let earlier = earlier.and_then(|pod| pod.get(container));
            Some((container.clone(), between(earlier, later)?))
        });
        used.collect()
    }
}

/// A container that began after the earlier reading is measured from its start.
fn between(earlier: Option<&Point>, later: &Point) -> Option<Used> {
    let same = earlier.filter(|earlier| later.started <= earlier.at);
    let (from, before) = match same {
        Some(earlier) => (earlier.at, earlier.cpu_nanos),
        None if later.started > 0 && later.at - later.started >= LIFE_MILLIS_MIN => (later.started, 0),
        None => return None,
    };
    let window_millis = later.at - from;
    let used = later.cpu_nanos.checked_sub(before)?;
    let window = u128::try_from(window_millis).ok().filter(|window| *window > 0)?;
    let cpu_nanocores = u64::try_from(u128::from(used) * 1000 / window).ok()?;
    Some(Used { at: later.at, window_millis, cpu_nanocores, memory_bytes: later.memory_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(started: i64, at: i64, cpu_millis: u64) -> Point {
        Point { started, at, cpu_nanos: cpu_millis * 1_000_000, memory_bytes: 7 }
    }

    #[test]
    fn use_is_what_was_added_over_the_time_between() {
        let table = [
            (Some(point(10, 100_000, 50)), point(10, 110_000, 5050), Some((10_000, 500_000_000))),
            (Some(point(0, 100_000, 50)), point(0, 100_500, 550), Some((500, 1_000_000_000))),
            // Restarted in between: measured from its new start.
            (Some(point(10, 100_000, 5000)), point(105_000, 110_000, 1000), Some((5000, 200_000_000))),
            // New: the same, unless it has lived too short a time.
            (None, point(105_000, 110_000, 1000), Some((5000, 200_000_000))),
            (None, point(109_500, 110_000, 100), None),
            (None, point(0, 110_000, 1000), None),
            // The same reading twice, and a counter that went back, say nothing.
            (Some(point(10, 100_000, 50)), point(10, 100_000, 50), None),
            (Some(point(10, 100_000, 50)), point(10, 110_000, 40), None),
        ];
        for (earlier, later, wanted) in table {
            let used = between(earlier.as_ref(), &later);
            assert_eq!(used.map(|used| (used.window_millis, used.cpu_nanocores)), wanted, "{earlier:?} {later:?}");
        }
    }

    #[test]
    fn a_pod_is_told_with_all_its_containers_or_not_at_all() {
        let reading = |at: i64, containers: &[(&str, Point)]| {
            let containers = containers.iter().map(|(name, point)| ((*name).to_owned(), *point)).collect();
            let pods = BTreeMap::from([(("n".to_owned(), "p".to_owned()), containers)]);
            Reading { node: point(0, at, 0), pods }
        };
        let earlier = reading(100_000, &[("a", point(10, 100_000, 0))]);
        let later =
            |started| reading(110_000, &[("a", point(10, 110_000, 1000)), ("b", point(started, 110_000, 1000))]);
        let pair = |started| Pair { earlier: earlier.clone(), later: later(started) };
        assert_eq!(pair(105_000).pod("n", "p").map(|used| used.len()), Some(2));
        assert_eq!(pair(109_900).pod("n", "p"), None);
        assert_eq!(pair(105_000).pod("n", "q"), None);
    }
}
