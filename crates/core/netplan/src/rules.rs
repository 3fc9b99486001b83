//! Services as a packet filter: the semantics of kube-proxy's nftables mode, and NodePorts on the loopback address
//! besides. A new connection is looked up by address, protocol and port, and one of the endpoints' chains is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::Cidr;
use crate::conntrack::Targets;
use crate::nft::{
    Base, BaseKind, Content, Datum, Expr, Family, Field, Hook, Key, MARK_MASQUERADE, Protocol, Rule, Set, Side, Table,
    Test, Verdict,
};
use crate::service::{Endpoint, EndpointState, PortName, ServicePort};

/// What the filter is made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    pub table: &'a str,
    pub family: Family,
    pub node: &'a str,
    /// The pods of all nodes. Whoever else calls a cluster address is masqueraded; without it nobody is.
    pub pod_range: Option<Cidr>,
    /// Packets to its addresses that no Service has are dropped.
    pub service_range: Option<Cidr>,
    pub services: &'a BTreeMap<PortName, ServicePort>,
    pub endpoints: &'a BTreeMap<PortName, Vec<Endpoint>>,
}

const CLUSTER_IPS: &str = "cluster-ips";
const SERVICE_IPS: &str = "service-ips";
const SERVICE_NODEPORTS: &str = "service-nodeports";
const NO_ENDPOINT_SERVICES: &str = "no-endpoint-services";
const NO_ENDPOINT_NODEPORTS: &str = "no-endpoint-nodeports";
const FIREWALL_IPS: &str = "firewall-ips";
const MARK: &str = "mark-for-masquerade";
const REJECT: &str = "reject-chain";
const BY_ADDRESS: [Field; 3] = [Field::Destination, Field::Protocol, Field::DestinationPort];
const BY_PORT: [Field; 2] = [Field::Protocol, Field::DestinationPort];

/// The table that makes the Services work.
pub fn service_table(input: &Input<'_>) -> Table {
    let mut table = frame(input);
    let mut maps = Maps::default();
    for (name, service) in input.services {
        let of_family: Vec<&Endpoint> = input.endpoints.get(name).map_or(Vec::new(), |endpoints| {
            endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == input.family).collect()
        });
        let reach = Reach::of(service, &of_family, input.node);
        let one = One { input, name, service, reach };
        one.write(&mut table, &mut maps);
    }
    maps.put_into(&mut table);
    table
}

/// The chains and rules that do not depend on Services.
fn frame(input: &Input<'_>) -> Table {
    let mut table = Table::new(input.family, input.table);
    let jump = |chain: &str| Expr::Verdict(Verdict::Jump(chain.to_owned()));
    let on_new = |chain| vec![Expr::New, jump(chain)];
    let filter = |hook, priority| Base { kind: BaseKind::Filter, hook, priority };
    let nat = |hook, priority| Base { kind: BaseKind::Nat, hook, priority };

    table.base("filter-prerouting", filter(Hook::Prerouting, -110), vec![on_new("firewall-check")]);
    let local = vec![on_new("nodeport-endpoints-check"), on_new("service-endpoints-check")];
    table.base("filter-input", filter(Hook::Input, 0), local);
    let passing = vec![on_new("service-endpoints-check"), on_new("cluster-ips-check")];
    table.base("filter-forward", filter(Hook::Forward, 0), passing);
    let own = vec![on_new("service-endpoints-check"), on_new("firewall-check")];
    table.base("filter-output", filter(Hook::Output, -110), own);
    table.base("filter-output-post-dnat", filter(Hook::Output, -90), vec![on_new("cluster-ips-check")]);
    table.base("nat-prerouting", nat(Hook::Prerouting, -100), vec![vec![jump("services")]]);
    table.base("nat-output", nat(Hook::Output, -100), vec![vec![jump("services")]]);
    table.base("nat-postrouting", nat(Hook::Postrouting, 100), vec![vec![jump("masquerading")]]);

    table.chain(MARK, vec![vec![Expr::SetMark(MARK_MASQUERADE)]]);
    let marked = Expr::Mark(Test::Is, MARK_MASQUERADE);
    table.chain("masquerading", vec![vec![marked, Expr::FlipMark(MARK_MASQUERADE), Expr::Masquerade]]);
    table.chain(REJECT, vec![vec![Expr::Transport(Protocol::Tcp), Expr::Reset], vec![Expr::Reject]]);
    table.chain("firewall-check", vec![vec![Expr::Lookup(BY_ADDRESS.to_vec(), FIREWALL_IPS.into())]]);
    let none = vec![Expr::Lookup(BY_ADDRESS.to_vec(), NO_ENDPOINT_SERVICES.into())];
    table.chain("service-endpoints-check", vec![none]);
    let none = vec![Expr::Local(Side::Destination), Expr::Lookup(BY_PORT.to_vec(), NO_ENDPOINT_NODEPORTS.into())];
    table.chain("nodeport-endpoints-check", vec![none]);
    table.chain("cluster-ips-check", unused_addresses(input));
    table.chain("services", dispatch(input));
    table
}

