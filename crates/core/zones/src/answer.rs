//! Questions and answers. A name that exists without the record asked for is told apart from a name that does not
//! exist: resolvers go on searching only after the latter.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::records::{Kind, ZoneEndpoint, ZonePort, ZoneService};
use crate::{Name, Zone};

/// The version of the specification, as `dns-version` tells it.
const VERSION: &str = "1.1.0";

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    A,
    Aaaa,
    Srv,
    Ptr,
    Txt,
    Cname,
    Soa,
    Any,
    /// A type that no name here has.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Found {
        records: Vec<Record>,
        /// The addresses of names in `records`.
        extra: Vec<Record>,
    },
    /// The name exists and has no such record.
    NoData,
    /// There is no such name.
    NoName,
    /// The name is not of this zone.
    Foreign,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Without a dot at the end.
    pub name: String,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    Address(IpAddr),
    Cname(String),
    Srv {
        weight: u16,
        port: u16,
        target: String,
    },
    Ptr(String),
    Txt(String),
    /// The zone's own; the reader fills in its times.
    Soa,
}

impl Zone {
    /// Answers for a name in lower case without a dot at the end.
    pub fn answer(&self, name: &str, query: Query) -> Answer {
        if let Some(address) = reverse_address(name) {
            return self.reverse(name, address, query);
        }
        let Some(rest) = below(name, &self.domain) else { return Answer::Foreign };
        let labels: Vec<&str> = rest.split('.').filter(|label| !label.is_empty()).rev().collect();
        match labels[..] {
            [] if matches!(query, Query::Soa | Query::Any) => found(vec![record(name, Data::Soa)]),
            [] | ["svc"] | ["pod"] => Answer::NoData,
            ["dns-version"] if matches!(query, Query::Txt | Query::Any) => {
                found(vec![record(name, Data::Txt(VERSION.into()))])
            }
            ["dns-version"] => Answer::NoData,
            ["pod", namespace] | ["svc", namespace] => self.namespace(namespace),
            ["pod", namespace, dashed] => self.pod(name, namespace, dashed, query),
            ["svc", namespace, service, ref inner @ ..] => {
                let key = (namespace.to_owned(), service.to_owned());
                match self.services.get(&key) {
                    Some(found) => One { zone: self, key, service: found, name }.answer(inner, query),
                    None => Answer::NoName,
                }
            }
            _ => Answer::NoName,
        }
    }

    /// A namespace is known by its Services: it has no records, but names below it.
    fn namespace(&self, namespace: &str) -> Answer {
        if self.has_namespace(namespace) { Answer::NoData } else { Answer::NoName }
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        let from = (namespace.to_owned(), String::new());
        self.services.range(from..).next().is_some_and(|((first, _), _)| first == namespace)
    }

    /// A pod's name is made of its address, so it is answered without asking for the pod.
    fn pod(&self, name: &str, namespace: &str, dashed: &str, query: Query) -> Answer {
        let Some(address) = undashed(dashed).filter(|_| !namespace.is_empty()) else { return Answer::NoName };
        addresses(name, [address].into_iter(), query)
    }

    fn reverse(&self, name: &str, address: IpAddr, query: Query) -> Answer {
        let mut names = BTreeSet::new();
        for (key, service) in &self.services {
            match &service.kind {
                Kind::Addressed(own) if own.contains(&address) => drop(names.insert(self.service_name(key))),
                Kind::Headless => {
                    let one = One { zone: self, key: key.clone(), service, name };
                    let here = one.endpoints().filter(|endpoint| endpoint.addresses.contains(&address));
                    names.extend(
                        here.filter(|one| one.hostname.is_some()).map(|endpoint| {
                            format!("{}.{}", endpoint_label(endpoint, address), self.service_name(key))
                        }),
                    );
                }
                _ => {}
            }
        }
        match query {
            _ if names.is_empty() => Answer::Foreign,
            Query::Ptr | Query::Any => found(names.into_iter().map(|target| record(name, Data::Ptr(target))).collect()),
            _ => Answer::NoData,
        }
    }

    fn service_name(&self, (namespace, service): &Name) -> String {
        format!("{service}.{namespace}.svc.{}", self.domain)
    }
}

/// One Service that was asked for.
struct One<'a> {
    zone: &'a Zone,
    key: Name,
    service: &'a ZoneService,
    /// The whole name asked for.
    name: &'a str,
}

