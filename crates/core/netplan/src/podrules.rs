//! The packet filter of the pod network itself: what leaves the pods' range wears the node's address, what only the
//! node may say to itself stays out, and ports of the node that pods asked for lead to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Cidr;
use crate::nft::{
    Base, BaseKind, Content, Datum, Expr, Family, Field, Hook, MARK_MASQUERADE, Protocol, Rule, Set, Side, Table, Test,
    Verdict, Way,
};

/// Ahead of connection tracking, where answers translated back to a loopback address do not show yet.
const BEFORE_TRACKING: i32 = -300;
const DESTINATION_TRANSLATION: i32 = -100;
const SOURCE_TRANSLATION: i32 = 100;

const HOST_PORTS: &str = "host-ports";
const HOST_ADDRESS_PORTS: &str = "host-address-ports";
const HOST_PORT_DISPATCH: &str = "host-port-dispatch";
const BY_ADDRESS: [Field; 3] = [Field::Destination, Field::Protocol, Field::DestinationPort];
const BY_PORT: [Field; 2] = [Field::Protocol, Field::DestinationPort];

/// What the filter is made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    pub table: &'a str,
    pub bridge: &'a str,
    /// The pods of this node.
    pub node_range: Cidr,
    /// The pods of all nodes.
    pub cluster_range: Cidr,
    pub host_ports: &'a [HostPort],
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: Protocol,
    /// Any address of the node where it is absent.
    pub host_address: Option<IpAddr>,
    pub host_port: u16,
    pub pod_address: IpAddr,
    pub pod_port: u16,
}

/// The table for the pods behind the bridge.
pub fn pod_table(input: &Input<'_>) -> Table {
    let mut table = Table::new(Family::of(input.node_range.network()), input.table);
    let from_bridge = || Expr::Interface(Way::In, Test::Is, input.bridge.to_owned());
    let marked = vec![Expr::Mark(Test::Is, MARK_MASQUERADE), Expr::FlipMark(MARK_MASQUERADE), Expr::Masquerade];
    let outward = vec![
        Expr::Address(Side::Source, Test::Is, input.node_range),
        Expr::Address(Side::Destination, Test::IsNot, input.cluster_range),
        Expr::Interface(Way::Out, Test::IsNot, input.bridge.to_owned()),
        Expr::Masquerade,
    ];
    table.base("nat-postrouting", at(BaseKind::Nat, Hook::Postrouting, SOURCE_TRANSLATION), vec![marked, outward]);
    if let Some(loopback) = loopback(table.family) {
        let dropped = |side| vec![from_bridge(), Expr::Address(side, Test::Is, loopback), Expr::Verdict(Verdict::Drop)];
        table.base(
            "filter-prerouting",
            at(BaseKind::Filter, Hook::Prerouting, BEFORE_TRACKING),
            vec![dropped(Side::Destination), dropped(Side::Source)],
        );
    }
    add_host_ports(&mut table, input.host_ports);
    table
}

fn at(kind: BaseKind, hook: Hook, priority: i32) -> Base {
    Base { kind, hook, priority }
}

fn loopback(family: Family) -> Option<Cidr> {
    (family == Family::Ipv4).then(|| Cidr::new([127, 0, 0, 0].into(), 8).expect("8 bits fit an IPv4 address"))
}

