//! Services and their endpoints as the proxy sees them: one entry per service port, one per address and port behind it.
//! Decoded once when an object arrives; nothing else of the objects is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort as Port, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Cidr;
use crate::nft::Protocol;

/// Which Service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services and slices with one of these labels are another proxy's, or nobody's.
const FOREIGN_LABELS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub namespace: String,
    pub service: String,
    /// Empty for a nameless port.
    pub port: String,
    pub protocol: Protocol,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    pub cluster_ips: Vec<IpAddr>,
    pub port: u16,
    pub node_port: Option<u16>,
    /// External addresses, as `spec.externalIPs` lists them.
    pub external_ips: Vec<IpAddr>,
    /// Addresses a load balancer sends unchanged to the node (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; everybody when empty.
    pub source_ranges: Vec<Cidr>,
    /// How long a client stays with its endpoint, if it does.
    pub affinity_seconds: Option<u32>,
    pub external_local: bool,
    pub internal_local: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub node: Option<String>,
    pub state: EndpointState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    Ready,
    /// Leaving, and still answering: used when nothing is ready.
    Leaving,
    Unready,
}

impl fmt::Display for PortName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}/{}", self.namespace, self.service, self.protocol.name(), self.port)
    }
}

/// The ports of a Service that this proxy serves: none of a headless one, of an external name, of another proxy's.
pub fn service_ports(service: &Service) -> BTreeMap<PortName, ServicePort> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    let cluster_ips = addresses(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    if is_foreign(&service.metadata) || cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return BTreeMap::new();
    }
    let ingress = load_balancer_addresses(service);
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let name = PortName {
                namespace: service.metadata.namespace.clone().unwrap_or_default(),
                service: service.metadata.name.clone().unwrap_or_default(),
                port: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref())?,
            };
            Some((name, service_port(spec, port, &cluster_ips, &ingress)?))
        })
        .collect()
}

fn is_foreign(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| FOREIGN_LABELS.iter().any(|label| labels.contains_key(*label)))
}

fn service_port(spec: &ServiceSpec, port: &Port, cluster_ips: &[IpAddr], ingress: &[IpAddr]) -> Option<ServicePort> {
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let seconds = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let ranges = spec.load_balancer_source_ranges.iter().flatten().filter_map(|text| text.trim().parse().ok());
    Some(ServicePort {
        cluster_ips: cluster_ips.to_vec(),
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0),
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips: ingress.to_vec(),
        source_ranges: ranges.collect(),
        affinity_seconds: sticky.then(|| seconds.map_or(AFFINITY_SECONDS_DEFAULT, |seconds| seconds.max(1) as u32)),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    })
}

fn load_balancer_addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let kept = ingress.filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
    let found: Vec<String> = kept.filter_map(|entry| entry.ip.clone()).collect();
    addresses(found.iter())
}

/// The Service a slice is of, as namespace and name.
pub fn slice_owner(slice: &EndpointSlice) -> Option<(String, String)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// What a slice says, by port. Slices of domain names say nothing to a proxy.
pub fn slice_endpoints(slice: &EndpointSlice) -> BTreeMap<PortName, Vec<Endpoint>> {
    let mut found: BTreeMap<PortName, Vec<Endpoint>> = BTreeMap::new();
    let Some((namespace, service)) = slice_owner(slice) else { return found };
    if slice.address_type == "FQDN" || is_foreign(&slice.metadata) {
        return found;
    }
    for port in slice.ports.iter().flatten() {
        let number = port.port.and_then(|number| u16::try_from(number).ok());
        let (Some(number), Some(protocol)) = (number, protocol(port.protocol.as_deref())) else { continue };
        let name = PortName {
            namespace: namespace.clone(),
            service: service.clone(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
        };
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| one_endpoint(endpoint, number));
        found.entry(name).or_default().extend(endpoints);
    }
    found
}

fn one_endpoint(endpoint: &SliceEndpoint, port: u16) -> Option<Endpoint> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let condition = |pick: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>, unset| {
        conditions.and_then(pick).unwrap_or(unset)
    };
    let ready = condition(|conditions| conditions.ready, true);
    let serving = condition(|conditions| conditions.serving, true);
    let terminating = condition(|conditions| conditions.terminating, false);
    let state = match (ready, serving && terminating) {
        (true, _) => EndpointState::Ready,
        (false, true) => EndpointState::Leaving,
        (false, false) => EndpointState::Unready,
    };
    Some(Endpoint { address, port, node: endpoint.node_name.clone(), state })
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Those that are addresses, each once, in order.
fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::EndpointPort;

    #[test]
    fn slices_and_services_marked_as_headless_or_as_another_proxys_say_nothing() {
        for (label, expected) in [("app", 1), (FOREIGN_LABELS[0], 0), (FOREIGN_LABELS[1], 0)] {
            let labels = [(SERVICE_NAME_LABEL.to_owned(), "s".to_owned()), (label.to_owned(), "x".to_owned())];
            let metadata = ObjectMeta { labels: Some(labels.into()), ..ObjectMeta::default() };
            let endpoint = SliceEndpoint { addresses: vec!["10.0.0.1".into()], ..SliceEndpoint::default() };
            let slice = EndpointSlice {
                metadata: metadata.clone(),
                address_type: "IPv4".into(),
                endpoints: Some(vec![endpoint]),
                ports: Some(vec![EndpointPort { port: Some(80), ..EndpointPort::default() }]),
            };
            assert_eq!(slice_endpoints(&slice).len(), expected, "slice with {label}");
            let ports = Some(vec![Port { port: 80, ..Port::default() }]);
            let spec = ServiceSpec { cluster_ip: Some("10.1.0.1".into()), ports, ..ServiceSpec::default() };
            let service = Service { metadata, spec: Some(spec), status: None };
            assert_eq!(service_ports(&service).len(), expected, "service with {label}");
        }
    }

    #[test]
    fn a_service_whose_condition_has_no_time_is_served_all_the_same() {
        let text = br#"{"kind":"Service","metadata":{"namespace":"n","name":"s"},"spec":{"clusterIP":"10.1.0.1",
            "ports":[{"port":80}]},"status":{"conditions":[{"type":"T","status":"True","lastTransitionTime":null}]}}"#;
        let object = coracle_meta::Object::new(text.to_vec().into(), 1).unwrap();
        assert_eq!(service_ports(&object.decode::<Service>().unwrap()).len(), 1);
    }
}
