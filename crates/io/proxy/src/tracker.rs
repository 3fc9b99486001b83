//! The Services and endpoints as last told, in the proxy's own small form. An object is decoded once, when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_meta::{Object, Resource};
use coracle_netplan::service::{Endpoint, PortName, ServicePort, service_ports, slice_endpoints};
use coracle_reconcile::view::resource_of;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// What the proxy follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Followed {
    Services,
    Slices,
}

impl Followed {
    pub const ALL: [Followed; 2] = [Followed::Services, Followed::Slices];

    pub fn resource(self) -> Resource {
        match self {
            Followed::Services => resource_of::<Service>(),
            Followed::Slices => resource_of::<EndpointSlice>(),
        }
    }
}

/// An object by what it is, its namespace and its name.
pub type ObjectKey = (Followed, String, String);

#[derive(Debug, Default)]
pub struct Tracker {
    by_service: BTreeMap<(String, String), BTreeMap<PortName, ServicePort>>,
    by_slice: BTreeMap<(String, String), BTreeMap<PortName, Vec<Endpoint>>>,
    pub services: BTreeMap<PortName, ServicePort>,
    pub endpoints: BTreeMap<PortName, Vec<Endpoint>>,
}

impl Tracker {
    /// Takes in the newest version of objects, `None` for one that is gone.
    pub fn apply(&mut self, changes: BTreeMap<ObjectKey, Option<Arc<Object>>>) {
        for ((followed, namespace, name), object) in changes {
            match followed {
                Followed::Services => self.apply_service((namespace, name), object),
                Followed::Slices => self.apply_slice((namespace, name), object),
            }
        }
    }

    fn apply_service(&mut self, key: (String, String), object: Option<Arc<Object>>) {
        for name in self.by_service.remove(&key).unwrap_or_default().keys() {
            self.services.remove(name);
        }
        let ports = decoded::<Service>(object).map(|service| service_ports(&service)).unwrap_or_default();
        self.services.extend(ports.clone());
        if !ports.is_empty() {
            self.by_service.insert(key, ports);
        }
    }

    fn apply_slice(&mut self, key: (String, String), object: Option<Arc<Object>>) {
        let before = self.by_slice.remove(&key).unwrap_or_default();
        let after = decoded::<EndpointSlice>(object).map(|slice| slice_endpoints(&slice)).unwrap_or_default();
        let touched: Vec<PortName> = before.into_keys().chain(after.keys().cloned()).collect();
        if !after.is_empty() {
            self.by_slice.insert(key, after);
        }
        for name in touched {
            // A Service's slices are few; they are of its namespace.
            let first = (name.namespace.clone(), String::new());
            let slices = self.by_slice.range(first..).take_while(|((namespace, _), _)| *namespace == name.namespace);
            let all: Vec<Endpoint> = slices.filter_map(|(_, ports)| ports.get(&name)).flatten().cloned().collect();
            if all.is_empty() {
                self.endpoints.remove(&name);
            } else {
                self.endpoints.insert(name, all);
            }
        }
    }
}

fn decoded<T: serde::de::DeserializeOwned + Send + Sync + 'static>(object: Option<Arc<Object>>) -> Option<Arc<T>> {
    let object = object?;
    match object.decode::<T>() {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::warn!(object = ?object, %error, "the proxy cannot read this object and goes on without it");
            None
        }
    }
}
