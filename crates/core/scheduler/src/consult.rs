//! Consulting extenders about a pod. The pod stays in the queue as one that is asked about; when the last answer is
//! there, the decision goes on with the cluster as it is by then. One pod is asked about at a time, in the order of the
//! queue; pods of no extender's concern are decided meanwhile. How it goes on for one of a group stands in `group_trial`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::class::Class;
use crate::cycle::{Found, judge, pick};
use crate::decide::{Refused, Tried};
use crate::extender::{Answer, EXTENDER, Extender, Filtered, Question, Victims};
use crate::framework::{Nomination, SCORE_MAX, Status};
use crate::group_trial::Trial;
use crate::node::NodeFacts;
use crate::pod::{PodInfo, PodKey};
use crate::preemption::{Candidate, best};
use crate::scheduler::{Effect, Scheduler};
use crate::snapshot::Snapshot;

/// The best score an extender gives.
const EXTENDER_SCORE_MAX: i64 = 10;
pub(crate) const NO_CANDIDATE: &str = "no candidate node for preemption";

/// How far a conversation about a pod had come, and the first change since it began.
type Ended = (Stage, Option<&'static str>);

/// What extenders are being asked about.
pub(crate) enum Conversation {
    Pod {
        tried: Tried,
        talk: Talk,
        /// The first change since it began, by its name.
        missed: Option<&'static str>,
    },
    Group(Box<Trial>),
}

/// What is being found out about a pod.
pub(crate) struct Talk {
    /// The extender that is asked, or from where to look for the next.
    at: usize,
    pub stage: Stage,
}

pub(crate) enum Stage {
    /// Which nodes are left.
    Nodes(Nodes),
    /// Where room may be made.
    Room { refused: Refused, candidates: Vec<Candidate> },
}

/// What an answer comes to.
pub(crate) enum Heard {
    /// There may be more to ask.
    More,
    /// The last that was to be found out: what hosts' scores add up to.
    Scores(Scores),
    /// An extender that cannot be done without failed.
    Failed(String),
}

pub(crate) type Scores = HashMap<String, i64>;

/// What comes of a pod whose nodes were asked about.
pub(crate) enum Chosen {
    Node(String),
    /// Other nodes are to be asked about.
    Other(Nodes),
    Nowhere(Found),
}

#[derive(Default)]
pub(crate) struct Nodes {
    /// Those that everybody asked so far lets pass.
    left: Vec<String>,
    /// Those that plugins rejected when it began.
    rejected: Vec<Arc<NodeFacts>>,
    /// Those that extenders rejected.
    pub refused: BTreeMap<String, Status>,
    /// Whether nothing was looked at but the node that the pod is nominated to.
    nominated: bool,
}

impl Conversation {
    /// Something changed that the decision may not have seen.
    pub fn miss(&mut self, event: &'static str) {
        if let Conversation::Pod { missed, .. } = self {
            missed.get_or_insert(event);
        }
    }

    /// The pod that the last question was about.
    fn subject(&self) -> Option<&PodInfo> {
        match self {
            Conversation::Pod { tried, .. } => Some(&tried.0),
            Conversation::Group(trial) => trial.open().map(|(pod, _)| &**pod),
        }
    }
}

impl Talk {
    pub fn new(stage: Stage) -> Talk {
        Talk { at: 0, stage }
    }
}

impl Refused {
    /// Preemption does not help either.
    pub fn without_room(self, why: &str) -> Refused {
        Refused { message: format!("{} preemption: {why}", self.message), ..self }
    }
}

impl Nodes {
    fn new(found: &Found, cluster: &Snapshot) -> Nodes {
        let facts = |at: u32| cluster.nodes()[at as usize].facts.clone();
        Nodes {
            left: found.feasible.iter().map(|at| facts(*at).name.clone()).collect(),
            rejected: found.rejected.iter().map(|(at, _)| facts(*at)).collect(),
            ..Nodes::default()
        }
    }

    fn narrow(&mut self, Filtered { kept, failed, unresolvable }: Filtered) {
        let kept: BTreeSet<String> = kept.into_iter().collect();
        self.left.retain(|name| kept.contains(name));
        self.refused.extend(failed.into_iter().map(|(name, why)| (name, Status::new(why))));
        self.refused.extend(unresolvable.into_iter().map(|(name, why)| (name, Status::lasting(why))));
    }
}

fn filters(extender: &Extender) -> &str {
    &extender.filter_verb
}

fn prioritizes(extender: &Extender) -> &str {
    &extender.prioritize_verb
}

fn preempts(extender: &Extender) -> &str {
    &extender.preempt_verb
}

fn binds(extender: &Extender) -> &str {
    &extender.bind_verb
}

impl Scheduler {
    /// Asks about the nodes that plugins let pass, if an extender wants to be asked.
    pub(crate) fn consult(&mut self, tried: &Tried, found: &Found, now: Timestamp) -> bool {
        let Some(nodes) = self.in_question(&tried.0, found) else { return false };
        self.begin(tried.clone(), Stage::Nodes(nodes), now);
        true
    }

    /// The nodes that an extender wants to be asked about.
    pub(crate) fn in_question(&self, pod: &PodInfo, found: &Found) -> Option<Nodes> {
        let wants = |verb| self.extenders.next(0, pod, verb).is_some();
        if !wants(filters) && (found.feasible.len() < 2 || !wants(prioritizes)) {
            return None;
        }
        let nominee = self.cluster.nominations.node_of(&pod.key).unwrap_or(pod.nominated());
        let nodes = Nodes::new(found, &self.cluster);
        let nominated = nodes.rejected.is_empty() && nodes.left == [nominee];
        Some(Nodes { nominated, ..nodes })
    }

    /// Whether a pod has to wait until others were asked about.
    pub(crate) fn waits_for_answers(&self, pod: &PodInfo) -> bool {
        let Some(conversation) = &self.conversation else { return false };
        let concerns = |key: &PodKey| self.queue.get(key).is_some_and(|pod| self.extenders.talk_about(pod));
        let is_group_of_concern = |group: PodKey| match conversation {
            Conversation::Group(trial) if trial.group == group => true,
            _ => self.cluster.groups.waiting(&group).iter().any(concerns),
        };
        self.extenders.talk_about(pod) || self.group_of(pod).is_some_and(is_group_of_concern)
    }

    /// Whether an extender has a say in who makes room for the pod.
    pub(crate) fn consults_on_room(&self, pod: &PodInfo) -> bool {
        self.extenders.next(0, pod, preempts).is_some()
    }

    pub(crate) fn consult_on_room(&mut self, tried: Tried, refused: Refused, room: Vec<Candidate>, now: Timestamp) {
        self.begin(tried, Stage::Room { refused, candidates: room }, now);
    }

    /// How the pod is bound: by the API, or by the extender that wants to.
    pub(crate) fn binding(&self, pod: Arc<PodInfo>, node: String) -> Effect {
        match self.extenders.next(0, &pod, binds) {
            Some(extender) => Effect::BindBy { pod, node, extender },
            None => Effect::Bind { pod, node },
        }
    }

    fn begin(&mut self, tried: Tried, stage: Stage, now: Timestamp) {
        let (pod, profile, tries) = &tried;
        let rank = self.profiles[*profile].rank(pod);
        self.queue.ask((pod.clone(), rank), *tries);
        self.go_on(tried, Talk::new(stage), None, now);
    }

    /// Puts the next question, or decides where nobody is left to ask.
    fn go_on(&mut self, tried: Tried, mut talk: Talk, missed: Option<&'static str>, now: Timestamp) {
        let pod = tried.0.clone();
        let Some(question) = self.question(&pod, &mut talk) else {
            return self.settle(tried, (talk.stage, missed), &Scores::new(), now);
        };
        self.conversation = Some(Conversation::Pod { tried, talk, missed });
        self.effects.push_back(Effect::Ask { pod, question });
    }

    /// The next thing to ask about a pod.
    pub(crate) fn question(&self, pod: &PodInfo, talk: &mut Talk) -> Option<Question> {
        let next = |from, verb| self.extenders.next(from, pod, verb);
        let question = match &talk.stage {
            Stage::Nodes(nodes) => match next(talk.at, filters).filter(|_| !nodes.left.is_empty()) {
                Some(extender) => Some(Question::Filter { extender, nodes: nodes.left.clone() }),
                None => {
                    let every = std::iter::successors(next(0, prioritizes), |at| next(at + 1, prioritizes));
                    let extenders: Vec<usize> = every.collect();
                    let wanted = nodes.left.len() > 1 && !extenders.is_empty();
                    wanted.then(|| Question::Prioritize { extenders, nodes: nodes.left.clone() })
                }
            },
            Stage::Room { candidates, .. } => next(talk.at, preempts)
                .filter(|_| !candidates.is_empty())
                .map(|extender| Question::Preempt { extender, candidates: candidates.clone() }),
        };
        if let Some(Question::Filter { extender, .. } | Question::Preempt { extender, .. }) = &question {
            talk.at = *extender;
        }
        question
    }

    /// Takes an answer in.
    pub(crate) fn answered(&mut self, (key, uid): (&PodKey, &str), answer: Answer, now: Timestamp) {
        let about = |talk: &mut Conversation| talk.subject().is_some_and(|pod| pod.key == *key && *pod.uid == *uid);
        match self.conversation.take_if(about) {
            None => (),
            Some(Conversation::Group(trial)) => self.group_answered(*trial, answer, now),
            Some(Conversation::Pod { tried, mut talk, missed }) => match self.hear(&tried.0, &mut talk, answer) {
                Heard::More => self.go_on(tried, talk, missed, now),
                Heard::Scores(scores) => self.settle(tried, (talk.stage, missed), &scores, now),
                Heard::Failed(error) => self.give_up(tried, (talk.stage, missed), error, now),
            },
        }
    }

    /// Takes over what an answer says.
    pub(crate) fn hear(&self, pod: &PodInfo, talk: &mut Talk, answer: Answer) -> Heard {
        let ignorable = self.extenders.all().get(talk.at).is_some_and(|extender| extender.ignorable);
        match (&mut talk.stage, answer) {
            (Stage::Nodes(nodes), Answer::Filter(Ok(filtered))) => nodes.narrow(filtered),
            // Where the nominated node cannot be judged, all are looked at.
            (Stage::Nodes(nodes), Answer::Filter(Err(_))) if nodes.nominated && !ignorable => nodes.left.clear(),
            (Stage::Nodes(_), Answer::Filter(Err(error))) if !ignorable => return Heard::Failed(error),
            (Stage::Nodes(_), Answer::Prioritize(answers)) => return Heard::Scores(self.weigh(pod, answers)),
            (Stage::Room { candidates, .. }, Answer::Preempt(answer)) => {
                let narrowed = answer.and_then(|victims| self.room(&self.extenders.all()[talk.at], victims));
                match narrowed {
                    Ok(narrowed) => *candidates = narrowed,
                    Err(error) if !ignorable => return Heard::Failed(error),
                    Err(_) => (),
                }
            }
            _ => (),
        }
        talk.at += 1;
        Heard::More
    }

    /// What extenders' scores add up to, by host. One that does not answer gives none.
    fn weigh(&self, pod: &PodInfo, answers: Vec<Result<Vec<(String, i64)>, String>>) -> Scores {
        let asked =
            self.extenders.all().iter().filter(|asked| !asked.prioritize_verb.is_empty() && asked.cares_for(pod));
        let mut totals = Scores::new();
        for (extender, scores) in asked.zip(answers) {
            for (host, score) in scores.into_iter().flatten() {
                let scaled = score.saturating_mul(extender.weight).saturating_mul(SCORE_MAX / EXTENDER_SCORE_MAX);
                let total: &mut i64 = totals.entry(host).or_default();
                *total = total.saturating_add(scaled);
            }
        }
        totals
    }

    /// Where room may be made, as an extender has it.
    fn room(&self, extender: &Extender, answer: BTreeMap<String, Victims>) -> Result<Vec<Candidate>, String> {
        let mut candidates = Vec::new();
        for (name, victims) in answer {
            let node = self.cluster.node(&name).ok_or_else(|| format!("nodeinfo not found for node name {name:?}"))?;
            let known = |uid: &String| {
                node.pods.iter().find(|pod| *pod.uid == **uid).cloned().ok_or_else(|| {
                    let url = &extender.url_prefix;
                    format!(
                        "extender: {url} claims to preempt pod (UID: &{{{uid}}}) on node: {name}, \
                         but the pod is not found on that node"
                    )
                })
            };
            let pods = victims.uids.iter().map(known).collect::<Result<Vec<_>, _>>()?;
            if pods.is_empty() && extender.ignorable {
                continue;
            }
            if pods.is_empty() {
                return Err(format!("expected at least one victim pod on node {name:?}"));
            }
            let broken_budgets = usize::try_from(victims.broken_budgets).unwrap_or(0);
            candidates.push(Candidate { node: name, victims: pods, broken_budgets });
        }
        Ok(candidates)
    }

    /// An extender that cannot be done without failed.
    fn give_up(&mut self, tried: Tried, (stage, missed): Ended, error: String, now: Timestamp) {
        let (asked, profile, tries) = tried;
        let Some(pod) = self.queue.take_asked(&asked.key) else { return };
        match stage {
            Stage::Nodes(_) => self.fail_by_error((pod, profile, tries), error, now),
            Stage::Room { refused, .. } => {
                self.fail((pod, profile, tries), refused.without_room(&error), Some(Nomination::Keep), now);
            }
        }
        self.make_up_for(&asked.key, missed, now);
    }

    /// Decides with all that was answered.
    fn settle(&mut self, tried: Tried, (stage, missed): Ended, scores: &Scores, now: Timestamp) {
        let (asked, profile, tries) = tried;
        let key = &asked.key;
        let Some(pod) = self.queue.take_asked(key) else { return };
        if !Arc::ptr_eq(&pod.shape, &asked.shape) {
            let rank = self.profiles[profile].rank(&pod);
            return self.queue.again((pod, rank), tries);
        }
        match stage {
            Stage::Nodes(nodes) => self.place((pod, profile, tries), nodes, scores, now),
            Stage::Room { refused, candidates } => match best(&candidates) {
                Some(Candidate { node, victims, .. }) => {
                    self.make_room((pod, profile, tries), refused, (node.clone(), victims.clone()), now);
                }
                None => {
                    self.fail((pod, profile, tries), refused.without_room(NO_CANDIDATE), Some(Nomination::Keep), now);
                }
            },
        }
        self.make_up_for(key, missed, now);
    }

    /// Places the pod on the best of the nodes left that can still take it.
    fn place(&mut self, tried: Tried, nodes: Nodes, scores: &Scores, now: Timestamp) {
        let (pod, profile, _) = &tried;
        let (pod, profile) = (pod.clone(), *profile);
        let mut class = self.class_of(&pod, profile);
        match self.choice((&pod, profile), &mut class, &nodes, scores) {
            Chosen::Node(node) => {
                self.profiles[profile].classes.keep(&pod, class);
                self.commit(tried, node, now);
            }
            Chosen::Other(nodes) => {
                self.profiles[profile].classes.keep(&pod, class);
                self.begin(tried, Stage::Nodes(nodes), now);
            }
            Chosen::Nowhere(found) => {
                self.refuse(&mut class, &found, tried, now);
                self.keep_unbiased(&pod, profile, class, &nodes);
            }
        }
    }

    /// What extenders say may be new each time: a class must not hold on to it, nor to a refusal that rests on it.
    pub(crate) fn keep_unbiased(&mut self, pod: &PodInfo, profile: usize, mut class: Class, nodes: &Nodes) {
        if nodes.refused.is_empty() {
            *class.refusal() = None;
            self.profiles[profile].classes.keep(pod, class);
        }
    }

    /// The best of the nodes left that can still take the pod.
    pub(crate) fn choice(
        &mut self,
        (pod, profile): (&PodInfo, usize),
        class: &mut Class,
        nodes: &Nodes,
        scores: &Scores,
    ) -> Chosen {
        let feasible = self.still_feasible(pod, class, &nodes.left);
        if !feasible.is_empty() {
            let mut totals = class.totals(&feasible, self.cluster.nodes());
            for (at, total) in feasible.iter().zip(&mut totals) {
                let name = &self.cluster.nodes()[*at as usize].name;
                *total = total.saturating_add(scores.get(name).copied().unwrap_or(0));
            }
            let at = pick(&feasible, &totals, self.turn) as usize;
            return Chosen::Node(self.cluster.nodes()[at].name.clone());
        }
        let found = match nodes.nominated {
            true => self.search_anywhere(pod, class, profile),
            false => self.against(pod, class, nodes),
        };
        match found.feasible.is_empty() {
            true => Chosen::Nowhere(found),
            false => Chosen::Other(Nodes::new(&found, &self.cluster)),
        }
    }

    fn still_feasible(&self, pod: &PodInfo, class: &mut Class, names: &[String]) -> Vec<u32> {
        if class.rejection().is_some() {
            return Vec::new();
        }
        class.begin();
        let places = names.iter().filter_map(|name| self.cluster.place(name));
        places.filter(|at| judge(pod, class, &self.cluster, *at).is_none()).map(|at| at as u32).collect()
    }

    /// All that stands against the nodes that were looked at, as far as it still does.
    fn against(&self, pod: &PodInfo, class: &mut Class, nodes: &Nodes) -> Found {
        let looked_at = nodes.rejected.iter().map(|facts| &facts.name).chain(&nodes.left);
        // What an extender says of a node goes before what plugins do, and each node counts once.
        let mut rejected = BTreeMap::new();
        class.begin();
        for at in looked_at.filter_map(|name| self.cluster.place(name)) {
            rejected.extend(judge(pod, class, &self.cluster, at).map(|verdict| (at as u32, verdict)));
        }
        for (name, status) in &nodes.refused {
            if let Some(at) = self.cluster.place(name) {
                rejected.insert(at as u32, class.number(EXTENDER, status.clone()));
            }
        }
        Found { rejected: rejected.into_iter().collect(), ..Found::default() }
    }

    /// Lets a pod that was refused go on by a change that came while it was asked about.
    fn make_up_for(&mut self, key: &PodKey, missed: Option<&'static str>, now: Timestamp) {
        let Some(event) = missed else { return };
        if let Some(talk) = &mut self.conversation {
            talk.miss(event);
        } else if let Some(missed) = self.preempting.get_mut(key) {
            *missed = true;
        } else {
            self.queue.move_on(key, event, now);
        }
    }
}
