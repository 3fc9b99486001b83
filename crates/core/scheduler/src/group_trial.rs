//! A try of a group: each member in turn is given a node as if the others before it had theirs already. Where extenders
//! have a say in it, all is given back with each question, so that nothing is held while others are decided about; by
//! the answer the members that were settled get the same again as far as that still stands, and the try goes on.

use std::sync::Arc;

use jiff::Timestamp;

use crate::class::Class;
use crate::consult::{Chosen, Conversation, Heard, NO_CANDIDATE, Scores, Stage, Talk};
use crate::cycle::{Found, choose, judge};
use crate::decide::Refused;
use crate::extender::{Answer, Question};
use crate::framework::{Nomination, Permit, Point, PostFilter};
use crate::group_cycle::Verdict;
use crate::pod::{PodInfo, PodKey};
use crate::preemption::{Attempt, Candidate, Choice, best};
use crate::queue::{Rejectors, Tries};
use crate::scheduler::{Effect, Scheduler};

/// Added to what the plugins say that ask a pod to wait.
const NOBODY_REJECTED: &str = "one or more plugins asked to wait and no plugin rejected pod";

pub(crate) struct Trial {
    pub group: PodKey,
    pub profile: usize,
    pub members: Vec<(Arc<PodInfo>, Tries)>,
    /// What came of the first members, one for each.
    pub fates: Vec<Fate>,
    assumed: Vec<Assumed>,
    /// What is being found out about the member after those.
    talk: Option<Talk>,
}

/// Where a pod would go, and who has to go from there first.
pub(crate) struct Spot {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
    /// Set where there are victims: what stands in the way as yet.
    pub refused: Option<Refused>,
}

/// How a member fared.
pub(crate) enum Fate {
    /// It counts on the node, as if room had been made; what it is to wait for, if anything.
    Placed {
        spot: Spot,
        waits: Option<String>,
    },
    Refused {
        refused: Refused,
        nomination: Nomination,
    },
    Failed(String),
}

/// How to take back that a pod counts on a node.
struct Assumed {
    pod: Arc<PodInfo>,
    nominated: Option<String>,
    node: String,
    victims: Vec<Arc<PodInfo>>,
}

/// What comes next for a member.
pub(crate) enum Next {
    Take(Spot),
    Ask(Talk),
    End(Fate),
}

impl Next {
    fn refuse(refused: Refused, nomination: Nomination) -> Next {
        Next::End(Fate::Refused { refused, nomination })
    }

    fn ask(stage: Stage) -> Next {
        Next::Ask(Talk::new(stage))
    }
}

impl Trial {
    pub fn new(group: PodKey, profile: usize, members: Vec<(Arc<PodInfo>, Tries)>) -> Trial {
        Trial { group, profile, members, fates: Vec::new(), assumed: Vec::new(), talk: None }
    }

    /// The member that is next; nobody is after a failure.
    pub fn open(&self) -> Option<&(Arc<PodInfo>, Tries)> {
        self.members.get(self.fates.len()).filter(|_| !matches!(self.fates.last(), Some(Fate::Failed(_))))
    }

    /// What comes of the group.
    pub fn verdict(&self) -> Verdict {
        let (mut verdict, mut needs_room) = (Verdict::Cannot, false);
        for fate in &self.fates {
            match fate {
                Fate::Placed { spot, waits } => {
                    needs_room |= spot.refused.is_some();
                    match (waits, needs_room) {
                        (Some(_), _) => (),
                        (None, true) => verdict = Verdict::NeedsRoom,
                        (None, false) => verdict = Verdict::Goes,
                    }
                }
                Fate::Refused { .. } => (),
                Fate::Failed(why) => {
                    return Verdict::Failed(format!("failed to schedule other pod from a pod group: {why}"));
                }
            }
        }
        verdict
    }
}

impl Scheduler {
    /// Gives each its node in turn, until all are settled or something has to be asked.
    pub(crate) fn go_through(&mut self, mut trial: Trial, mut next: Option<Next>, now: Timestamp) {
        let profile = trial.profile;
        while let Some((pod, _)) = trial.open() {
            let pod = pod.clone();
            let mut step = next.take().unwrap_or_else(|| self.look(&pod, profile));
            let fate = loop {
                match step {
                    Next::Take(spot) => break self.assume(&pod, spot, &mut trial),
                    Next::End(fate) => break fate,
                    Next::Ask(mut talk) => match self.question(&pod, &mut talk) {
                        Some(question) => return self.suspend(Trial { talk: Some(talk), ..trial }, question),
                        None => step = self.conclude(&pod, profile, talk.stage, &Scores::new()),
                    },
                }
            };
            trial.fates.push(fate);
        }
        self.end_trial(trial, now);
    }

