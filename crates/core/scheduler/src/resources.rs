//! Amounts of resources, and what a pod asks for. Rules: `k8s.io/component-helpers/resource`, `PodRequests`.

use std::collections::BTreeMap;

use coracle_meta::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::text::{ContainerStatusText, ContainerText, SpecText, StatusText};

/// What a container that asks for nothing is taken to use when nodes are scored.
const CPU_MILLI_ASSUMED: i64 = 100;
const MEMORY_ASSUMED: i64 = 200 << 20;
const HUGE_PAGES: &str = "hugepages-";

pub type ResourceList = BTreeMap<String, Text>;

/// CPU in thousandths, everything else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub others: BTreeMap<String, i64>,
}

/// A resource whose name was looked at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Cpu,
    Memory,
    EphemeralStorage,
    Other(String),
}

impl Which {
    pub fn new(name: &str) -> Which {
        match name {
            "cpu" => Which::Cpu,
            "memory" => Which::Memory,
            "ephemeral-storage" => Which::EphemeralStorage,
            other => Which::Other(other.to_owned()),
        }
    }
}

impl Resources {
    pub fn of(&self, which: &Which) -> i64 {
        match which {
            Which::Cpu => self.cpu_milli,
            Which::Memory => self.memory,
            Which::EphemeralStorage => self.ephemeral_storage,
            Which::Other(name) => self.others.get(name).copied().unwrap_or(0),
        }
    }

    pub fn from_list(list: &ResourceList) -> Resources {
        let mut resources = Resources::default();
        for (name, text) in list {
            // The server has validated the quantity; what does not parse counts as nothing.
            let Ok(quantity) = text.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.milli(),
                "memory" => resources.memory = quantity.units(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.units(),
                other if is_scalar(other) => {
                    resources.others.insert(other.to_owned(), quantity.units());
                }
                _ => (),
            }
        }
        resources
    }

    pub fn is_nothing(&self) -> bool {
        self.cpu_milli == 0 && self.memory == 0 && self.ephemeral_storage == 0 && self.others.is_empty()
    }

    /// The amount of a resource by its name; 0 where there is none.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_milli,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }

    pub fn add(&mut self, other: &Resources) {
        self.change(other, i64::saturating_add);
    }

    /// Counts what a pod holds, as a sum from which it can be taken again by `release` however large it is.
    pub fn hold(&mut self, other: &Resources) {
        self.change(other, i64::wrapping_add);
    }

    pub fn release(&mut self, other: &Resources) {
        self.change(other, i64::wrapping_sub);
    }

    /// The larger of the two, resource by resource.
    pub fn raise_to(&mut self, other: &Resources) {
        self.change(other, i64::max);
    }

    fn change(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            match self.others.get_mut(name) {
                Some(held) => *held = with(*held, *amount),
                None => {
                    self.others.insert(name.clone(), with(0, *amount));
                }
            }
        }
    }

    /// Whether some resource is smaller in `new`.
    pub fn shrinks_to(&self, new: &Resources) -> bool {
        self.cpu_milli > new.cpu_milli
            || self.memory > new.memory
            || self.ephemeral_storage > new.ephemeral_storage
            || self.others.iter().any(|(name, amount)| *amount > new.amount(name))
    }
}

/// Whether the scheduler counts a resource beside CPU, memory and ephemeral storage: extended resources, huge pages,
/// prefixed native ones and limits of attachable volumes.
pub fn is_scalar(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
        || name.starts_with("attachable-volumes-")
        || name.contains("kubernetes.io/")
        || is_extended(name)
}

/// A fully qualified name outside `kubernetes.io`. Source: `v1helper.IsExtendedResourceName`.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// What a pod asks for: its containers and sidecars together, or its hungriest moment of initialisation if that is
/// more, and its overhead. A pod that was resized holds the most of what it asks, was granted and uses.
pub fn requests(spec: &SpecText, status: &StatusText) -> Resources {
    whole(spec, status, in_containers(spec, |container, stays| effective(container, status, stays).sum))
}

/// CPU and memory that a placed pod is taken to use, for scores alone: as `requests`, but with an assumed use for each
/// container that asks for no CPU or memory. Where the pod asks as a whole, that is assumed only of what nothing in the
/// pod asks for.
pub fn assumed_use(spec: &SpecText, status: &StatusText) -> (i64, i64) {
    let assumed = match asks_as_a_whole(spec) {
        true => missing(spec, status),
        false => (true, true),
    };
    let running = in_containers(spec, |container, stays| effective(container, status, stays).or_assumed(assumed));
    let whole = whole(spec, status, running);
    (whole.cpu_milli, whole.memory)
}

