//! What is worked out about pods of one shape, kept between them: how the nodes stand to them, and the checks that look
//! further than one node. The cluster's log tells which nodes have to be looked at again; a decision about the next pod
//! of the shape then costs little more than reading a row of numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coracle_meta::selector::LabelSelector;

use crate::framework::{Answer, Point, PreFilter, Score, Status, Wide};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::profile::Enabled;
use crate::snapshot::{Mark, Since, Snapshot};
use crate::standing::Standing;
pub use crate::standing::Verdict;

/// Shapes worked on at once, and how much may be remembered of nodes in all; more push out those that were asked for
/// longest ago.
const CLASSES_MAX: usize = 1024;
const CELLS_MAX: usize = 1 << 21;

/// Set in the verdicts that are numbered here and not by the standing.
const FAR: Verdict = 1 << 31;

struct Rule {
    /// Where the plugin stands among all: of several rejections the first counts.
    position: usize,
    plugin: &'static str,
    check: Box<dyn Wide>,
    verdicts: Vec<Verdict>,
}

/// What looks further than one node.
struct Far {
    shape: Arc<Shape>,
    mark: Mark,
    /// What such pods are counted by where they do not say so themselves, and as of which version of its namespace's
    /// workloads.
    selector: Option<LabelSelector>,
    workloads: u64,
    rejection: Option<(&'static str, Status)>,
    among: Option<(BTreeSet<String>, Vec<&'static str>)>,
    rules: Vec<Rule>,
    /// The rules that have something to say in this round.
    active: Vec<usize>,
    preferences: Vec<(i64, Box<dyn Score>)>,
    statuses: Vec<(&'static str, Status)>,
    refusal: Option<Refusal>,
    last_used: u64,
}

pub struct Class {
    far: Box<Far>,
    standing: Box<Standing>,
}

/// A refusal that stays good while nothing changes.
pub struct Refusal {
    pub mark: Mark,
    pub nominations: u64,
    pub message: String,
    pub by: BTreeSet<&'static str>,
}

impl Class {
    /// It is kept good by its own log marks only through `Classes`.
    pub fn new(pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot) -> Class {
        Class::of((pod, pod.shape.clone()), plugins, cluster, None)
    }

    /// With what is known already of how the nodes stand to pods that ask the same.
    fn of(
        (pod, shape): (&PodInfo, Arc<Shape>),
        plugins: &[Enabled],
        cluster: &Snapshot,
        known: Option<Box<Standing>>,
    ) -> Class {
        let far = Box::new(Far {
            selector: cluster.workloads.selector_of(&shape),
            workloads: cluster.workloads.version(&shape.namespace),
            shape,
            mark: cluster.mark(),
            rejection: None,
            among: None,
            rules: Vec::new(),
            active: Vec::new(),
            preferences: Vec::new(),
            statuses: Vec::new(),
            refusal: None,
            last_used: 0,
        });
        let is_known = known.is_some();
        let standing = known.unwrap_or_else(|| Box::new(Standing::new(pod.bare.clone(), cluster)));
        let mut class = Class { far, standing };
        for (position, enabled) in plugins.iter().enumerate() {
            if enabled.at(Point::PreFilter)
                && let Some(check) = class.far.add_rule((position, enabled), pod, cluster)
                && !is_known
            {
                class.standing.add_rule(position, enabled.plugin.name(), check);
            }
            if enabled.at(Point::Score)
                && let Some(mut check) = enabled.plugin.pre_score(pod, cluster)
            {
                if !check.is_local() {
                    check.observe_all(cluster);
                    class.far.preferences.push((enabled.weight, check));
                } else if !is_known {
                    class.standing.add_preference(enabled.weight, check);
                }
            }
        }
        class
    }

    /// Why no node will do.
    pub fn rejection(&self) -> Option<&(&'static str, Status)> {
        self.far.rejection.as_ref()
    }

    /// Only these nodes come into question, as these plugins say.
    pub fn among(&self) -> Option<&(BTreeSet<String>, Vec<&'static str>)> {
        self.far.among.as_ref()
    }

    /// The last time no node would do, and all that this was found by.
    pub fn refusal(&mut self) -> &mut Option<Refusal> {
        &mut self.far.refusal
    }

    /// Makes the rules see a node as it might be. Whoever calls it calls it again with the node as it is.
    pub fn pretend(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.far.rules.iter_mut().for_each(|rule| rule.check.observe(at, node, cluster));
    }

    /// Why the node, as it was last observed, cannot take the pod.
    pub fn judge(&self, at: usize, node: &NodeInfo) -> Option<(&'static str, Status)> {
        let near = self.standing.judge(at, node);
        let before = near.as_ref().map_or(usize::MAX, |(position, ..)| *position);
        let mut far = self.far.rules.iter().take_while(|rule| rule.position < before);
        match far.find_map(|rule| Some((rule, rule.check.filter(at, node)?))) {
            Some((rule, answer)) => Some((rule.plugin, rule.check.answers()[answer].status())),
            None => near.map(|(_, plugin, status)| (plugin, status)),
        }
    }

    /// Begins a round of verdicts, in which nothing is observed.
    pub fn begin(&mut self) {
        let Far { rules, active, .. } = &mut *self.far;
        active.clear();
        active.extend((0..rules.len()).filter(|rule| !rules[*rule].check.is_idle()));
    }

    /// Why the node at a place cannot take the pod, remembered.
    #[inline]
    pub fn verdict(&mut self, at: usize, cluster: &Snapshot) -> Option<Verdict> {
        let near = self.standing.verdict(at, cluster);
        if self.far.active.is_empty() {
            return near.map(|(_, verdict)| verdict);
        }
        let before = near.map_or(usize::MAX, |(position, _)| position);
        let far = self.far.verdict(at, &cluster.nodes()[at], before);
        far.or(near.map(|(_, verdict)| verdict))
    }

    /// A number for what a plugin said.
    pub fn number(&mut self, plugin: &'static str, status: Status) -> Verdict {
        self.far.number(plugin, status)
    }

    pub fn status(&self, verdict: Verdict) -> &(&'static str, Status) {
        match verdict & FAR {
            0 => self.standing.status(verdict),
            _ => &self.far.statuses[(verdict & !FAR) as usize],
        }
    }

    /// The weighted sum of all scores of each feasible node.
    pub fn totals(&mut self, feasible: &[u32], nodes: &[NodeInfo]) -> Vec<i64> {
        let mut totals = self.standing.totals(feasible);
        for (weight, check) in self.far.preferences.iter_mut().filter(|(_, check)| !check.is_idle()) {
            check.begin(feasible);
            let score = |at: &u32| check.score(*at as usize, &nodes[*at as usize]);
            let mut scores: Vec<i64> = feasible.iter().map(score).collect();
            check.normalise(&mut scores);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * *weight);
        }
        totals
    }
}

impl Far {
    /// Takes in what a plugin has to say; gives back what depends on the node alone.
    fn add_rule(
        &mut self,
        (position, enabled): (usize, &Enabled),
        pod: &PodInfo,
        cluster: &Snapshot,
    ) -> Option<Box<dyn crate::framework::Filter>> {
        let plugin = enabled.plugin.name();
        let check = match enabled.plugin.pre_filter(pod, cluster) {
            PreFilter::Skip => return None,
            PreFilter::Reject(status) => {
                self.rejection.get_or_insert((plugin, status));
                return None;
            }
            PreFilter::Wide(mut check) => {
                if enabled.at(Point::Filter) {
                    check.observe_all(cluster);
                    let verdict = |answer: &Answer| self.number(plugin, answer.status());
                    let verdicts = check.answers().iter().map(verdict).collect();
                    self.rules.push(Rule { position, plugin, check, verdicts });
                }
                return None;
            }
            PreFilter::Among(names, check) => {
                let (known, by) = self.among.get_or_insert_with(|| (names.clone(), Vec::new()));
                known.retain(|name| names.contains(name));
                by.push(plugin);
                check
            }
            PreFilter::Check(check) => check,
        };
        enabled.at(Point::Filter).then_some(check)
    }

    /// Brings it up to date; false where it has to be made anew.
    fn catch_up(&mut self, cluster: &Snapshot) -> bool {
        let Since::Places(places) = cluster.since(self.mark) else { return false };
        if places.len() > cluster.nodes().len() + 64 || !self.selects_the_same(cluster) {
            return false;
        }
        self.rules.iter_mut().for_each(|rule| rule.check.follow(places, cluster));
        self.preferences.iter_mut().for_each(|(_, check)| check.follow(places, cluster));
        self.mark = cluster.mark();
        true
    }

    fn selects_the_same(&mut self, cluster: &Snapshot) -> bool {
        let version = cluster.workloads.version(&self.shape.namespace);
        if self.workloads != version {
            self.workloads = version;
            return self.selector == cluster.workloads.selector_of(&self.shape);
        }
        true
    }

    /// What the rules before a position have against a node.
    fn verdict(&self, at: usize, node: &NodeInfo, before: usize) -> Option<Verdict> {
        let mut rules = self.active.iter().map(|rule| &self.rules[*rule]).take_while(|rule| rule.position < before);
        rules.find_map(|rule| Some(rule.verdicts[rule.check.filter(at, node)?]))
    }

    fn number(&mut self, plugin: &'static str, status: Status) -> Verdict {
        let known = self.statuses.iter().position(|(by, known)| *by == plugin && *known == status);
        let number = known.unwrap_or_else(|| {
            self.statuses.push((plugin, status));
            self.statuses.len() - 1
        });
        number as Verdict | FAR
    }
}

/// The classes of one profile, by where their shapes lie, which they hold on to.
#[derive(Default)]
pub struct Classes {
    far: HashMap<usize, Box<Far>>,
    standings: HashMap<usize, Box<Standing>>,
    /// In the order in which they were last used.
    far_by_use: BTreeMap<u64, usize>,
    standings_by_use: BTreeMap<u64, usize>,
    cells: usize,
    clock: u64,
}

impl Classes {
    /// Takes the class of the pod's shape out, up to date; the shape is the reduced one. A pod that names its node has a
    /// class of its own.
    pub fn take(&mut self, (pod, shape): (&PodInfo, Arc<Shape>), plugins: &[Enabled], cluster: &Snapshot) -> Class {
        if !pod.node_name.is_empty() {
            return Class::new(pod, plugins, cluster);
        }
        let standing = self.take_standing(Arc::as_ptr(&pod.bare).addr());
        let far = self.take_far(Arc::as_ptr(&shape).addr());
        let standing = standing.and_then(|mut standing| standing.catch_up(cluster).then_some(standing));
        let far = far.and_then(|mut far| far.catch_up(cluster).then_some(far));
        match (far, standing) {
            (Some(far), Some(standing)) => Class { far, standing },
            (_, standing) => Class::of((pod, shape), plugins, cluster, standing),
        }
    }

    pub fn keep(&mut self, pod: &PodInfo, class: Class) {
        if !pod.node_name.is_empty() {
            return;
        }
        let Class { mut far, mut standing } = class;
        self.take_far(Arc::as_ptr(&far.shape).addr());
        self.take_standing(Arc::as_ptr(&standing.bare).addr());
        self.make_room(standing.len());
        self.clock += 1;
        (far.last_used, standing.last_used) = (self.clock, self.clock);
        self.cells += standing.len();
        let (shape, bare) = (Arc::as_ptr(&far.shape).addr(), Arc::as_ptr(&standing.bare).addr());
        self.far_by_use.insert(self.clock, shape);
        self.far.insert(shape, far);
        self.standings_by_use.insert(self.clock, bare);
        self.standings.insert(bare, standing);
    }

    fn make_room(&mut self, cells: usize) {
        while self.standings.len() >= CLASSES_MAX || self.cells + cells > CELLS_MAX {
            let Some((_, oldest)) = self.standings_by_use.first_key_value() else { break };
            self.take_standing(*oldest);
        }
        while self.far.len() >= CLASSES_MAX {
            let Some((_, oldest)) = self.far_by_use.first_key_value() else { break };
            self.take_far(*oldest);
        }
    }

    fn take_far(&mut self, shape: usize) -> Option<Box<Far>> {
        let far = self.far.remove(&shape)?;
        self.far_by_use.remove(&far.last_used);
        Some(far)
    }

    fn take_standing(&mut self, bare: usize) -> Option<Box<Standing>> {
        let standing = self.standings.remove(&bare)?;
        self.standings_by_use.remove(&standing.last_used);
        self.cells -= standing.len();
        Some(standing)
    }
}
