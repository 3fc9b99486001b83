//! ServiceCIDRs are ready once they are protected, and go only when no Service's address would be left outside all
//! ranges.

use std::net::IpAddr;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::protection::{Need, add, need, remove};
use crate::shape::{Item, condition, later, rfc3339, set_condition, status_of, time};

const RANGES: Resource = Resource::new("networking.k8s.io", "servicecidrs");
const ADDRESSES: Resource = Resource::new("networking.k8s.io", "ipaddresses");
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// Until every allocator has heard that a range is going.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

pub struct ServiceCidr;

impl Controller for ServiceCidr {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn component(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch { resource: RANGES, keys: range_keys }, Watch { resource: ADDRESSES, keys: address_keys }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let Some(range) = Item::get(view, &RANGES, key) else { return Plan::default() };
        match need(&range, FINALIZER) {
            Need::Add => add(&range, &RANGES, FINALIZER),
            Need::Nothing if range.meta().is_deleting() => Plan::default(),
            Need::Nothing => tell(&range, ("True", "", "Kubernetes Service CIDR is ready"), now),
            Need::Judge if !may_go(view, &range) => {
                let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
                tell(&range, ("False", "Terminating", why), now)
            }
            Need::Judge => {
                let end = later(time(range.at("/metadata/deletionTimestamp")).unwrap_or(now), GRACE);
                match Duration::try_from(end.duration_since(now)) {
                    Ok(left) if !left.is_zero() => Plan::wake(left),
                    _ => remove(&range, &RANGES, FINALIZER),
                }
            }
        }
    }
}

fn tell(range: &Item, (status, reason, message): (&str, &str, &str), now: Timestamp) -> Plan {
    let mut told = status_of(range);
    let same = condition(&told, "Ready").is_some_and(|ready| {
        ready["status"] == status
            && ready["reason"].as_str().unwrap_or_default() == reason
            && ready["message"].as_str().unwrap_or_default() == message
    });
    if same {
        return Plan::default();
    }
    let ready = json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": rfc3339(now)});
    set_condition(&mut told, ready);
    Plan { writes: range.status_write(&RANGES, &told).into_iter().collect(), ..Plan::default() }
}

/// A prefix of addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Prefix {
    address: IpAddr,
    length: u32,
}

impl Prefix {
    fn parse(text: &str) -> Option<Prefix> {
        let (address, length) = text.split_once('/')?;
        Some(Prefix { address: address.parse().ok()?, length: length.parse().ok()? })
    }

    fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32_u32.saturating_sub(self.length);
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128_u32.saturating_sub(self.length);
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }

    fn contains(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.holds(other.address)
    }

    fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other) || other.contains(self)
    }
}

fn prefixes(range: &Item) -> Vec<Prefix> {
    range.list("/spec/cidrs").iter().filter_map(|cidr| Prefix::parse(cidr.as_str()?)).collect()
}

/// No address would be outside every range.
fn may_go(view: &dyn View, range: &Item) -> bool {
    let all = Item::all(view.list(&RANGES, None));
    let others: Vec<Prefix> = all.iter().filter(|other| other.name() != range.name()).flat_map(prefixes).collect();
    let own = prefixes(range);
    if own.iter().all(|prefix| others.iter().any(|other| other.contains(prefix))) {
        return true;
    }
    let taken = view.list(&ADDRESSES, None);
    let of_services = taken.iter().filter(|address| address.meta.label(MANAGED_BY) == Some(ALLOCATOR));
    let mut addresses = of_services.filter_map(|address| address.meta.name.parse::<IpAddr>().ok());
    !addresses.any(|address| {
        own.iter().any(|prefix| prefix.holds(address)) && !others.iter().any(|prefix| prefix.holds(address))
    })
}

/// The range, and those that overlap it: they may go now, or not any more.
fn range_keys(view: &dyn View, range: &Object) -> Vec<Key> {
    let mut keys = vec![Key::of(range)];
    let Ok(tree) = range.decode::<Value>() else { return keys };
    let cidrs = tree["spec"]["cidrs"].as_array().into_iter().flatten();
    let own: Vec<Prefix> = cidrs.filter_map(|cidr| Prefix::parse(cidr.as_str()?)).collect();
    let others = Item::all(view.list(&RANGES, None));
    let touches = |other: &&Item| prefixes(other).iter().any(|prefix| own.iter().any(|own| own.overlaps(prefix)));
    keys.extend(others.iter().filter(touches).map(|other| Key::of(&other.object)));
    keys
}

fn address_keys(view: &dyn View, address: &Object) -> Vec<Key> {
    let Ok(ip) = address.meta.name.parse::<IpAddr>() else { return Vec::new() };
    let ranges = Item::all(view.list(&RANGES, None));
    let holding = ranges.iter().filter(|range| range.meta().is_deleting());
    holding
        .filter(|range| prefixes(range).iter().any(|prefix| prefix.holds(ip)))
        .map(|range| Key::of(&range.object))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn range(name: &str, cidr: &str, deleting: bool) -> Value {
        let mut range = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
        if deleting {
            range["metadata"]["finalizers"] = json!([FINALIZER]);
            range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        range
    }

    fn address(ip: &str) -> Value {
        json!({"metadata": {"name": ip, "labels": {MANAGED_BY: ALLOCATOR}}})
    }

    fn at(seconds: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn a_new_range_is_protected_and_ready() {
        let view = FakeView::new().with(RANGES, range("a", "10.0.0.0/24", false));
        view.settle(&ServiceCidr, &Key::new("", "a"), at(0));
        let ready = view.json(&RANGES, "", "a");
        assert_eq!(ready["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(ready["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn a_range_goes_when_its_addresses_have_another() {
        let key = Key::new("", "a");
        let view = FakeView::new().with(RANGES, range("a", "10.0.0.0/24", true)).with(ADDRESSES, address("10.0.0.9"));
        view.settle(&ServiceCidr, &key, at(20));
        assert_eq!(view.json(&RANGES, "", "a")["status"]["conditions"][0]["reason"], "Terminating");
        view.put(&RANGES, range("b", "10.0.0.0/16", false));
        let waits = ServiceCidr.decide(&view, &key, &Outcome::default(), at(4));
        assert_eq!(waits.wake_after, Some(Duration::from_secs(6)));
        view.settle(&ServiceCidr, &key, at(20));
        assert_eq!(view.names(&RANGES), ["b"]);
    }

    #[test]
    fn prefixes_know_what_they_hold() {
        let prefix = |text| Prefix::parse(text).unwrap();
        assert!(prefix("10.0.0.0/8").contains(&prefix("10.1.0.0/16")));
        assert!(!prefix("10.1.0.0/16").contains(&prefix("10.0.0.0/8")));
        assert!(prefix("fd00::/8").holds("fd12::1".parse().unwrap()));
        assert!(prefix("0.0.0.0/0").holds("1.2.3.4".parse().unwrap()));
        assert!(!prefix("10.0.0.0/24").holds("10.0.1.0".parse().unwrap()));
    }
}