/// CPU and memory by which nodes are scored for a pod that waits. Kube-scheduler leaves out here what the pod asks for as
/// a whole.
pub fn assumed_ask(spec: &SpecText) -> (i64, i64) {
    let asked = |container: &ContainerText, _| Asked::new(&container.resources.requests).or_assumed((true, true));
    let mut running = in_containers(spec, asked);
    running.add(&Resources::from_list(&spec.overhead));
    (running.cpu_milli, running.memory)
}

/// What a container asks for, and whether it names CPU and memory at all.
struct Asked {
    sum: Resources,
    names: (bool, bool),
}

impl Asked {
    fn new(list: &ResourceList) -> Asked {
        let names = (list.contains_key("cpu"), list.contains_key("memory"));
        Asked { sum: Resources::from_list(list), names }
    }

    fn raise_to(&mut self, other: Asked) {
        self.sum.raise_to(&other.sum);
        self.names = (self.names.0 || other.names.0, self.names.1 || other.names.1);
    }

    /// With an assumed use of what it does not name, where that is wanted for CPU and memory.
    fn or_assumed(mut self, wanted: (bool, bool)) -> Resources {
        if wanted.0 && !self.names.0 {
            self.sum.cpu_milli = CPU_MILLI_ASSUMED;
        }
        if wanted.1 && !self.names.1 {
            self.sum.memory = MEMORY_ASSUMED;
        }
        self.sum
    }
}

/// What a container holds, by its status where it runs as long as the pod does.
fn effective(container: &ContainerText, status: &StatusText, stays: bool) -> Asked {
    let asked = &container.resources.requests;
    match status.statuses().find(|status| status.name == container.name).filter(|_| stays) {
        Some(ContainerStatusText { resources: Some(used), allocated_resources, .. }) => {
            most(asked, (&used.requests, allocated_resources), status)
        }
        _ => Asked::new(asked),
    }
}

/// The most of what is used and granted, and of what is asked unless the node cannot give it.
fn most(asked: &ResourceList, (used, granted): (&ResourceList, &ResourceList), status: &StatusText) -> Asked {
    let mut most = Asked::new(used);
    most.raise_to(Asked::new(granted));
    if !status.is_resize_infeasible() {
        most.raise_to(Asked::new(asked));
    }
    most
}

/// `of` is told whether the container runs as long as the pod does.
fn in_containers(spec: &SpecText, of: impl Fn(&ContainerText, bool) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container, true));
    }
    let mut sidecars = Resources::default();
    let mut highest = Resources::default();
    for container in &spec.init_containers {
        let stays = container.restart_policy == "Always";
        let mut moment = of(container, stays);
        if stays {
            running.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        highest.raise_to(&moment);
    }
    running.raise_to(&highest);
    running
}

/// With what the pod asks for as a whole in place of the sum, and its overhead.
fn whole(spec: &SpecText, status: &StatusText, mut running: Resources) -> Resources {
    let asked = &spec.resources.requests;
    let level = match &status.resources {
        Some(used) => most(asked, (&used.requests, &status.allocated_resources), status).sum,
        None => Resources::from_list(asked),
    };
    if asked.contains_key("cpu") {
        running.cpu_milli = level.cpu_milli;
    }
    if asked.contains_key("memory") {
        running.memory = level.memory;
    }
    running
        .others
        .extend(level.others.into_iter().filter(|(name, _)| name.starts_with(HUGE_PAGES) && asked.contains_key(name)));
    running.add(&Resources::from_list(&spec.overhead));
    running
}

/// Only CPU, memory and huge pages can be asked for as a whole.
fn asks_as_a_whole(spec: &SpecText) -> bool {
    let counts = |name: &String| name == "cpu" || name == "memory" || name.starts_with(HUGE_PAGES);
    spec.resources.requests.keys().any(counts)
}

