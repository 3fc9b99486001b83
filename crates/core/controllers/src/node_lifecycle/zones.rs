//! How fast pods are driven off nodes that are not ready: one node after the other in each zone, and not at all in a small
//! zone of which most fell out, since then it is rather the network. Source: Kubernetes `pkg/controller/nodelifecycle`.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_reconcile::View;

use crate::node::NodeFacts;
use crate::shape::Item;
use crate::taint_eviction::NODES;

/// Between two nodes of a zone; upstream's `--node-eviction-rate` of 0.1 a second.
const PAUSE: Duration = Duration::from_secs(10);
/// The same of a large zone of which most nodes fell out; upstream's `--secondary-node-eviction-rate`.
const LONG_PAUSE: Duration = Duration::from_secs(100);
/// Up to this size a zone is small; upstream's `--large-cluster-size-threshold`.
const SMALL_MAX: usize = 50;
/// Hundredths of a zone that have fallen out; upstream's `--unhealthy-zone-threshold`.
const MOST: usize = 55;
/// So many may always fall out.
const FEW: usize = 2;

#[derive(Default)]
struct Zone {
    ready: usize,
    unready: usize,
}

/// The nodes of each zone, counted.
pub struct Zones(BTreeMap<String, Zone>);

impl Zones {
    /// `unready` is not, whatever the view still shows.
    pub fn of(view: &dyn View, unready: &Item) -> Zones {
        let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
        for node in view.list(&NODES, None) {
            let facts = NodeFacts::of(&node);
            if facts.is_excluded {
                continue;
            }
            let zone = zones.entry(facts.zone.clone()).or_default();
            match facts.is_ready && node.meta.name != unready.name() {
                true => zone.ready += 1,
                false => zone.unready += 1,
            }
        }
        Zones(zones)
    }

    /// Whether no node is ready in any zone.
    pub fn are_cut_off(&self) -> bool {
        self.0.values().all(|zone| zone.ready == 0)
    }

    /// How long to wait after another node of the same zone; `None` while nobody is driven away there.
    pub fn pause(&self, node: &Item) -> Option<Duration> {
        let Some(zone) = self.0.get(&NodeFacts::of(&node.object).zone) else { return Some(PAUSE) };
        let all = zone.ready + zone.unready;
        let most_fell_out = zone.ready > 0 && zone.unready > FEW && zone.unready * 100 >= all * MOST;
        match (most_fell_out, all > SMALL_MAX) {
            (false, _) => Some(PAUSE),
            (true, true) => Some(LONG_PAUSE),
            (true, false) => None,
        }
    }
}

/// Whose turn it was last in each zone, and when.
#[derive(Default)]
pub struct Pace(BTreeMap<String, (String, Duration)>);

impl Pace {
    /// Takes the zone's turn, or tells how long it is until it may be had. Who has it already keeps it.
    pub fn take(&mut self, node: &Item, pause: Duration, now: Duration) -> Result<(), Duration> {
        let zone = &NodeFacts::of(&node.object).zone;
        match self.0.get(zone) {
            Some((holder, at)) if holder != node.uid() && now < *at + pause => Err(*at + pause - now),
            Some((holder, _)) if holder == node.uid() => Ok(()),
            _ => {
                self.0.insert(zone.clone(), (node.uid().to_owned(), now));
                Ok(())
            }
        }
    }
}
