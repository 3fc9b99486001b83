//! Amounts of resources, and what a pod asks for. Rules: kube-scheduler `PodRequests`.

use std::collections::BTreeMap;

use coracle_meta::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a container that asks for nothing is taken to use when nodes are scored.
const CPU_MILLI_ASSUMED: i64 = 100;
const MEMORY_ASSUMED: i64 = 200 << 20;

/// CPU in thousandths, everything else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    pub fn from_list(list: &BTreeMap<String, Text>) -> Resources {
        let mut resources = Resources::default();
        for (name, text) in list {
            // The server has validated the quantity; what does not parse counts as nothing.
            let Ok(quantity) = text.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.milli(),
                "memory" => resources.memory = quantity.units(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.units(),
                "pods" => (),
                other => {
                    resources.others.insert(other.to_owned(), quantity.units());
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.cpu_milli += other.cpu_milli;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.cpu_milli -= other.cpu_milli;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() -= amount;
        }
    }

    /// The larger of the two, resource by resource.
    pub fn raise_to(&mut self, other: &Resources) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.others {
            let most = self.others.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

/// What a pod asks for: its containers and sidecars together, or its hungriest moment of initialisation if that is
/// more, and its overhead.
pub fn requests(spec: &PodSpec) -> Resources {
    total(spec, |container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.map(Resources::from_list).unwrap_or_default()
    })
}

/// As `requests`, but with an assumed use for each container that asks for no CPU or memory: for scores alone.
pub fn assumed_use(spec: &PodSpec) -> Resources {
    total(spec, |container| {
        let empty = BTreeMap::new();
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref()).unwrap_or(&empty);
        let mut asked = Resources::from_list(requests);
        if !requests.contains_key("cpu") {
            asked.cpu_milli = CPU_MILLI_ASSUMED;
        }
        if !requests.contains_key("memory") {
            asked.memory = MEMORY_ASSUMED;
        }
        asked
    })
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut highest = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        highest.raise_to(&moment);
    }
    running.raise_to(&highest);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let level = Resources::from_list(pod_level);
        running.cpu_milli = if pod_level.contains_key("cpu") { level.cpu_milli } else { running.cpu_milli };
        running.memory = if pod_level.contains_key("memory") { level.memory } else { running.memory };
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> PodSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_hungriest_moment_counts() {
        let spec = spec(
            r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"100m"}}}],
                "initContainers":[
                  {"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"50m"}}},
                  {"name":"i","resources":{"requests":{"cpu":"1"}}}]}"#,
        );
        assert_eq!(requests(&spec).cpu_milli, 1050);
    }

    #[test]
    fn what_asks_for_nothing_is_assumed_to_use_something() {
        let spec = spec(r#"{"containers":[{"name":"a"},{"name":"b","resources":{"requests":{"memory":"0"}}}]}"#);
        let assumed = assumed_use(&spec);
        assert_eq!((assumed.cpu_milli, assumed.memory), (200, 200 << 20));
        assert_eq!(requests(&spec), Resources::default());
    }
}