fn unused_addresses(input: &Input<'_>) -> Vec<Rule> {
    let mut rules =
        vec![vec![Expr::In(vec![Field::Destination], CLUSTER_IPS.into()), Expr::Verdict(goto(REJECT.into()))]];
    if let Some(range) = input.service_range {
        rules.push(vec![Expr::Address(Side::Destination, Test::Is, range), Expr::Verdict(Verdict::Drop)]);
    }
    rules
}

fn dispatch(input: &Input<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(range) = input.pod_range {
        rules.push(vec![
            Expr::In(vec![Field::Destination], CLUSTER_IPS.into()),
            Expr::Address(Side::Source, Test::IsNot, range),
            Expr::Verdict(Verdict::Jump(MARK.into())),
        ]);
    }
    rules.push(vec![Expr::Lookup(BY_ADDRESS.to_vec(), SERVICE_IPS.into())]);
    rules.push(vec![Expr::Local(Side::Destination), Expr::Lookup(BY_PORT.to_vec(), SERVICE_NODEPORTS.into())]);
    rules
}

#[derive(Default)]
struct Maps {
    cluster_ips: BTreeSet<Key>,
    service_ips: BTreeMap<Key, Verdict>,
    service_nodeports: BTreeMap<Key, Verdict>,
    no_endpoint_services: BTreeMap<Key, Verdict>,
    no_endpoint_nodeports: BTreeMap<Key, Verdict>,
    firewall_ips: BTreeMap<Key, Verdict>,
}

impl Maps {
    fn put_into(self, table: &mut Table) {
        let keys = Set { key: vec![Field::Destination], content: Content::Keys(self.cluster_ips) };
        table.sets.insert(CLUSTER_IPS.into(), keys);
        let by_address = [
            (SERVICE_IPS, self.service_ips),
            (NO_ENDPOINT_SERVICES, self.no_endpoint_services),
            (FIREWALL_IPS, self.firewall_ips),
        ];
        for (name, map) in by_address {
            table.sets.insert(name.into(), Set { key: BY_ADDRESS.to_vec(), content: Content::Verdicts(map) });
        }
        let by_port =
            [(SERVICE_NODEPORTS, self.service_nodeports), (NO_ENDPOINT_NODEPORTS, self.no_endpoint_nodeports)];
        for (name, map) in by_port {
            table.sets.insert(name.into(), Set { key: BY_PORT.to_vec(), content: Content::Verdicts(map) });
        }
    }
}

/// Which endpoints a port's traffic may go to.
struct Reach<'a> {
    /// For a cluster-wide traffic policy.
    anywhere: Vec<&'a Endpoint>,
    /// For a local traffic policy.
    here: Vec<&'a Endpoint>,
    /// Neither has any.
    nowhere: bool,
}

impl<'a> Reach<'a> {
    /// Ready endpoints; when there are none, those leaving that still answer.
    fn of(service: &ServicePort, endpoints: &[&'a Endpoint], node: &str) -> Reach<'a> {
        let usable = |near: bool| {
            let among = |state| -> Vec<&'a Endpoint> {
                let in_reach = endpoints.iter().filter(|endpoint| !near || endpoint.node.as_deref() == Some(node));
                let mut found: Vec<&Endpoint> = in_reach.filter(|endpoint| endpoint.state == state).copied().collect();
                found.sort();
                found.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
                found
            };
            let ready = among(EndpointState::Ready);
            if ready.is_empty() { among(EndpointState::Leaving) } else { ready }
        };
        let anywhere = usable(false);
        let local = service.external_local || service.internal_local;
        let here = if local { usable(true) } else { Vec::new() };
        Reach { nowhere: anywhere.is_empty() && here.is_empty(), anywhere, here }
    }

    fn behind(&self, local: bool) -> &[&'a Endpoint] {
        if local { &self.here } else { &self.anywhere }
    }

    /// What happens to a packet that finds no endpoint: an error where there is none at all, silence where there is
    /// one elsewhere, so that a client tries again at another node.
    fn without(&self, local: bool) -> Option<Verdict> {
        if self.nowhere {
            return Some(Verdict::Goto(REJECT.into()));
        }
        self.behind(local).is_empty().then_some(Verdict::Drop)
    }
}

/// One service port on its way into the table.
struct One<'a> {
    input: &'a Input<'a>,
    name: &'a PortName,
    service: &'a ServicePort,
    reach: Reach<'a>,
}

