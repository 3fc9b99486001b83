//! What of Services and slices names are made of.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::Name;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneService {
    pub kind: Kind,
    pub ports: Vec<ZonePort>,
    /// Whether endpoints that are not ready have names too.
    pub publish_unready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With addresses of its own.
    Addressed(Vec<IpAddr>),
    /// Its endpoints' addresses are its own.
    Headless,
    /// Another name for this one.
    External(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZonePort {
    /// Empty for a nameless port.
    pub name: String,
    /// Lower case, `tcp`.
    pub protocol: String,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneEndpoint {
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<String>,
    pub ready: bool,
    pub ports: Vec<ZonePort>,
}

/// `None` for a Service that has no name to give: without an address and not headless.
pub fn project_service(service: &Service) -> Option<ZoneService> {
    let spec = service.spec.as_ref()?;
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        Kind::External(spec.external_name.as_deref()?.trim_end_matches('.').to_ascii_lowercase())
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Kind::Headless
    } else {
        let texts = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return None;
        }
        Kind::Addressed(addresses)
    };
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| zone_port(port.name.as_deref(), port.protocol.as_deref(), Some(port.port)));
    let publish_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    Some(ZoneService { kind, ports: ports.collect(), publish_unready })
}

/// The Service a slice is of, and its endpoints. `None` for a slice of no Service.
pub fn project_slice(slice: &EndpointSlice) -> Option<(Name, Vec<ZoneEndpoint>)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    let owner = (slice.metadata.namespace.clone().unwrap_or_default(), service.clone());
    let ports: Vec<ZonePort> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| zone_port(port.name.as_deref(), port.protocol.as_deref(), port.port))
        .collect();
    let endpoints = slice.endpoints.iter().flatten().map(|endpoint| ZoneEndpoint {
        addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        hostname: endpoint.hostname.as_ref().map(|name| name.to_ascii_lowercase()),
        ready: endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
        ports: ports.clone(),
    });
    Some((owner, endpoints.collect()))
}

fn zone_port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<ZonePort> {
    Some(ZonePort {
        name: name.unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number?).ok()?,
    })
}
