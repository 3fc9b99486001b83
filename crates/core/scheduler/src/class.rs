//! What is worked out about pods of one shape, kept between them: the checks of every plugin, and for each node the
//! verdict and the scores. The cluster's log tells which nodes have to be judged again; a decision about the next pod
//! of the shape then costs little more than reading a row of numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::framework::{Answer, Filter, Point, PreFilter, Score, Status, Wide};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::profile::Enabled;
use crate::snapshot::{Mark, Since, Snapshot};

/// Shapes worked on at once, and what they may remember of nodes in all; more push out those that were asked for
/// longest ago.
const CLASSES_MAX: usize = 1024;
const CELLS_MAX: usize = 1 << 21;

/// A status by its number in the class.
pub type Verdict = u32;

/// What is known of a node as far as it depends on the node alone, in one number: from 0 on the sum of the scores that
/// are final by themselves, for a node that fits; below that the verdict against it.
type Cell = i64;
const UNKNOWN: Cell = -1;

fn against(verdict: Verdict) -> Cell {
    -2 - i64::from(verdict)
}

fn verdict_of(cell: Cell) -> Option<Verdict> {
    (cell < UNKNOWN).then(|| (-2 - cell) as Verdict)
}

struct Local {
    /// Where it stands among all rules: of several rejections the first counts.
    position: usize,
    plugin: &'static str,
    check: Box<dyn Filter>,
    /// What it last said, which is likely what it says next.
    last: Option<Verdict>,
}

struct Wider {
    position: usize,
    plugin: &'static str,
    check: Box<dyn Wide>,
    /// Its answers, as they are numbered in the class.
    verdicts: Vec<Verdict>,
}

struct Preference {
    weight: i64,
    check: Box<dyn Score>,
    kind: Kind,
}

/// How the scores of a preference come about.
enum Kind {
    /// Counted in the cells.
    Fixed,
    /// Raw scores, kept; empty while all of them are 0.
    Row(Vec<i64>),
    /// Worked out anew in each round.
    Wide,
}