impl One<'_> {
    fn write(&self, table: &mut Table, maps: &mut Maps) {
        self.write_endpoints(table);
        let internal = self.reach.without(self.service.internal_local);
        for address in self.of_family(&self.service.cluster_ips) {
            maps.cluster_ips.insert(vec![Datum::Address(address)]);
            let key = self.address_key(address);
            match &internal {
                None => drop(maps.service_ips.insert(key, goto(self.policy_chain(self.service.internal_local)))),
                Some(verdict) => drop(maps.no_endpoint_services.insert(key, verdict.clone())),
            }
        }
        self.write_external(table, maps);
    }

    fn write_external(&self, table: &mut Table, maps: &mut Maps) {
        let balanced = self.of_family(&self.service.load_balancer_ips);
        let mut outside = self.of_family(&self.service.external_ips);
        outside.extend(&balanced);
        let node_port = self.service.node_port.filter(|_| !self.of_family(&self.service.cluster_ips).is_empty());
        if outside.is_empty() && node_port.is_none() {
            return;
        }
        let node_key = node_port.map(|port| vec![Datum::Protocol(self.name.protocol), Datum::Port(port)]);
        let without = self.reach.without(self.service.external_local);
        // Callers on this cluster's nodes and pods are served although no endpoint is here.
        if !self.reach.nowhere && !self.reach.anywhere.is_empty() {
            let chain = self.chain_name("external");
            table.chain(chain.clone(), self.external_rules());
            for address in &outside {
                maps.service_ips.insert(self.address_key(*address), goto(chain.clone()));
            }
            if let Some(key) = node_key.clone() {
                maps.service_nodeports.insert(key, goto(chain));
            }
        }
        if let Some(verdict) = without {
            for address in &outside {
                maps.no_endpoint_services.insert(self.address_key(*address), verdict.clone());
            }
            if let Some(key) = node_key {
                maps.no_endpoint_nodeports.insert(key, verdict);
            }
        }
        self.write_firewall(table, maps, &balanced);
    }

    fn write_firewall(&self, table: &mut Table, maps: &mut Maps, balanced: &[IpAddr]) {
        let own = self.service.source_ranges.iter().filter(|range| range.is_ipv4() == is_ipv4(self.input.family));
        if self.service.source_ranges.is_empty() || balanced.is_empty() {
            return;
        }
        let chain = self.chain_name("firewall");
        let allowed = |range: Cidr| vec![Expr::Address(Side::Source, Test::Is, range), Expr::Verdict(Verdict::Return)];
        let mut rules: Vec<Rule> = own.map(|range| allowed(*range)).collect();
        // A node may be a client of its own load balancer's address.
        rules.extend(balanced.iter().map(|address| allowed(Cidr::host(*address))));
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        table.chain(chain.clone(), rules);
        for address in balanced {
            maps.firewall_ips.insert(self.address_key(*address), goto(chain.clone()));
        }
    }

    /// What comes from outside: masqueraded when it may travel on to another node, unchanged when it stays here.
    fn external_rules(&self) -> Vec<Rule> {
        let mark = || Expr::Verdict(Verdict::Jump(MARK.into()));
        let cluster = || Expr::Verdict(goto(self.policy_chain(false)));
        if !self.service.external_local {
            return vec![vec![mark()], vec![cluster()]];
        }
        let mut rules = Vec::new();
        if let Some(range) = self.input.pod_range {
            rules.push(vec![Expr::Address(Side::Source, Test::Is, range), cluster()]);
        }
        rules.push(vec![Expr::Local(Side::Source), mark()]);
        rules.push(vec![Expr::Local(Side::Source), cluster()]);
        if !self.reach.here.is_empty() {
            rules.push(vec![Expr::Verdict(goto(self.policy_chain(true)))]);
        }
        rules
    }

    fn write_endpoints(&self, table: &mut Table) {
        let local = self.service.internal_local || self.service.external_local;
        if !self.reach.anywhere.is_empty() {
            table.chain(self.policy_chain(false), self.spread(&self.reach.anywhere));
        }
        if local && !self.reach.here.is_empty() {
            table.chain(self.policy_chain(true), self.spread(&self.reach.here));
        }
        for endpoint in self.reach.anywhere.iter().chain(&self.reach.here) {
            let mut rules = vec![vec![
                Expr::Address(Side::Source, Test::Is, Cidr::host(endpoint.address)),
                Expr::Verdict(Verdict::Jump(MARK.into())),
            ]];
            let mut last = vec![Expr::Transport(self.name.protocol)];
            if let Some(seconds) = self.service.affinity_seconds {
                let set = self.affinity_set(endpoint, seconds);
                rules.push(vec![Expr::Remember(set.clone())]);
                table.sets.insert(set, Set { key: vec![Field::Source], content: Content::Remembered { seconds } });
            }
            last.push(Expr::Dnat(endpoint.address, endpoint.port));
            rules.push(last);
            table.chain(self.endpoint_chain(endpoint), rules);
        }
    }

    fn spread(&self, endpoints: &[&Endpoint]) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        if let Some(seconds) = self.service.affinity_seconds {
            rules.extend(endpoints.iter().map(|endpoint| {
                let known = Expr::In(vec![Field::Source], self.affinity_set(endpoint, seconds));
                vec![known, Expr::Verdict(goto(self.endpoint_chain(endpoint)))]
            }));
        }
        rules.push(vec![Expr::Spread(endpoints.iter().map(|one| goto(self.endpoint_chain(one))).collect())]);
        rules
    }

    fn of_family(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        addresses.iter().filter(|address| Family::of(**address) == self.input.family).copied().collect()
    }

    fn address_key(&self, address: IpAddr) -> Key {
        vec![Datum::Address(address), Datum::Protocol(self.name.protocol), Datum::Port(self.service.port)]
    }

    fn policy_chain(&self, local: bool) -> String {
        self.chain_name(if local { "local" } else { "service" })
    }

    fn chain_name(&self, prefix: &str) -> String {
        named(prefix, &self.name.to_string())
    }

    fn endpoint_chain(&self, endpoint: &Endpoint) -> String {
        named("endpoint", &self.endpoint_text(endpoint))
    }

    /// The time is part of the name, because it is part of the set's shape.
    fn affinity_set(&self, endpoint: &Endpoint, seconds: u32) -> String {
        named("affinity", &format!("{seconds}/{}", self.endpoint_text(endpoint)))
    }

    fn endpoint_text(&self, endpoint: &Endpoint) -> String {
        let address = endpoint.address.to_string().replace(':', ".");
        format!("{}__{address}/{}", self.name, endpoint.port)
    }
}