/// Whether nothing in the pod names CPU, and whether nothing names memory.
fn missing(spec: &SpecText, status: &StatusText) -> (bool, bool) {
    let running = spec.containers.iter().map(|container| (container, true));
    let first = spec.init_containers.iter().map(|container| (container, container.restart_policy == "Always"));
    let held = running.chain(first).map(|(container, stays)| effective(container, status, stays));
    let all = held.chain([&spec.resources.requests, &spec.overhead].map(Asked::new));
    all.fold((true, true), |missing, asked| (missing.0 && !asked.names.0, missing.1 && !asked.names.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(spec: &str) -> Resources {
        requests(&serde_json::from_str(spec).unwrap(), &StatusText::default())
    }

    #[test]
    fn the_hungriest_moment_counts() {
        let spec = r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"100m"}}}],
            "initContainers":[
              {"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"50m"}}},
              {"name":"i","resources":{"requests":{"cpu":"1"}}}]}"#;
        assert_eq!(asked(spec).cpu_milli, 1050);
    }

    #[test]
    fn overhead_and_pod_level_requests_count() {
        let spec = r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"100m","memory":"1Gi"}}}],
            "resources":{"requests":{"cpu":"2"}},"overhead":{"memory":"1Gi"}}"#;
        assert_eq!((asked(spec).cpu_milli, asked(spec).memory), (2000, 2 << 30));
    }

    #[test]
    fn only_what_can_be_counted_is_scalar() {
        let spec = r#"{"containers":[{"name":"a","resources":{"requests":
            {"example.com/gpu":"2","hugepages-2Mi":"4Mi","storage":"1Gi"}}}]}"#;
        let names: Vec<_> = asked(spec).others.into_keys().collect();
        assert_eq!(names, ["example.com/gpu", "hugepages-2Mi"]);
    }

    #[test]
    fn a_resize_under_way_holds_the_larger_amount() {
        let spec: SpecText =
            serde_json::from_str(r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}"#).unwrap();
        let status = |condition: &str| -> StatusText {
            serde_json::from_str(&format!(
                r#"{{"containerStatuses":[{{"name":"a","resources":{{"requests":{{"cpu":"500m"}}}},
                   "allocatedResources":{{"cpu":"700m"}}}}],"conditions":[{condition}]}}"#
            ))
            .unwrap()
        };
        assert_eq!(requests(&spec, &status("")).cpu_milli, 1000);
        let infeasible = r#"{"type":"PodResizePending","reason":"Infeasible","status":"True"}"#;
        assert_eq!(requests(&spec, &status(infeasible)).cpu_milli, 700);
    }

    #[test]
    fn what_asks_for_nothing_is_assumed_to_use_something() {
        let spec = r#"{"containers":[{"name":"a"},{"name":"b","resources":{"requests":{"memory":"0"}}}]}"#;
        let text = serde_json::from_str(spec).unwrap();
        assert_eq!(assumed_use(&text, &StatusText::default()), (200, 200 << 20));
        assert_eq!(assumed_ask(&text), (200, 200 << 20));
        assert_eq!(asked(spec), Resources::default());
    }

    #[test]
    fn what_a_pod_asks_as_a_whole_counts_once_it_is_placed() {
        let spec = r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}},{"name":"b"}],
            "resources":{"requests":{"cpu":"3"}}}"#;
        let text: SpecText = serde_json::from_str(spec).unwrap();
        assert_eq!(assumed_use(&text, &StatusText::default()), (3000, 400 << 20));
        assert_eq!(assumed_ask(&text), (1100, 400 << 20), "kube-scheduler scores by the containers alone");
        let spec = r#"{"containers":[{"name":"a","resources":{"requests":{"memory":"1Mi"}}},{"name":"b"}],
            "resources":{"requests":{"cpu":"3"}}}"#;
        let text: SpecText = serde_json::from_str(spec).unwrap();
        assert_eq!(assumed_use(&text, &StatusText::default()), (3000, 1 << 20), "nothing is assumed beside a request");
    }

    #[test]
    fn what_a_resize_names_is_not_assumed_beside_it() {
        let spec = r#"{"containers":[{"name":"a"},{"name":"b"}],"resources":{"requests":{"cpu":"1500m"}}}"#;
        let status = r#"{"containerStatuses":[{"name":"a","resources":{},"allocatedResources":{"memory":"0"}}]}"#;
        let (spec, status) = (serde_json::from_str(spec).unwrap(), serde_json::from_str(status).unwrap());
        assert_eq!(assumed_use(&spec, &status), (1500, 0));
    }

    #[test]
    fn a_resize_of_the_whole_holds_the_larger_amount() {
        let spec: SpecText =
            serde_json::from_str(r#"{"containers":[{"name":"a"}],"resources":{"requests":{"cpu":"1"}}}"#).unwrap();
        let status = r#"{"resources":{"requests":{"cpu":"500m"}},"allocatedResources":{"cpu":"1500m"}}"#;
        assert_eq!(requests(&spec, &serde_json::from_str(status).unwrap()).cpu_milli, 1500);
    }
}