pub struct Class {
    shape: Arc<Shape>,
    mark: Mark,
    /// No node will do.
    pub rejection: Option<(&'static str, Status)>,
    /// Only these nodes come into question, as these plugins say.
    pub among: Option<(BTreeSet<String>, Vec<&'static str>)>,
    local: Vec<Local>,
    wide: Vec<Wider>,
    /// The wide rules that have something to say in this round.
    active: Vec<usize>,
    preferences: Vec<Preference>,
    cells: Vec<Cell>,
    statuses: Vec<(&'static str, Status)>,
    /// By status: the position of the rule that gave it.
    positions: Vec<usize>,
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
    /// Nodes are judged when they are asked about. It is kept good by its own log mark only through `Classes`.
    pub fn new(pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot) -> Class {
        let mut class = Class {
            shape: pod.shape.clone(),
            mark: cluster.mark(),
            rejection: None,
            among: None,
            local: Vec::new(),
            wide: Vec::new(),
            active: Vec::new(),
            preferences: Vec::new(),
            cells: vec![UNKNOWN; cluster.nodes().len()],
            statuses: Vec::new(),
            positions: Vec::new(),
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
        class.wide.iter_mut().for_each(|rule| rule.check.observe_all(cluster));
        class
    }

    fn add_rule(&mut self, enabled: &Enabled, pod: &PodInfo, cluster: &Snapshot) {
        let plugin = enabled.plugin.name();
        let position = self.local.len() + self.wide.len();
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
            PreFilter::Wide(check) => {
                if enabled.at(Point::Filter) {
                    let number = |answer: &Answer| self.number_at(position, plugin, answer.status());
                    let verdicts = check.answers().iter().map(number).collect();
                    self.wide.push(Wider { position, plugin, check, verdicts });
                }
                return;
            }
        };
        if enabled.at(Point::Filter) {
            self.local.push(Local { position, plugin, check, last: None });
        }
    }

    fn add_preference(&mut self, enabled: &Enabled, pod: &PodInfo, cluster: &Snapshot) {
        let Some(mut check) = enabled.plugin.pre_score(pod, cluster) else { return };
        let kind = match (check.is_local(), check.is_final()) {
            (true, true) => Kind::Fixed,
            (true, false) => Kind::Row(Vec::new()),
            (false, _) => {
                check.observe_all(cluster);
                Kind::Wide
            }
        };
        self.preferences.push(Preference { weight: enabled.weight, check, kind });
    }

    /// Brings the class up to date; false where it has to be made anew.
    fn catch_up(&mut self, cluster: &Snapshot) -> bool {
        let Since::Places(places) = cluster.since(self.mark) else { return false };
        if places.len() > self.cells.len() + 64 {
            return false;
        }
        for at in places.iter().map(|at| *at as usize) {
            self.cells[at] = UNKNOWN;
            let node = &cluster.nodes()[at];
            self.pretend(at, node, cluster);
            for preference in &mut self.preferences {
                if matches!(preference.kind, Kind::Wide) {
                    preference.check.observe(at, node, cluster);
                }
            }
        }
        self.mark = cluster.mark();
        true
    }

    /// Makes the rules see a node as it might be. Whoever calls it calls it again with the node as it is.
    pub fn pretend(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.wide.iter_mut().for_each(|rule| rule.check.observe(at, node, cluster));
    }

    /// Why the node, as it was last observed, cannot take the pod.
    pub fn judge(&self, at: usize, node: &NodeInfo) -> Option<(&'static str, Status)> {
        let local = self.local.iter().find_map(|rule| Some((rule, rule.check.filter(at, node)?)));
        let before = local.as_ref().map_or(usize::MAX, |(rule, _)| rule.position);
        let wide = self.wide.iter().take_while(|rule| rule.position < before);
        let wide = wide.into_iter().find_map(|rule| Some((rule, rule.check.filter(at, node)?)));
        match wide {
            Some((rule, answer)) => Some((rule.plugin, rule.check.answers()[answer].status())),
            None => local.map(|(rule, status)| (rule.plugin, status)),
        }
    }

    /// Begins a round of verdicts, in which nothing is observed.
    pub fn begin(&mut self) {
        self.active.clear();
        self.active.extend((0..self.wide.len()).filter(|rule| !self.wide[*rule].check.is_idle()));
    }

    /// Why the node at a place cannot take the pod, remembered.
    pub fn verdict(&mut self, at: usize, cluster: &Snapshot) -> Option<Verdict> {
        let node = &cluster.nodes()[at];
        let mut cell = self.cells[at];
        if cell == UNKNOWN {
            cell = self.judge_local(at, node);
            self.cells[at] = cell;
        }
        let local = verdict_of(cell);
        let before = local.map_or(usize::MAX, |verdict| self.positions[verdict as usize]);
        for rule in self.active.iter().map(|rule| &self.wide[*rule]).take_while(|rule| rule.position < before) {
            if let Some(answer) = rule.check.filter(at, node) {
                return Some(rule.verdicts[answer]);
            }
        }
        local
    }

    fn judge_local(&mut self, at: usize, node: &NodeInfo) -> Cell {
        let found = self.local.iter().enumerate().find_map(|(rule, local)| Some((rule, local.check.filter(at, node)?)));
        if let Some((rule, status)) = found {
            let same = |verdict: &Verdict| self.statuses[*verdict as usize].1 == status;
            let verdict = match self.local[rule].last.filter(same) {
                Some(verdict) => verdict,
                None => self.number_at(self.local[rule].position, self.local[rule].plugin, status),
            };
            self.local[rule].last = Some(verdict);
            return against(verdict);
        }
        let (nodes, mut fixed) = (self.cells.len(), 0);
        for preference in &mut self.preferences {
            match &mut preference.kind {
                Kind::Fixed => fixed += preference.weight * preference.check.score(at, node),
                Kind::Row(row) => {
                    let score = preference.check.score(at, node);
                    if row.is_empty() && score != 0 {
                        *row = vec![0; nodes];
                    }
                    if let Some(kept) = row.get_mut(at) {
                        *kept = score;
                    }
                }
                Kind::Wide => (),
            }
        }
        fixed.max(0)
    }

    /// A number for what a rule of the plugin said.
    pub fn number(&mut self, plugin: &'static str, status: Status) -> Verdict {
        let local = self.local.iter().map(|rule| (rule.position, rule.plugin));
        let mut rules = local.chain(self.wide.iter().map(|rule| (rule.position, rule.plugin)));
        let position = rules.find(|(_, name)| *name == plugin).map_or(0, |(position, _)| position);
        self.number_at(position, plugin, status)
    }

    fn number_at(&mut self, position: usize, plugin: &'static str, status: Status) -> Verdict {
        let key = (plugin, status);
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.statuses.len() as u32;
        self.statuses.push(key.clone());
        self.positions.push(position);
        self.numbers.insert(key, number);
        number
    }

    pub fn status(&self, verdict: Verdict) -> &(&'static str, Status) {
        &self.statuses[verdict as usize]
    }

    /// The weighted sum of all scores of each feasible node.
    pub fn totals(&mut self, feasible: &[u32], nodes: &[NodeInfo]) -> Vec<i64> {
        let mut totals: Vec<i64> = feasible.iter().map(|at| self.cells[*at as usize].max(0)).collect();
        let mut scores = Vec::new();
        for Preference { weight, check, kind } in &mut self.preferences {
            scores.clear();
            match kind {
                Kind::Fixed => continue,
                Kind::Row(row) if row.is_empty() => {
                    scores.push(0);
                    check.normalise(&mut scores);
                    let same = scores[0] * *weight;
                    totals.iter_mut().for_each(|total| *total += same);
                    continue;
                }
                Kind::Row(row) => scores.extend(feasible.iter().map(|at| row[*at as usize])),
                Kind::Wide if check.is_idle() => continue,
                Kind::Wide => {
                    check.begin(feasible);
                    scores.extend(feasible.iter().map(|at| check.score(*at as usize, &nodes[*at as usize])));
                }
            }
            check.normalise(&mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * *weight;
            }
        }
        totals
    }
}

/// The classes of one profile.
#[derive(Default)]
pub struct Classes {
    /// By where the shape lies, which each class holds on to.
    classes: HashMap<usize, Box<Class>>,
    /// The shapes in the order in which they were last used.
    by_use: BTreeMap<u64, usize>,
    cells: usize,
    clock: u64,
}

impl Classes {
    /// Takes the class of the pod's shape out, up to date. A pod that names its node has one of its own.
    pub fn take(&mut self, pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot) -> Box<Class> {
        let named = !pod.node_name.is_empty();
        let kept = if named { None } else { self.remove(Arc::as_ptr(&pod.shape).addr()) };
        let followed = kept.and_then(|mut class| class.catch_up(cluster).then_some(class));
        followed.unwrap_or_else(|| Box::new(Class::new(pod, plugins, cluster)))
    }

    pub fn keep(&mut self, pod: &PodInfo, mut class: Box<Class>) {
        if !pod.node_name.is_empty() {
            return;
        }
        while self.classes.len() >= CLASSES_MAX || self.cells + class.cells.len() > CELLS_MAX {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            self.remove(*oldest);
        }
        self.clock += 1;
        class.last_used = self.clock;
        self.cells += class.cells.len();
        let shape = Arc::as_ptr(&class.shape).addr();
        self.by_use.insert(self.clock, shape);
        self.classes.insert(shape, class);
    }

    fn remove(&mut self, shape: usize) -> Option<Box<Class>> {
        let class = self.classes.remove(&shape)?;
        self.by_use.remove(&class.last_used);
        self.cells -= class.cells.len();
        Some(class)
    }
}