/// A port asked for at one address goes before the same port asked for at all of them.
fn add_host_ports(table: &mut Table, ports: &[HostPort]) {
    let family = table.family;
    let (mut by_address, mut by_port) = (BTreeMap::new(), BTreeMap::new());
    for port in ports.iter().filter(|port| Family::of(port.pod_address) == family) {
        let chain = chain_name(port);
        let verdict = Verdict::Goto(chain.clone());
        let (protocol, number) = (Datum::Protocol(port.protocol), Datum::Port(port.host_port));
        match port.host_address {
            Some(address) if Family::of(address) != family => continue,
            Some(address) => drop(by_address.insert(vec![Datum::Address(address), protocol, number], verdict)),
            None => drop(by_port.insert(vec![protocol, number], verdict)),
        }
        table.chain(chain, to_pod(port, family));
    }
    table
        .sets
        .insert(HOST_ADDRESS_PORTS.into(), Set { key: BY_ADDRESS.to_vec(), content: Content::Verdicts(by_address) });
    table.sets.insert(HOST_PORTS.into(), Set { key: BY_PORT.to_vec(), content: Content::Verdicts(by_port) });
    table.chain(
        HOST_PORT_DISPATCH,
        vec![
            vec![Expr::Lookup(BY_ADDRESS.to_vec(), HOST_ADDRESS_PORTS.into())],
            vec![Expr::Lookup(BY_PORT.to_vec(), HOST_PORTS.into())],
        ],
    );
    for (name, hook) in [("nat-prerouting", Hook::Prerouting), ("nat-output", Hook::Output)] {
        let local = vec![Expr::Local(Side::Destination), Expr::Verdict(Verdict::Jump(HOST_PORT_DISPATCH.into()))];
        table.base(name, at(BaseKind::Nat, hook, DESTINATION_TRANSLATION), vec![local]);
    }
}

/// The pod answers the node itself where the caller's address would not lead back through it.
fn to_pod(port: &HostPort, family: Family) -> Vec<Rule> {
    let masqueraded = |range| vec![Expr::Address(Side::Source, Test::Is, range), Expr::SetMark(MARK_MASQUERADE)];
    let mut rules: Vec<Rule> = vec![masqueraded(Cidr::host(port.pod_address))];
    rules.extend(loopback(family).map(masqueraded));
    rules.push(vec![Expr::Transport(port.protocol), Expr::Dnat(port.pod_address, port.pod_port)]);
    rules
}

fn chain_name(port: &HostPort) -> String {
    let address = port.host_address.map_or("any".to_owned(), |address| address.to_string().replace(':', "."));
    format!("host-port-{}-{address}-{}", port.protocol.name(), port.host_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_address: Option<&str>, pod: &str) -> HostPort {
        HostPort {
            protocol: Protocol::Tcp,
            host_address: host_address.map(|address| address.parse().unwrap()),
            host_port: 8080,
            pod_address: pod.parse().unwrap(),
            pod_port: 80,
        }
    }

    fn table(ports: &[HostPort]) -> Table {
        let (node_range, cluster_range) = ("10.1.0.0/24".parse().unwrap(), "10.1.0.0/16".parse().unwrap());
        pod_table(&Input { table: "t", bridge: "b", node_range, cluster_range, host_ports: ports })
    }

    #[test]
    fn one_port_at_two_addresses_leads_to_two_pods() {
        let ports = [port(Some("127.0.0.1"), "10.1.0.2"), port(Some("192.0.2.2"), "10.1.0.3"), port(None, "10.1.0.4")];
        let table = table(&ports);
        let Content::Verdicts(by_address) = &table.sets[HOST_ADDRESS_PORTS].content else { panic!("a map") };
        let Content::Verdicts(by_port) = &table.sets[HOST_PORTS].content else { panic!("a map") };
        assert_eq!((by_address.len(), by_port.len()), (2, 1));
        for (name, pod) in [("127.0.0.1", "10.1.0.2"), ("192.0.2.2", "10.1.0.3"), ("any", "10.1.0.4")] {
            let rules = &table.chains[&format!("host-port-tcp-{name}-8080")].rules;
            let last = rules.last().unwrap();
            assert_eq!(last[1], Expr::Dnat(pod.parse().unwrap(), 80));
        }
    }

    #[test]
    fn a_port_let_go_changes_nothing_else() {
        use crate::nft::{Command, diff};
        let commands = diff(&table(&[port(None, "10.1.0.4")]), &table(&[]));
        let kept = commands.iter().all(|command| {
            matches!(command, Command::DeleteElements(..) | Command::FlushChain(_) | Command::DeleteChain(_))
        });
        assert!(kept && commands.len() == 3, "{commands:?}");
    }
}
