//! A scheduler by its name: which plugins it has, at which points, with which weights.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::class::Classes;
use crate::extender::EXTENDER;
use coracle_meta::Gates;

use crate::framework::{Change, Kind, Nomination, Permit, Plugin, Point, PostFilter};
use crate::plugins::PLUGINS;
use crate::pod::PodInfo;
use crate::preemption::Attempt;
use crate::queue::Rejectors;
use crate::snapshot::Snapshot;

/// A plugin as a profile uses it.
#[derive(Clone)]
pub struct Enabled {
    pub plugin: Arc<dyn Plugin>,
    pub points: BTreeSet<Point>,
    pub weight: i64,
}

impl Enabled {
    pub fn at(&self, point: Point) -> bool {
        self.points.contains(&point)
    }
}

pub struct Profile {
    pub name: String,
    /// In the order in which they run.
    pub plugins: Vec<Enabled>,
    /// How many of all nodes to find, in per cent; 0 lets the number of nodes decide.
    pub percent: u32,
    pub classes: Classes,
}

impl Profile {
    pub fn new(name: impl Into<String>, plugins: Vec<Enabled>, percent: u32) -> Profile {
        Profile { name: name.into(), plugins, percent, classes: Classes::default() }
    }

    /// Every plugin that needs no feature gate, with its default weight and arguments.
    pub fn standard(name: impl Into<String>) -> Profile {
        Profile::gated(name, Gates::default())
    }

    /// The same with these feature gates on.
    pub fn gated(name: impl Into<String>, gates: Gates) -> Profile {
        let plugins = PLUGINS.iter().filter(|entry| entry.is_on(gates)).map(|entry| {
            let plugin = (entry.make)(None).expect("a plugin accepts its own defaults");
            Enabled { points: plugin.points().iter().copied().collect(), plugin, weight: entry.weight }
        });
        Profile::new(name, plugins.collect(), 0)
    }

    pub fn at(&self, point: Point) -> impl Iterator<Item = &Arc<dyn Plugin>> {
        self.plugins.iter().filter(move |enabled| enabled.at(point)).map(|enabled| &enabled.plugin)
    }

    /// Keeps at hand what its plugins judge every pod by.
    pub fn track(&self, cluster: &mut Snapshot) {
        let keys = self.plugins.iter().flat_map(|enabled| enabled.plugin.topologies());
        keys.for_each(|key| cluster.track_topology(key));
    }

    /// The first plugin that keeps the pod from being tried.
    pub fn gate(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<&'static str> {
        let mut plugins = self.at(Point::PreEnqueue);
        plugins.find(|plugin| plugin.pre_enqueue(pod, cluster).is_some()).map(|plugin| plugin.name())
    }

    /// What all plugins say before binding: one that rejects or fails ends it, else the last that asks to wait counts.
    /// With the name of whose word it is.
    pub fn permit(&self, pod: &PodInfo, node: &str, cluster: &Snapshot) -> (&'static str, Permit) {
        let mut word = ("", Permit::Allow);
        for plugin in self.at(Point::Permit) {
            match plugin.permit(pod, node, cluster) {
                Permit::Allow => (),
                wait @ Permit::Wait(_) => word = (plugin.name(), wait),
                last => return (plugin.name(), last),
            }
        }
        word
    }

    /// The greater goes first.
    pub fn rank(&self, pod: &PodInfo) -> i64 {
        self.at(Point::QueueSort).map(|plugin| plugin.queue_rank(pod)).next().unwrap_or(0)
    }

    /// What the plugins do for a pod that no node can take: the first to make room ends it, else all have their word.
    pub fn post_filter(&self, attempt: &mut Attempt<'_>) -> Option<PostFilter> {
        let (mut words, mut nomination) = (Vec::new(), Nomination::Keep);
        for plugin in self.at(Point::PostFilter) {
            match plugin.post_filter(attempt) {
                None => (),
                Some(PostFilter::Helpless { message, nomination: wanted }) => {
                    words.push(message);
                    nomination = nomination.max(wanted);
                }
                last => return last,
            }
        }
        (!words.is_empty()).then(|| PostFilter::Helpless { message: words.join(", "), nomination })
    }

    /// Whether any of those who rejected a pod wants to hear of such changes. What nobody rejected, anything may help.
    pub fn listens(&self, by: &Rejectors, kind: Kind) -> bool {
        open(by) || self.rejectors(by, kind).next().is_some()
    }

    /// Whether the change may help the pod.
    pub fn helps(&self, pod: &PodInfo, by: &Rejectors, change: &Change) -> bool {
        open(by) || self.rejectors(by, change.kind()).any(|plugin| plugin.hint(pod, change))
    }

    fn rejectors<'a>(&'a self, by: &'a Rejectors, kind: Kind) -> impl Iterator<Item = &'a Arc<dyn Plugin>> {
        let all = self.plugins.iter().map(|enabled| &enabled.plugin);
        all.filter(move |plugin| by.contains(plugin.name()) && plugin.wakes().contains(&kind))
    }
}

/// Whether anything may help a pod that these rejected: nobody, or an extender, of which no more is known.
fn open(by: &Rejectors) -> bool {
    by.is_empty() || by.contains(EXTENDER)
}