    /// Looks for a node for a member.
    fn look(&mut self, pod: &PodInfo, profile: usize) -> Next {
        self.turn = self.turn.wrapping_add(1);
        if self.cluster.nodes().is_empty() {
            let refused = Refused { message: "no nodes available to schedule pods".into(), by: Rejectors::new() };
            return Next::refuse(refused, Nomination::Clear);
        }
        let mut class = self.class_of(pod, profile);
        let found = match class.rejection() {
            Some(_) => Found::default(),
            None => self.search(pod, &mut class, self.profiles[profile].percent),
        };
        let next = if found.feasible.is_empty() {
            self.find_room(pod, &mut class, &found, profile)
        } else if let Some(nodes) = self.in_question(pod, &found) {
            Next::ask(Stage::Nodes(nodes))
        } else {
            let at = choose(&mut class, &self.cluster, &found.feasible, self.turn);
            let node = self.cluster.nodes()[at as usize].name.clone();
            Next::Take(Spot { node, victims: Vec::new(), refused: None })
        };
        self.profiles[profile].classes.keep(pod, class);
        next
    }

    fn find_room(&mut self, pod: &PodInfo, class: &mut Class, found: &Found, profile: usize) -> Next {
        let mut refused = Refused::of(class, found, self.cluster.nodes().len());
        let (cluster, turn) = (&self.cluster, self.turn);
        let choice = if self.consults_on_room(pod) { Choice::All } else { Choice::Best };
        let after = self.profiles[profile].post_filter(&mut Attempt { pod, cluster, class, found, turn, choice });
        self.counts.preemptions += u64::from(after.is_some());
        let (message, nomination) = match after {
            Some(PostFilter::Made { node, victims }) => {
                return Next::Take(Spot { node, victims, refused: Some(refused) });
            }
            Some(PostFilter::Candidates(candidates)) => return Next::ask(Stage::Room { refused, candidates }),
            Some(PostFilter::Helpless { message, nomination }) => (message, nomination),
            Some(PostFilter::Stuck { message }) => (message, Nomination::Keep),
            None => return Next::refuse(refused, Nomination::Clear),
        };
        refused.message = format!("{} {message}", refused.message);
        Next::refuse(refused, nomination)
    }

    /// Goes on with all that was answered about a member.
    fn conclude(&mut self, pod: &PodInfo, profile: usize, stage: Stage, scores: &Scores) -> Next {
        let nodes = match stage {
            Stage::Nodes(nodes) => nodes,
            Stage::Room { refused, candidates } => {
                return match best(&candidates) {
                    Some(Candidate { node, victims, .. }) => {
                        Next::Take(Spot { node: node.clone(), victims: victims.clone(), refused: Some(refused) })
                    }
                    None => Next::refuse(refused.without_room(NO_CANDIDATE), Nomination::Keep),
                };
            }
        };
        let mut class = self.class_of(pod, profile);
        let next = match self.choice((pod, profile), &mut class, &nodes, scores) {
            Chosen::Node(node) => Next::Take(Spot { node, victims: Vec::new(), refused: None }),
            Chosen::Other(nodes) => Next::ask(Stage::Nodes(nodes)),
            Chosen::Nowhere(found) => self.find_room(pod, &mut class, &found, profile),
        };
        self.keep_unbiased(pod, profile, class, &nodes);
        next
    }

    /// Lets a pod count on a node, without those who would have to go, and asks whether it may.
    fn assume(&mut self, pod: &Arc<PodInfo>, spot: Spot, trial: &mut Trial) -> Fate {
        let (Spot { node, victims, .. }, profile) = (&spot, trial.profile);
        let nominated = self.cluster.nominations.node_of(&pod.key).map(str::to_owned);
        victims.iter().for_each(|victim| drop(self.cluster.lift(&victim.key)));
        self.cluster.put(pod.clone(), node);
        self.cluster.nominations.remove(&pod.key);
        let last = Assumed { pod: pod.clone(), nominated, node: node.clone(), victims: victims.clone() };
        if let Err((plugin, status)) = self.reserve(pod, profile, node) {
            self.take_back(last, profile);
            return Fate::Refused { refused: Refused::by(plugin, &status), nomination: Nomination::Clear };
        }
        let (plugin, permit) = self.profiles[profile].permit(pod, node, &self.cluster);
        let waits = match permit {
            Permit::Allow => None,
            Permit::Wait(why) => Some(format!("{why}, {NOBODY_REJECTED}")),
            Permit::Reject(status) => {
                self.take_back(last, profile);
                return Fate::Refused { refused: Refused::by(plugin, &status), nomination: Nomination::Clear };
            }
            Permit::Fail(why) => {
                self.take_back(last, profile);
                return Fate::Failed(format!("running Permit plugin {plugin:?}: {why}"));
            }
        };
        trial.assumed.push(last);
        Fate::Placed { spot, waits }
    }

