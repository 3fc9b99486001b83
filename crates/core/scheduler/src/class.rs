//! What is worked out about pods of one shape, kept between them: the checks of every plugin, and for each node the
//! verdict and the scores. The cluster's log tells which nodes have to be judged again; a decision about the next pod
//! of the shape then costs little more than reading a row of numbers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::framework::{Filter, Point, PreFilter, Score, Status};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::profile::Enabled;
use crate::snapshot::{Mark, Since, Snapshot};

/// Shapes worked on at once; more push out the one that was asked for longest ago.
const CLASSES_MAX: usize = 64;
const UNKNOWN: u32 = u32::MAX;
const FITS: u32 = u32::MAX - 1;

/// A status by its number in the class.
pub type Verdict = u32;

struct Rule {
    plugin: &'static str,
    check: Box<dyn Filter>,
    local: bool,
}

struct Preference {
    weight: i64,
    check: Box<dyn Score>,
    /// Row of kept raw scores; `None` for those worked out anew in each round or counted in `fixed`.
    row: Option<usize>,
    fixed: bool,
}

pub struct Class {
    mark: Mark,
    /// No node will do.
    pub rejection: Option<(&'static str, Status)>,
    /// Only these nodes come into question, as these plugins say.
    pub among: Option<(BTreeSet<String>, Vec<&'static str>)>,
    rules: Vec<Rule>,
    preferences: Vec<Preference>,
    verdicts: Vec<u32>,
    /// Sum of the scores that are final by themselves.
    fixed: Vec<i64>,
    rows: Vec<Vec<i64>>,
    statuses: Vec<(&'static str, Status)>,
    numbers: HashMap<(&'static str, Status), Verdict>,
    last_used: u64,
    /// The last time no node would do, and all that this was found by.
    pub refusal: Option<Refusal>,
}

/// A refusal that stays good while nothing changes.
pub struct Refusal {
    pub mark: Mark,
    pub nominations: u64,
    pub message: String,
    pub by: BTreeSet<&'static str>,
}

impl Class {
    /// Looks at every node. It is kept good by its own log mark only through `Classes`.
    pub fn new(pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot) -> Class {
        let mut class = Class {
            mark: cluster.mark(),
            rejection: None,
            among: None,
            rules: Vec::new(),
            preferences: Vec::new(),
            verdicts: vec![UNKNOWN; cluster.nodes().len()],
            fixed: vec![0; cluster.nodes().len()],
            rows: Vec::new(),
            statuses: Vec::new(),
            numbers: HashMap::new(),
            last_used: 0,
            refusal: None,
        };
        for enabled in plugins.iter().filter(|enabled| enabled.at(Point::PreFilter)) {
            class.add_rule(enabled, pod, cluster);
        }
        for enabled in plugins.iter().filter(|enabled| enabled.at(Point::Score)) {
            class.add_preference(enabled, pod, cluster);
        }
        for at in 0..cluster.nodes().len() {
            class.observe(at, &cluster.nodes()[at], cluster);
        }
        class
    }

    fn add_rule(&mut self, enabled: &Enabled, pod: &PodInfo, cluster: &Snapshot) {
        let plugin = enabled.plugin.name();
        let check = match enabled.plugin.pre_filter(pod, cluster) {
            PreFilter::Skip => return,
            PreFilter::Reject(status) => {
                self.rejection.get_or_insert((plugin, status));
                return;
            }
            PreFilter::Among(names, check) => {
                let (known, by) = self.among.get_or_insert_with(|| (names.clone(), Vec::new()));
                known.retain(|name| names.contains(name));
                by.push(plugin);
                check
            }
            PreFilter::Check(check) => check,
        };
        if enabled.at(Point::Filter) {
            let local = check.is_local();
            self.rules.push(Rule { plugin, check, local });
        }
    }

    fn add_preference(&mut self, enabled: &Enabled, pod: &PodInfo, cluster: &Snapshot) {
        let Some(check) = enabled.plugin.pre_score(pod, cluster) else { return };
        let fixed = check.is_local() && check.is_final();
        let row = (check.is_local() && !fixed).then(|| {
            self.rows.push(vec![0; cluster.nodes().len()]);
            self.rows.len() - 1
        });
        self.preferences.push(Preference { weight: enabled.weight, check, row, fixed });
    }

    /// Brings the class up to date; false where it has to be made anew.
    fn catch_up(&mut self, cluster: &Snapshot) -> bool {
        let Since::Places(places) = cluster.since(self.mark) else { return false };
        for at in places {
            let at = *at as usize;
            self.verdicts[at] = UNKNOWN;
            self.observe(at, &cluster.nodes()[at], cluster);
        }
        self.mark = cluster.mark();
        true
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.pretend(at, node, cluster);
        for preference in self.preferences.iter_mut().filter(|preference| !preference.check.is_local()) {
            preference.check.observe(at, node, cluster);
        }
    }

    /// Makes the rules see a node as it might be. Whoever calls it calls it again with the node as it is.
    pub fn pretend(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        for rule in self.rules.iter_mut().filter(|rule| !rule.local) {
            rule.check.observe(at, node, cluster);
        }
    }

    /// Why the node, as it was last observed, cannot take the pod.
    pub fn judge(&self, at: usize, node: &NodeInfo) -> Option<(&'static str, Status)> {
        self.rules.iter().find_map(|rule| Some((rule.plugin, rule.check.filter(at, node)?)))
    }

    /// Why the node at a place cannot take the pod, remembered.
    pub fn verdict(&mut self, at: usize, node: &NodeInfo) -> Option<Verdict> {
        if self.verdicts[at] == UNKNOWN {
            self.judge_local(at, node);
        }
        let local = self.verdicts[at];
        let before = match local {
            FITS => self.rules.len(),
            number => {
                let plugin = self.statuses[number as usize].0;
                self.rules.iter().position(|rule| rule.plugin == plugin).unwrap_or(0)
            }
        };
        let wider = self.rules[..before].iter().filter(|rule| !rule.local && !rule.check.is_idle());
        let found = wider.into_iter().find_map(|rule| Some((rule.plugin, rule.check.filter(at, node)?)));
        match found {
            Some((plugin, status)) => Some(self.number(plugin, status)),
            None => (local != FITS).then_some(local),
        }
    }

    fn judge_local(&mut self, at: usize, node: &NodeInfo) {
        let mut local = self.rules.iter().filter(|rule| rule.local);
        let found = local.find_map(|rule| Some((rule.plugin, rule.check.filter(at, node)?)));
        self.verdicts[at] = match found {
            Some((plugin, status)) => self.number(plugin, status),
            None => FITS,
        };
        if self.verdicts[at] != FITS {
            return;
        }
        let mut fixed = 0;
        for preference in &self.preferences {
            if preference.fixed {
                fixed += preference.weight * preference.check.score(at, node);
            } else if let Some(row) = preference.row {
                self.rows[row][at] = preference.check.score(at, node);
            }
        }
        self.fixed[at] = fixed;
    }

    pub fn number(&mut self, plugin: &'static str, status: Status) -> Verdict {
        let key = (plugin, status);
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.statuses.len() as u32;
        self.statuses.push(key.clone());
        self.numbers.insert(key, number);
        number
    }

    pub fn status(&self, verdict: Verdict) -> &(&'static str, Status) {
        &self.statuses[verdict as usize]
    }

    /// The weighted sum of all scores of each feasible node.
    pub fn totals(&mut self, feasible: &[u32], nodes: &[NodeInfo]) -> Vec<i64> {
        let mut totals: Vec<i64> = feasible.iter().map(|at| self.fixed[*at as usize]).collect();
        let mut scores = Vec::new();
        for preference in &mut self.preferences {
            if preference.fixed || preference.check.is_idle() {
                continue;
            }
            preference.check.begin(feasible);
            scores.clear();
            match preference.row {
                Some(row) => scores.extend(feasible.iter().map(|at| self.rows[row][*at as usize])),
                None => {
                    scores.extend(feasible.iter().map(|at| preference.check.score(*at as usize, &nodes[*at as usize])))
                }
            }
            preference.check.normalise(&mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * preference.weight;
            }
        }
        totals
    }
}

/// The classes of one profile.
#[derive(Default)]
pub struct Classes {
    classes: HashMap<Arc<Shape>, Class>,
    clock: u64,
}

impl Classes {
    /// Takes the class of the pod's shape out, up to date. A pod that names its node has one of its own.
    pub fn take(&mut self, pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot) -> Class {
        if !pod.node_name.is_empty() {
            return Class::new(pod, plugins, cluster);
        }
        match self.classes.remove(&pod.shape) {
            Some(mut class) => match class.catch_up(cluster) {
                true => class,
                false => Class::new(pod, plugins, cluster),
            },
            None => Class::new(pod, plugins, cluster),
        }
    }

    pub fn keep(&mut self, pod: &PodInfo, mut class: Class) {
        if !pod.node_name.is_empty() {
            return;
        }
        self.clock += 1;
        class.last_used = self.clock;
        if self.classes.len() >= CLASSES_MAX
            && let Some(oldest) = self.classes.iter().min_by_key(|(_, class)| class.last_used)
        {
            let oldest = oldest.0.clone();
            self.classes.remove(&oldest);
        }
        self.classes.insert(pod.shape.clone(), class);
    }
}
