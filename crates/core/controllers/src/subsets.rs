//! Addresses by their ports, as Endpoints hold them: ports that the same addresses have, ready or not, share a subset.
//! Source: Kubernetes `pkg/api/v1/endpoints`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Addresses in the order of their texts, each once. Without ports only for those that have none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subset {
    pub ports: Vec<Value>,
    pub ready: Vec<Value>,
    pub not_ready: Vec<Value>,
}

/// An address under some ports, and whether it is ready there.
pub struct Member {
    pub ports: Vec<Value>,
    pub address: Value,
    pub is_ready: bool,
}

/// By address and what it stands for: pods on their node's network share one.
type Key = (String, String);

fn key(address: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&address["ip"]), text(&address["targetRef"]["uid"]))
}

/// The fewest subsets that say the same. What is not ready in one place under a port is not ready under it.
pub fn repack(members: impl IntoIterator<Item = Member>) -> Vec<Subset> {
    let mut addresses: BTreeMap<Key, Value> = BTreeMap::new();
    let mut by_port: BTreeMap<String, (Value, BTreeMap<Key, bool>)> = BTreeMap::new();
    for Member { mut ports, address, is_ready } in members {
        let key = key(&address);
        addresses.entry(key.clone()).or_insert(address);
        if ports.is_empty() {
            // Stands for none.
            ports.push(Value::Null);
        }
        for port in ports {
            let (_, states) = by_port.entry(port.to_string()).or_insert_with(|| (port, BTreeMap::new()));
            states.entry(key.clone()).and_modify(|was| *was &= is_ready).or_insert(is_ready);
        }
    }
    let mut groups: BTreeMap<BTreeMap<Key, bool>, Vec<Value>> = BTreeMap::new();
    for (port, states) in by_port.into_values() {
        let ports = groups.entry(states).or_default();
        if !port.is_null() {
            ports.push(port);
        }
    }
    let mut subsets: Vec<Subset> = Vec::new();
    for (states, ports) in groups {
        let mut subset = Subset { ports, ..Subset::default() };
        for (key, is_ready) in states {
            let list = if is_ready { &mut subset.ready } else { &mut subset.not_ready };
            list.extend(addresses.get(&key).cloned());
        }
        subsets.push(subset);
    }
    subsets.sort_by_key(|subset| subset.ports.iter().map(Value::to_string).collect::<Vec<_>>());
    subsets
}

/// Leaves at most so many addresses: the ready before the others, of each subset its share, rounded up. Whether any
/// had to go.
pub fn truncate(subsets: &mut [Subset], addresses_max: usize) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.ready.len()).sum();
    let not_ready: usize = subsets.iter().map(|subset| subset.not_ready.len()).sum();
    if ready + not_ready <= addresses_max {
        return false;
    }
    let cuts_ready = ready > addresses_max;
    let (room, total) = if cuts_ready { (addresses_max, ready) } else { (addresses_max - ready, not_ready) };
    let mut left = room;
    for subset in subsets {
        if cuts_ready {
            subset.not_ready.clear();
        }
        let list = if cuts_ready { &mut subset.ready } else { &mut subset.not_ready };
        list.truncate((list.len() * room).div_ceil(total).min(left));
        left -= list.len();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member(ports: &[i64], ip: &str, is_ready: bool) -> Member {
        let ports = ports.iter().map(|port| json!({"port": port})).collect();
        Member { ports, address: json!({"ip": ip}), is_ready }
    }

    /// Ports, and ready and other addresses.
    fn told(subset: &Subset) -> (Vec<i64>, Vec<&str>, Vec<&str>) {
        let ports = subset.ports.iter().map(|port| port["port"].as_i64().unwrap()).collect();
        let ready = subset.ready.iter().map(|one| one["ip"].as_str().unwrap()).collect();
        (ports, ready, subset.not_ready.iter().map(|one| one["ip"].as_str().unwrap()).collect())
    }

    #[test]
    fn ports_of_the_same_addresses_share_a_subset() {
        let cases = [
            (vec![member(&[1, 2], "a", true), member(&[1, 2], "b", false)], vec![(vec![1, 2], vec!["a"], vec!["b"])]),
            (vec![member(&[1], "a", true), member(&[2], "a", true)], vec![(vec![1, 2], vec!["a"], vec![])]),
            (
                vec![member(&[1, 2], "a", true), member(&[1], "b", true)],
                vec![(vec![1], vec!["a", "b"], vec![]), (vec![2], vec!["a"], vec![])],
            ),
            (
                vec![member(&[1], "a", true), member(&[2], "a", false)],
                vec![(vec![1], vec!["a"], vec![]), (vec![2], vec![], vec!["a"])],
            ),
            (vec![member(&[1], "a", true), member(&[1], "a", false)], vec![(vec![1], vec![], vec!["a"])]),
            (vec![member(&[], "b", true), member(&[], "a", true)], vec![(vec![], vec!["a", "b"], vec![])]),
        ];
        for (members, wanted) in cases {
            let subsets = repack(members);
            assert_eq!(subsets.iter().map(told).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn the_ready_are_cut_last_and_each_subset_by_its_share() {
        let subset = |ready: usize, not_ready: usize| Subset {
            ready: vec![Value::Null; ready],
            not_ready: vec![Value::Null; not_ready],
            ..Subset::default()
        };
        let cases: [(&[(usize, usize)], bool, &[(usize, usize)]); 4] = [
            (&[(6, 4)], false, &[(6, 4)]),
            (&[(6, 9)], true, &[(6, 4)]),
            (&[(20, 5)], true, &[(10, 0)]),
            (&[(10, 1), (5, 1), (5, 1)], true, &[(5, 0), (3, 0), (2, 0)]),
        ];
        for (sizes, is_cut, wanted) in cases {
            let mut subsets: Vec<Subset> = sizes.iter().map(|(ready, not_ready)| subset(*ready, *not_ready)).collect();
            assert_eq!(truncate(&mut subsets, 10), is_cut);
            let left: Vec<_> = subsets.iter().map(|subset| (subset.ready.len(), subset.not_ready.len())).collect();
            assert_eq!(left, wanted);
        }
    }
}