    fn take_back(&mut self, last: Assumed, profile: usize) {
        let Assumed { pod, nominated, node, victims } = last;
        for plugin in self.profiles[profile].at(Point::Reserve) {
            plugin.unreserve(&pod, &mut self.cluster);
        }
        self.cluster.lift(&pod.key);
        self.cluster.groups.wait(&pod);
        if let Some(node) = nominated {
            self.cluster.nominate(pod, &node);
        }
        victims.into_iter().for_each(|victim| self.cluster.put(victim, &node));
    }

    /// Takes back all that members were given, the last first.
    pub(crate) fn take_all_back(&mut self, trial: &mut Trial) {
        while let Some(last) = trial.assumed.pop() {
            self.take_back(last, trial.profile);
        }
    }

    /// Gives all back and keeps the members in the queue while extenders are asked about one of them.
    fn suspend(&mut self, mut trial: Trial, question: Question) {
        self.take_all_back(&mut trial);
        for (pod, tries) in &trial.members {
            let rank = self.profiles[trial.profile].rank(pod);
            self.queue.ask((pod.clone(), rank), *tries);
        }
        if let Some((pod, _)) = trial.open() {
            self.effects.push_back(Effect::Ask { pod: pod.clone(), question });
        }
        self.conversation = Some(Conversation::Group(Box::new(trial)));
    }

    /// Goes on with an answer, by the members and the cluster as they are now.
    pub(crate) fn group_answered(&mut self, mut trial: Trial, answer: Answer, now: Timestamp) {
        self.renew_members(&mut trial);
        self.place_again(&mut trial);
        let next = match (trial.talk.take(), trial.open()) {
            (Some(mut talk), Some((pod, _))) => {
                let pod = pod.clone();
                Some(match self.hear(&pod, &mut talk, answer) {
                    Heard::More => Next::Ask(talk),
                    Heard::Scores(scores) => self.conclude(&pod, trial.profile, talk.stage, &scores),
                    Heard::Failed(error) => match talk.stage {
                        Stage::Nodes(_) => Next::End(Fate::Failed(error)),
                        Stage::Room { refused, .. } => Next::refuse(refused.without_room(&error), Nomination::Keep),
                    },
                })
            }
            _ => None,
        };
        self.go_through(trial, next, now);
    }

    /// Drops members that are gone, and what came of those that changed and of all after them.
    fn renew_members(&mut self, trial: &mut Trial) {
        let (members, fates) = (std::mem::take(&mut trial.members), std::mem::take(&mut trial.fates));
        let (asked, mut fates, mut stands) = (fates.len(), fates.into_iter(), true);
        for (at, (known, tries)) in members.into_iter().enumerate() {
            let (fate, pod) = (fates.next(), self.queue.take_asked(&known.key));
            let same = pod.as_ref().is_some_and(|pod| Arc::ptr_eq(&pod.shape, &known.shape));
            stands &= same || pod.is_none();
            if at <= asked && (!stands || (at == asked && !same)) {
                trial.talk = None;
            }
            let Some(pod) = pod else { continue };
            trial.members.push((pod, tries));
            trial.fates.extend(fate.filter(|_| stands));
        }
    }

    /// Gives the members that were settled the same again, up to the first for which that stands no more.
    fn place_again(&mut self, trial: &mut Trial) {
        for (at, fate) in std::mem::take(&mut trial.fates).into_iter().enumerate() {
            let fate = match fate {
                Fate::Placed { spot, .. } => {
                    let pod = trial.members[at].0.clone();
                    match self.still_stands(&pod, trial.profile, spot) {
                        Some(spot) => self.assume(&pod, spot, trial),
                        None => {
                            trial.talk = None;
                            return;
                        }
                    }
                }
                other => other,
            };
            trial.fates.push(fate);
        }
    }

    /// The place that a pod had been given, with those who have to go from it as they are now, if it can still be had.
    fn still_stands(&mut self, pod: &PodInfo, profile: usize, spot: Spot) -> Option<Spot> {
        let at = self.cluster.place(&spot.node)?;
        let here = |victim: &Arc<PodInfo>| {
            let known = self.cluster.placed(&victim.key).filter(|known| known.uid == victim.uid)?;
            (self.cluster.place_of(&victim.key) == Some(&spot.node)).then(|| known.clone())
        };
        let victims = spot.victims.iter().map(here).collect::<Option<Vec<_>>>()?;
        victims.iter().for_each(|victim| drop(self.cluster.lift(&victim.key)));
        let mut class = self.class_of(pod, profile);
        class.begin();
        let fits = class.rejection().is_none() && judge(pod, &mut class, &self.cluster, at).is_none();
        self.profiles[profile].classes.keep(pod, class);
        victims.iter().for_each(|victim| self.cluster.put(victim.clone(), &spot.node));
        fits.then_some(Spot { victims, ..spot })
    }
}
