//! What our core decides, through the interface that its shell has.

use std::sync::Arc;

use coracle_meta::Object;
use coracle_scheduler::pod::Shapes;
use coracle_scheduler::{Effect, Event, PodInfo, Scheduler};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cases::{Case, World};
use crate::decision::Decision;

pub struct Ours {
    scheduler: Scheduler,
    now: Timestamp,
}

impl Ours {
    pub fn new(world: &World) -> Ours {
        let mut ours = Ours { scheduler: Scheduler::standard("default-scheduler"), now: Timestamp::UNIX_EPOCH };
        world.iter().for_each(|(resource, object)| ours.set(resource, object));
        ours
    }

    fn set(&mut self, resource: &'static str, object: &Value) {
        self.scheduler.observe(Event::Set { resource, object: read(object) }, self.now);
    }

    fn gone(&mut self, resource: &'static str, object: &Value) {
        self.scheduler.observe(Event::Gone { resource, object: read(object) }, self.now);
    }

    /// Takes in the nodes and all that is on them.
    pub fn put(&mut self, case: &Case) {
        case.surroundings().for_each(|(resource, object)| self.set(resource, object));
    }

    pub fn decide(&mut self, case: &Case) -> Decision {
        self.now += SignedDuration::from_secs(1);
        let mut decision = self.survey(&case.pod);
        self.set("pods", &case.pod);
        while let Some(effect) = self.scheduler.next(self.now) {
            match effect {
                Effect::Bind { node, .. } | Effect::Prepare { node, .. } => decision.bound = Some(node),
                Effect::Failed { message, nominate, .. } => {
                    let kept = case.pod["status"]["nominatedNodeName"].as_str().map(str::to_owned);
                    decision.message = message;
                    decision.nominated = nominate.or(kept).filter(|node| !node.is_empty());
                }
                Effect::Preempt { victims, .. } => {
                    decision.victims = victims.iter().map(|pod| pod.key.name.to_string()).collect();
                }
                Effect::Group { .. } => unreachable!("gates are off"),
                Effect::BindBy { .. } | Effect::Ask { .. } => unreachable!("the standard profile has no extenders"),
            }
        }
        decision
    }

    fn survey(&mut self, pod: &Value) -> Decision {
        let pod = PodInfo::read(pod.to_string().as_bytes(), &mut Shapes::default()).expect("a case holds a pod");
        let mut decision = Decision::default();
        for (node, verdict) in self.scheduler.survey(&pod) {
            if let Ok(total) = verdict {
                decision.feasible.insert(node.clone());
                decision.totals.insert(node, total);
            }
        }
        if decision.feasible.len() == 1 {
            decision.totals.clear();
        }
        decision
    }

    /// Decides and forgets the case; what was learned from it may stay.
    pub fn decide_in_passing(&mut self, case: &Case) -> Decision {
        self.put(case);
        let decision = self.decide(case);
        self.remove(case);
        decision
    }

    fn remove(&mut self, case: &Case) {
        self.gone("pods", &case.pod);
        case.surroundings().rev().for_each(|(resource, object)| self.gone(resource, object));
    }
}

fn read(object: &Value) -> Arc<Object> {
    Arc::new(Object::new(object.to_string().into(), 1).expect("a case holds objects"))
}
