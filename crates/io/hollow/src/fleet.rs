//! What a fleet of hollow nodes is: how many, how large, how named. Names and addresses follow from a node's number, so
//! that nothing needs to be kept to find them again.

use std::net::Ipv4Addr;

use coracle_meta::Quantity;
use serde::Serialize;

use crate::HollowError;
use crate::range::Range;

/// The label of every hollow node; its value is the fleet's prefix without the punctuation at its end.
pub const LABEL: &str = "coracle.dev/hollow";

/// The shortest lease: below it nodes would be renewed several times a second.
const LEASE_SECONDS_MIN: u32 = 4;

/// A fleet as it is wished for.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub nodes: u32,
    /// Begins the name of every node; its number follows.
    pub prefix: String,
    /// `topology.kubernetes.io/zone` goes round over this many.
    pub zones: u32,
    pub capacity: Capacity,
    pub taints: Vec<Taint>,
    pub node_range: Range,
    pub pod_range: Range,
    /// `leaseDurationSeconds`; a lease is renewed four times as often.
    pub lease_seconds: u32,
    /// How long a container runs that is to end and does not say when.
    pub job_seconds: u32,
}

/// What each node has, as quantities.
#[derive(Clone, Debug)]
pub struct Capacity {
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
}

/// A taint of every node of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taint {
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: String,
}

impl Taint {
    /// `key=value:Effect` or `key:Effect`, as kubectl writes them.
    pub fn parse(text: &str) -> Option<Taint> {
        let (key, effect) = text.rsplit_once(':')?;
        let (key, value) = key.split_once('=').unwrap_or((key, ""));
        let known = matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute");
        (known && !key.is_empty()).then(|| Taint { key: key.into(), value: value.into(), effect: effect.into() })
    }
}

impl Default for Fleet {
    fn default() -> Fleet {
        Fleet {
            nodes: 0,
            prefix: "hollow-".into(),
            zones: 1,
            capacity: Capacity { cpu: "64".into(), memory: "256Gi".into(), pods: 250 },
            taints: Vec::new(),
            // Set aside for measuring networks (RFC 2544) and for carriers (RFC 6598): no cluster routes them.
            node_range: Range::new(Ipv4Addr::new(198, 18, 0, 0), 15),
            pod_range: Range::new(Ipv4Addr::new(100, 64, 0, 0), 10),
            lease_seconds: 40,
            job_seconds: 1,
        }
    }
}

impl Fleet {
    /// Says what cannot be.
    pub fn check(&self) -> Result<(), HollowError> {
        let bad = |setting, why: String| Err(HollowError::Setting { setting, why });
        if value_of(&self.prefix).is_none() {
            return bad("prefix", format!("{:?} does not begin the name of a node", self.prefix));
        }
        for (setting, amount) in [("cpu", &self.capacity.cpu), ("memory", &self.capacity.memory)] {
            if amount.parse::<Quantity>().is_err() {
                return bad(setting, format!("{amount:?} is not a quantity"));
            }
        }
        if self.zones == 0 {
            return bad("zones", "there is at least one".into());
        }
        if self.lease_seconds < LEASE_SECONDS_MIN {
            return bad("lease-seconds", format!("at least {LEASE_SECONDS_MIN}"));
        }
        if self.nodes > self.node_range.usable() {
            return bad("node-cidr", format!("{} addresses are too few", self.node_range.usable()));
        }
        if u64::from(self.nodes) * u64::from(self.capacity.pods) > u64::from(self.pod_range.usable()) {
            return bad("pod-cidr", format!("{} addresses are too few", self.pod_range.usable()));
        }
        Ok(())
    }

    pub fn name(&self, node: u32) -> String {
        format!("{}{node}", self.prefix)
    }

    /// The number of the node of this name, if it is one of the fleet.
    pub fn number(&self, name: &str) -> Option<u32> {
        let number = self.number_beyond(name)?;
        (number < self.nodes).then_some(number)
    }

    /// As `number`, of a fleet as large as it may ever have been.
    pub(crate) fn number_beyond(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&self.prefix)?;
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|_| canonical)
    }

    pub fn address(&self, node: u32) -> Ipv4Addr {
        self.node_range.nth(node)
    }

    /// The value of the fleet's label.
    pub fn label(&self) -> &str {
        value_of(&self.prefix).unwrap_or_default()
    }
}

/// A prefix of a DNS name without the punctuation at its end, which is a label's value.
fn value_of(prefix: &str) -> Option<&str> {
    let value = prefix.trim_end_matches(['-', '.']);
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let good = !value.is_empty() && prefix.len() <= 50 && prefix.bytes().all(inner);
    (good && value.as_bytes()[0].is_ascii_alphanumeric()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_found_again_by_its_name() {
        let fleet = Fleet { nodes: 12, ..Fleet::default() };
        assert_eq!(fleet.number(&fleet.name(11)), Some(11));
        for other in ["hollow-12", "hollow-01", "hollow-", "hollow-x", "hollow-+1", "node-1"] {
            assert_eq!(fleet.number(other), None, "{other}");
        }
        assert_eq!(fleet.label(), "hollow");
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        fn refused(change: impl FnOnce(&mut Fleet)) -> String {
            let mut fleet = Fleet { nodes: 1000, ..Fleet::default() };
            change(&mut fleet);
            fleet.check().unwrap_err().to_string()
        }
        assert!(refused(|fleet| fleet.prefix = "-x".into()).starts_with("prefix: "));
        assert!(refused(|fleet| fleet.capacity.cpu = "many".into()).starts_with("cpu: "));
        assert!(refused(|fleet| fleet.pod_range = Range::parse("10.0.0.0/16").unwrap()).starts_with("pod-cidr: "));
        assert!(Fleet { nodes: 10_000, ..Fleet::default() }.check().is_ok());
    }

    #[test]
    fn taints_are_written_as_for_kubectl() {
        let taint = Taint::parse("hollow=true:NoSchedule").unwrap();
        assert_eq!((&*taint.key, &*taint.value, &*taint.effect), ("hollow", "true", "NoSchedule"));
        assert_eq!(Taint::parse("a:NoExecute").unwrap().value, "");
        assert_eq!(Taint::parse("a=b"), None);
        assert_eq!(Taint::parse("a=b:Sometimes"), None);
    }
}
