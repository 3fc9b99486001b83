//! HorizontalPodAutoscalers: as many replicas as what pods use asks for, within bounds and no faster than allowed.
//! Resource and container metrics come from `metrics.k8s.io`. What pods, objects and others tell of themselves comes
//! from APIs that only aggregated servers serve: such a metric is told as not to be had.

mod limits;
mod replicas;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_meta::{LabelSelector, Resource};
use coracle_reconcile::{Answer, Ask, Controller, EventKind, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods::PODS;
use crate::shape::{Item, rfc3339, set_condition, status_of};
use limits::History;

pub const SCALERS: Resource = Resource::new("autoscaling", "horizontalpodautoscalers");

/// Remembers recommendations and scalings, which bound those to come, for as long as the controller runs.
pub struct HorizontalPodAutoscaler {
    /// How often each is looked at.
    period: Duration,
    memories: Mutex<BTreeMap<Key, Memory>>,
}

impl HorizontalPodAutoscaler {
    pub fn new(period: Duration) -> HorizontalPodAutoscaler {
        HorizontalPodAutoscaler { period, memories: Mutex::default() }
    }
}

#[derive(Clone, Default)]
struct Memory {
    history: History,
    /// Which pods it scales, as text: no two may scale the same.
    selector: String,
    /// When, by the clock that nobody sets, and for which generation replicas were last decided.
    decided: Option<(Duration, i64)>,
    attempt: Attempt,
}

/// A new size as it was last asked for, to be told of when it is refused.
#[derive(Clone, Default)]
struct Attempt {
    desired: i64,
    reason: String,
    /// The status that stands when nothing was resized.
    status: Value,
}

impl Controller for HorizontalPodAutoscaler {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    fn component(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(SCALERS)]
    }

    fn reads(&self) -> Vec<Resource> {
        vec![PODS]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(scaler) = Item::get(view, &SCALERS, key) else {
            memories.remove(key);
            return Plan::default();
        };
        let others = rivals(&memories, key);
        let memory = memories.entry(key.clone()).or_default();
        let (decided, steady) = (memory.decided, view.steady());
        let status = status_of(&scaler);
        let mut decision = Decision { status, scaler, last, now, steady, memory, others, plan: Plan::default() };
        if decision.last.error.is_some() {
            decision.tell_refusal();
        } else if let Some((at, generation)) = decided
            && last.asked.is_empty()
            && generation == decision.scaler.meta().generation
            && steady < at + self.period
        {
            // Its own writes wake it, and decide nothing anew before the time.
            return Plan::wake(at + self.period - steady);
        } else {
            decision.decide(view);
        }
        let mut plan = decision.plan;
        if plan.asks.is_empty() {
            plan.wake_by(self.period);
        }
        plan
    }
}

/// The other autoscalers of the namespace, and which pods they scale.
fn rivals(memories: &BTreeMap<Key, Memory>, key: &Key) -> Vec<(String, String)> {
    let of_others = memories.iter().filter(|(other, _)| other.namespace == key.namespace && other.name != key.name);
    of_others.map(|(other, memory)| (other.name.clone(), memory.selector.clone())).collect()
}

struct Decision<'a> {
    scaler: Item,
    status: Value,
    last: &'a Outcome,
    now: Timestamp,
    steady: Duration,
    memory: &'a mut Memory,
    others: Vec<(String, String)>,
    plan: Plan,
}

/// What is scaled, as its scale subresource tells.
struct Target {
    resource: Resource,
    replicas: i64,
    /// As text, `app=web`.
    selector: String,
}

