//! How each node by itself stands to pods that ask the same of it: the verdict of the rules and the scores that depend
//! on the node alone. Pods of different labels and of different wishes about company share it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::framework::{Filter, Score, Status};
use crate::node::NodeInfo;
use crate::pod::Bare;
use crate::snapshot::{Mark, Since, Snapshot};

/// What is known of a node, in one number: from 0 on the sum of the scores that are final by themselves, for a node that
/// fits; below that the verdict against it.
type Cell = i32;
const UNKNOWN: Cell = -1;

/// With other weights, or more scores, sums might not fit a cell; such scores are kept apart.
const CELL_WEIGHT_MAX: i64 = 10_000;
const CELL_SCORES_MAX: usize = 1000;

/// A status by its number in the table of those that were given.
pub type Verdict = u32;

struct Rule {
    /// Where the plugin stands among all: of several rejections the first counts.
    position: usize,
    plugin: &'static str,
    check: Box<dyn Filter>,
    /// What it last said, which is likely what it says next.
    last: Option<Verdict>,
}

struct Preference {
    weight: i64,
    check: Box<dyn Score>,
    kind: Kind,
}

enum Kind {
    /// Counted in the cells.
    Fixed,
    /// Raw scores, kept; empty while all of them are 0.
    Row(Vec<i64>),
}

pub struct Standing {
    pub bare: Arc<Bare>,
    mark: Mark,
    rules: Vec<Rule>,
    preferences: Vec<Preference>,
    cells: Vec<Cell>,
    statuses: Vec<(&'static str, Status)>,
    /// By status: the position of the rule that gave it.
    positions: Vec<usize>,
    numbers: HashMap<(&'static str, Status), Verdict>,
    pub last_used: u64,
}

impl Standing {
    /// Nodes are judged when they are asked about.
    pub fn new(bare: Arc<Bare>, cluster: &Snapshot) -> Standing {
        Standing {
            bare,
            mark: cluster.mark(),
            rules: Vec::new(),
            preferences: Vec::new(),
            cells: vec![UNKNOWN; cluster.nodes().len()],
            statuses: Vec::new(),
            positions: Vec::new(),
            numbers: HashMap::new(),
            last_used: 0,
        }
    }

    pub fn add_rule(&mut self, position: usize, plugin: &'static str, check: Box<dyn Filter>) {
        self.rules.push(Rule { position, plugin, check, last: None });
    }

    pub fn add_preference(&mut self, weight: i64, check: Box<dyn Score>) {
        let fixed =
            check.is_final() && (0..=CELL_WEIGHT_MAX).contains(&weight) && self.preferences.len() < CELL_SCORES_MAX;
        let kind = if fixed { Kind::Fixed } else { Kind::Row(Vec::new()) };
        self.preferences.push(Preference { weight, check, kind });
    }

    /// How many nodes are remembered.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Forgets what changed; false where all of it has to be made anew.
    pub fn catch_up(&mut self, cluster: &Snapshot) -> bool {
        let Since::Places(places) = cluster.since(self.mark) else { return false };
        places.iter().for_each(|at| self.cells[*at as usize] = UNKNOWN);
        self.mark = cluster.mark();
        true
    }

    /// Why a node, as it is or might be, cannot take the pod, and the position of the rule that says so.
    pub fn judge(&self, at: usize, node: &NodeInfo) -> Option<(usize, &'static str, Status)> {
        self.rules.iter().find_map(|rule| Some((rule.position, rule.plugin, rule.check.filter(at, node)?)))
    }

    /// Why the node at a place cannot take the pod, remembered, and the position of the rule that says so.
    #[inline]
    pub fn verdict(&mut self, at: usize, cluster: &Snapshot) -> Option<(usize, Verdict)> {
        let mut cell = self.cells[at];
        if cell == UNKNOWN {
            cell = self.look(at, &cluster.nodes()[at]);
            self.cells[at] = cell;
        }
        (cell < 0).then(|| {
            let verdict = (-2 - cell) as Verdict;
            (self.positions[verdict as usize], verdict)
        })
    }

    pub fn status(&self, verdict: Verdict) -> &(&'static str, Status) {
        &self.statuses[verdict as usize]
    }

    fn look(&mut self, at: usize, node: &NodeInfo) -> Cell {
        let found = self.rules.iter().enumerate().find_map(|(index, rule)| Some((index, rule.check.filter(at, node)?)));
        if let Some((index, status)) = found {
            return -2 - self.number(index, status) as Cell;
        }
        let (nodes, mut fixed) = (self.cells.len(), 0);
        for preference in &mut self.preferences {
            let score = preference.check.score(at, node);
            match &mut preference.kind {
                Kind::Fixed => fixed += preference.weight * score,
                Kind::Row(row) => {
                    if row.is_empty() && score != 0 {
                        *row = vec![0; nodes];
                    }
                    if let Some(kept) = row.get_mut(at) {
                        *kept = score;
                    }
                }
            }
        }
        fixed.clamp(0, Cell::MAX.into()) as Cell
    }

    fn number(&mut self, rule: usize, status: Status) -> Verdict {
        let Rule { position, plugin, last, .. } = &mut self.rules[rule];
        if let Some(last) = last
            && self.statuses[*last as usize].1 == status
        {
            return *last;
        }
        let (statuses, positions) = (&mut self.statuses, &mut self.positions);
        let number = *self.numbers.entry((*plugin, status)).or_insert_with_key(|key| {
            statuses.push(key.clone());
            positions.push(*position);
            statuses.len() as Verdict - 1
        });
        *last = Some(number);
        number
    }

    /// The weighted sums of the scores of feasible nodes.
    pub fn totals(&self, feasible: &[u32]) -> Vec<i64> {
        let mut totals: Vec<i64> = feasible.iter().map(|at| self.cells[*at as usize].max(0).into()).collect();
        for Preference { weight, check, kind } in &self.preferences {
            match kind {
                Kind::Fixed => (),
                Kind::Row(row) if row.is_empty() => {
                    let mut same = [0];
                    check.normalise(&mut same);
                    totals.iter_mut().for_each(|total| *total += same[0] * weight);
                }
                Kind::Row(row) => {
                    let mut scores: Vec<i64> = feasible.iter().map(|at| row[*at as usize]).collect();
                    check.normalise(&mut scores);
                    totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * weight);
                }
            }
        }
        totals
    }
}