impl One<'_> {
    /// `inner` are the labels before the Service's, from right to left.
    fn answer(&self, inner: &[&str], query: Query) -> Answer {
        match (inner, &self.service.kind) {
            ([], Kind::External(target)) => found(vec![record(self.name, Data::Cname(target.clone()))]),
            (_, Kind::External(_)) => Answer::NoName,
            ([], _) if matches!(query, Query::Srv) => self.ports(|_| true),
            ([], Kind::Addressed(own)) => addresses(self.name, own.iter().copied(), query),
            ([], Kind::Headless) => {
                let mut own: Vec<IpAddr> = self.endpoints().flat_map(|one| one.addresses.clone()).collect();
                own.sort();
                own.dedup();
                // Headless and without endpoints the name resolves to nothing, as it does upstream.
                if own.is_empty() { Answer::NoName } else { addresses(self.name, own.into_iter(), query) }
            }
            ([protocol], _) if protocol.starts_with('_') => self.protocol(protocol),
            ([protocol, port], _) if protocol.starts_with('_') && port.starts_with('_') => {
                let asked = |one: &ZonePort| one.name == port[1..] && one.protocol == protocol[1..];
                match (self.ports(asked), query) {
                    (answer @ Answer::Found { .. }, Query::Srv | Query::Any) => answer,
                    (Answer::Found { .. }, _) => Answer::NoData,
                    (answer, _) => answer,
                }
            }
            ([label], Kind::Headless) => self.endpoint(label, query),
            _ => Answer::NoName,
        }
    }

    /// `_tcp` has no records, but names below it.
    fn protocol(&self, protocol: &str) -> Answer {
        let is_used = self.service.ports.iter().any(|port| port.protocol == protocol[1..]);
        if is_used { Answer::NoData } else { Answer::NoName }
    }

    fn endpoint(&self, label: &str, query: Query) -> Answer {
        let mut own: Vec<IpAddr> = Vec::new();
        for endpoint in self.endpoints() {
            own.extend(endpoint.addresses.iter().filter(|address| endpoint_label(endpoint, **address) == label));
        }
        own.sort();
        own.dedup();
        if own.is_empty() { Answer::NoName } else { addresses(self.name, own.into_iter(), query) }
    }

    fn ports(&self, asked: impl Fn(&ZonePort) -> bool) -> Answer {
        let own_name = self.zone.service_name(&self.key);
        let mut targets: BTreeSet<(u16, String, Vec<IpAddr>)> = BTreeSet::new();
        match &self.service.kind {
            Kind::Addressed(own) => {
                let ports = self.service.ports.iter().filter(|port| asked(port));
                targets.extend(ports.map(|port| (port.number, own_name.clone(), own.clone())));
            }
            Kind::Headless => {
                for endpoint in self.endpoints() {
                    for (port, address) in endpoint
                        .ports
                        .iter()
                        .filter(|port| asked(port))
                        .flat_map(|port| endpoint.addresses.iter().map(move |address| (port, *address)))
                    {
                        let target = format!("{}.{own_name}", endpoint_label(endpoint, address));
                        targets.insert((port.number, target, vec![address]));
                    }
                }
            }
            Kind::External(_) => {}
        }
        if targets.is_empty() {
            return Answer::NoName;
        }
        let weight = (100 / targets.len()).max(1) as u16;
        let mut extra = BTreeSet::new();
        let mut records = Vec::new();
        for (port, target, own) in targets {
            extra.extend(own.into_iter().map(|address| record(&target, Data::Address(address))));
            records.push(record(self.name, Data::Srv { weight, port, target }));
        }
        Answer::Found { records, extra: extra.into_iter().collect() }
    }

    fn endpoints(&self) -> impl Iterator<Item = &ZoneEndpoint> {
        let all = self.service.publish_unready;
        self.zone.endpoints(&self.key).filter(move |endpoint| endpoint.ready || all)
    }
}

/// An endpoint's own label: its hostname, or its address with dashes.
fn endpoint_label(endpoint: &ZoneEndpoint, address: IpAddr) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"))
}

fn addresses(name: &str, own: impl Iterator<Item = IpAddr>, query: Query) -> Answer {
    let wanted = own.filter(|address| match query {
        Query::A => address.is_ipv4(),
        Query::Aaaa => address.is_ipv6(),
        Query::Any => true,
        _ => false,
    });
    let records: Vec<Record> = wanted.map(|address| record(name, Data::Address(address))).collect();
    if records.is_empty() { Answer::NoData } else { found(records) }
}

fn found(records: Vec<Record>) -> Answer {
    Answer::Found { records, extra: Vec::new() }
}

fn record(name: &str, data: Data) -> Record {
    Record { name: name.to_owned(), data }
}

/// What stands before the domain, empty for the domain itself.
fn below<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

fn undashed(dashed: &str) -> Option<IpAddr> {
    let as_v4: Option<Ipv4Addr> = dashed.replace('-', ".").parse().ok();
    let as_v6 = || -> Option<Ipv6Addr> { dashed.replace('-', ":").parse().ok() };
    as_v4.map(IpAddr::V4).or_else(|| as_v6().map(IpAddr::V6))
}

/// The address of a name in `in-addr.arpa` or `ip6.arpa`.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = rest.split('.').rev().collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    u128::from_str_radix(&nibbles.concat(), 16).ok().map(|number| IpAddr::V6(number.into()))
}

#[cfg(test)]
mod tests;