impl Decision<'_> {
    fn decide(&mut self, view: &dyn View) {
        if view.known().is_empty() && self.last.answer(&Ask::Discovery).is_none() {
            return self.plan.asks = vec![Ask::Discovery];
        }
        let asks = self.questions(view);
        let Some((scale, others)) = asks.split_first() else {
            let target = self.scaler.at("/spec/scaleTargetRef").clone();
            let why = format!(
                "no matches for kind \"{}\" in group \"{}\"",
                target["kind"].as_str().unwrap_or_default(),
                group_of(&target)
            );
            return self.no_scale(&why);
        };
        let target = match self.last.answer(scale) {
            None => return self.plan.asks = vec![scale.clone()],
            Some(Answer::Object(Some(found))) => target(scale, found),
            Some(Answer::Failed(status)) => return self.no_scale(&status.message.clone()),
            Some(_) => {
                let Ask::Scale { resource, name, .. } = scale else { return };
                return self.no_scale(&format!("{resource} \"{name}\" not found"));
            }
        };
        if !others.is_empty() && others.iter().any(|ask| self.last.answer(&with_selector(ask, &target)).is_none()) {
            self.plan.asks =
                std::iter::once(scale.clone()).chain(others.iter().map(|ask| with_selector(ask, &target))).collect();
            return;
        }
        self.memory.decided = Some((self.steady, self.scaler.meta().generation));
        self.condition(
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        self.scale(view, &target);
    }

    /// The scale first, then the metrics of its pods where one is about them.
    fn questions(&self, view: &dyn View) -> Vec<Ask> {
        let reference = self.scaler.at("/spec/scaleTargetRef");
        let Some(resource) = resource_of(view, reference) else { return Vec::new() };
        let namespace = self.scaler.namespace().to_owned();
        let name = reference["name"].as_str().unwrap_or_default().to_owned();
        let mut asks = vec![Ask::Scale { resource, namespace: namespace.clone(), name }];
        let of_pods = |metric: &Value| matches!(metric["type"].as_str(), Some("Resource" | "ContainerResource"));
        if self.scaler.list("/spec/metrics").iter().any(of_pods) {
            let resource = usage::METRICS;
            asks.push(Ask::List { resource, namespace, selector: String::new() });
        }
        asks
    }

    fn no_scale(&mut self, why: &str) {
        self.memory.decided = Some((self.steady, self.scaler.meta().generation));
        let message = format!("the HPA controller was unable to get the target's current scale: {why}");
        self.condition("AbleToScale", "False", "FailedGetScale", &message);
        self.plan.events.push(self.scaler.note(EventKind::Warning, "FailedGetScale", why));
        self.write_status();
    }

    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let new = json!({"type": kind, "status": status, "lastTransitionTime": rfc3339(self.now),
            "reason": reason, "message": message});
        set_condition(&mut self.status, new);
    }

    fn least(&self) -> i64 {
        self.scaler.at("/spec/minReplicas").as_i64().unwrap_or(1)
    }

    fn most(&self) -> i64 {
        self.scaler.int("/spec/maxReplicas")
    }

    fn scale(&mut self, view: &dyn View, target: &Target) {
        let current = target.replicas;
        self.memory.history.begin(current, self.steady);
        // What is told of metrics is told anew.
        self.status["currentMetrics"] = Value::Null;
        // From nothing only what tells no pods apart could scale, which is off by default.
        let (desired, reason) = if current == 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", "False", "ScalingDisabled", why);
            (0, String::new())
        } else if current > self.most() {
            (self.most(), "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < self.least() {
            (self.least(), "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            match self.by_metrics(view, target) {
                Some(decided) => decided,
                None => {
                    self.status["currentReplicas"] = json!(current);
                    return self.write_status();
                }
            }
        };
        self.status["currentReplicas"] = json!(current);
        if desired != current {
            self.resize(target, desired, reason);
        }
        self.status["desiredReplicas"] = json!(desired);
        self.write_status();
    }

    /// The most that any metric asks for, made even and bounded; `None` where nothing can be said.
    fn by_metrics(&mut self, view: &dyn View, target: &Target) -> Option<(i64, String)> {
        let metrics = self.last.asked.iter().zip(&self.last.answers).find_map(|(ask, answer)| match ask {
            Ask::List { .. } => Some(answer.clone()),
            _ => None,
        });
        let pods = match self.pods(view, target) {
            Ok(pods) => pods,
            Err((reason, message, why)) => {
                self.condition("ScalingActive", "False", reason.1, &message);
                self.plan.events.push(self.scaler.note(EventKind::Warning, reason.0, why.clone()));
                self.plan.events.push(self.scaler.note(EventKind::Warning, UNCOMPUTED, why));
                return None;
            }
        };
        let tolerance = self.tolerance();
        let mut proposals = Vec::new();
        let mut failures: Vec<replicas::Failure> = Vec::new();
        let mut told = Vec::new();
        for metric in self.scaler.list("/spec/metrics") {
            let look = usage::Look { pods: &pods, answer: metrics.as_ref(), now: self.now };
            match replicas::propose(metric, &look, target.replicas, tolerance) {
                Ok(proposal) => {
                    told.push(proposal.status.clone());
                    proposals.push(proposal);
                }
                Err(failure) => {
                    told.push(json!({"type": ""}));
                    failures.push(failure);
                }
            }
        }
        self.status["currentMetrics"] = json!(told);
        for failure in &failures {
            self.plan.events.push(self.scaler.note(EventKind::Warning, failure.reason, failure.why.clone()));
        }
        // Of equals the first.
        let best = proposals.into_iter().rev().max_by_key(|proposal| proposal.replicas);
        let count = self.scaler.list("/spec/metrics").len();
        // With a metric unknown, nothing is scaled down.
        let certain = best.filter(|best| failures.is_empty() || best.replicas >= target.replicas);
        let Some(best) = certain else {
            self.no_metrics(failures.first(), (failures.len(), count));
            return None;
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
        self.condition("ScalingActive", "True", "ValidMetricFound", &message);
        let desired = self.normalize(target.replicas, best.replicas);
        let reason = match best.replicas > target.replicas {
            true => format!("{} above target", best.name),
            false => "All metrics below target".to_owned(),
        };
        Some((desired, reason))
    }

    /// The pods that are scaled. Otherwise reasons of an event and of a condition, the condition's message, and why.
    fn pods(&mut self, view: &dyn View, target: &Target) -> Result<Vec<Item>, Refusal> {
        let selector = &target.selector;
        if selector.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return Err((("SelectorRequired", INVALID), message, "selector is required".to_owned()));
        }
        if let Err(error) = LabelSelector::parse(selector) {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            return Err(((INVALID, INVALID), why.clone(), why));
        }
        self.memory.selector = selector.clone();
        let namespace = self.scaler.namespace();
        let pods = usage::select(view, namespace, selector);
        let shares = |other: &str| {
            let selects = LabelSelector::parse(other).ok().filter(|_| !other.is_empty());
            selects.is_some_and(|selects| pods.iter().any(|pod| selects.matches(&pod.meta().labels)))
        };
        let mut all: Vec<&str> =
            self.others.iter().filter(|(_, other)| shares(other)).map(|(name, _)| &**name).collect();
        if all.is_empty() {
            return Ok(pods);
        }
        all.push(self.scaler.name());
        all.sort_unstable();
        let all: Vec<String> = all.into_iter().map(|name| format!("{namespace}/{name}")).collect();
        let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", all.join(" "));
        Err(((AMBIGUOUS, AMBIGUOUS), why.clone(), why))
    }

    fn no_metrics(&mut self, first: Option<&replicas::Failure>, (failed, all): (usize, usize)) {
        let Some(first) = first else { return };
        let message = format!("the HPA was unable to compute the replica count: {}", first.why);
        self.condition("ScalingActive", "False", first.reason, &message);
        let why = format!("{}: {}", first.what, first.why);
        let message = format!("invalid metrics ({failed} invalid out of {all}), first error is: {why}");
        self.plan.events.push(self.scaler.note(EventKind::Warning, UNCOMPUTED, message));
    }

    fn tolerance(&self) -> (f64, f64) {
        let of = |direction: &str| {
            let text = self.scaler.text(&format!("/spec/behavior/{direction}/tolerance")).to_owned();
            let quantity = text.parse::<coracle_meta::quantity::Quantity>().ok();
            quantity.map_or(0.1, |quantity| quantity.nanos() as f64 / 1e9)
        };
        (of("scaleDown"), of("scaleUp"))
    }

    fn normalize(&mut self, current: i64, wanted: i64) -> i64 {
        let bounds =
            limits::Bounds { current, least: self.least(), most: self.most(), now: limits::instant(self.steady) };
        let behavior = self.scaler.at("/spec/behavior").clone();
        let found = self.memory.history.normalize(&behavior, &bounds, wanted);
        let (reason, message) = found.able;
        self.condition("AbleToScale", "True", reason, message);
        let (limited, reason, message) = found.limited;
        self.condition("ScalingLimited", if limited { "True" } else { "False" }, reason, message);
        found.replicas
    }

    fn resize(&mut self, target: &Target, desired: i64, reason: String) {
        let name = self.scaler.text("/spec/scaleTargetRef/name").to_owned();
        let mut note =
            self.scaler.note(EventKind::Normal, "SuccessfulRescale", format!("New size: {desired}; reason: {reason}"));
        note.of_write = Some(self.plan.writes.len());
        self.plan.events.push(note);
        self.plan.writes.push(Write::Patch {
            resource: target.resource.clone(),
            namespace: self.scaler.namespace().to_owned(),
            name,
            subresource: Some("scale"),
            uid: String::new(),
            resource_version: None,
            patch: json!({"spec": {"replicas": desired}}),
        });
        self.memory.attempt = Attempt { desired, reason, status: self.status.clone() };
        self.memory.history.scaled(target.replicas, desired, self.steady);
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        self.condition("AbleToScale", "True", "SucceededRescale", &message);
        self.status["lastScaleTime"] = json!(rfc3339(self.now));
    }

    /// The last plan's size, or its status, was refused: that is told, and tried again at the next look.
    fn tell_refusal(&mut self) {
        let Some(error) = &self.last.error else { return };
        let why = error.message.clone();
        let of = |wanted: &'static str| matches!(&self.last.refused, Some(Write::Patch { subresource: Some(name), .. }) if *name == wanted);
        if of("scale") {
            let Attempt { desired, reason, status } = std::mem::take(&mut self.memory.attempt);
            self.memory.history.forget_last_scaling();
            let message = format!("New size: {desired}; reason: {reason}; error: {why}");
            self.plan.events.push(self.scaler.note(EventKind::Warning, "FailedRescale", message));
            self.status = status;
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            self.condition("AbleToScale", "False", "FailedUpdateScale", &message);
            self.write_status();
        } else if of("status") {
            self.plan.events.push(self.scaler.note(EventKind::Warning, "FailedUpdateStatus", why));
        }
    }

    fn write_status(&mut self) {
        if self.status["desiredReplicas"].is_null() {
            self.status["desiredReplicas"] = json!(0);
        }
        let status = std::mem::take(&mut self.status);
        self.plan.writes.extend(self.scaler.status_write(&SCALERS, &status));
    }
}

const UNCOMPUTED: &str = "FailedComputeMetricsReplicas";
const INVALID: &str = "InvalidSelector";
const AMBIGUOUS: &str = "AmbiguousSelector";

type Refusal = ((&'static str, &'static str), String, String);

fn group_of(reference: &Value) -> &str {
    reference["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group)
}

fn resource_of(view: &dyn View, reference: &Value) -> Option<Resource> {
    let kind = reference["kind"].as_str().unwrap_or_default();
    let known = view.known();
    let found = known.iter().find(|known| known.kind.group == group_of(reference) && known.kind.kind == kind);
    found.map(|known| known.resource.clone())
}

fn target(ask: &Ask, scale: &Value) -> Target {
    let resource = match ask {
        Ask::Scale { resource, .. } => resource.clone(),
        _ => PODS,
    };
    Target {
        resource,
        replicas: scale["spec"]["replicas"].as_i64().unwrap_or(0),
        selector: scale["status"]["selector"].as_str().unwrap_or_default().to_owned(),
    }
}

fn with_selector(ask: &Ask, target: &Target) -> Ask {
    match ask.clone() {
        Ask::List { resource, namespace, .. } => Ask::List { resource, namespace, selector: target.selector.clone() },
        other => other,
    }
}