fn goto(chain: String) -> Verdict {
    Verdict::Goto(chain)
}

fn is_ipv4(family: Family) -> bool {
    family == Family::Ipv4
}

/// A name of at most what the kernel takes, told apart by a hash and telling by its text.
fn named(prefix: &str, text: &str) -> String {
    const TEXT_BYTES_MAX: usize = 200;
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let end = text.len().min(TEXT_BYTES_MAX);
    format!("{prefix}-{:08X}-{}", (hash ^ (hash >> 32)) as u32, text.get(..end).unwrap_or_default())
}

/// The service addresses whose UDP flows may be stale, with the endpoints that are right: a flow to `address` and
/// `port` that goes anywhere else is to be forgotten by connection tracking.
pub fn udp_targets(input: &Input<'_>) -> Targets {
    let mut targets = Targets::new();
    for (name, service) in input.services.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
        let endpoints = input.endpoints.get(name).map_or(&[][..], |endpoints| endpoints);
        let of_family: Vec<&Endpoint> =
            endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == input.family).collect();
        let reach = Reach::of(service, &of_family, input.node);
        let right: BTreeSet<IpAddr> =
            reach.anywhere.iter().chain(&reach.here).map(|endpoint| endpoint.address).collect();
        if right.is_empty() {
            continue;
        }
        let addresses = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
        for address in addresses.filter(|address| Family::of(**address) == input.family) {
            targets.insert((*address, service.port), right.clone());
        }
    }
    targets
}

#[cfg(test)]
mod tests;
