//! Whether the filter has kube-proxy's meaning.

use super::*;
use crate::nft::{diff, encode};

struct World {
    services: BTreeMap<PortName, ServicePort>,
    endpoints: BTreeMap<PortName, Vec<Endpoint>>,
}

fn name(protocol: Protocol) -> PortName {
    PortName { namespace: "default".into(), service: "web".into(), port: "http".into(), protocol }
}

fn endpoint(address: &str, node: &str, state: EndpointState) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), port: 8080, node: Some(node.into()), state }
}

fn world(endpoints: Vec<Endpoint>) -> World {
    let service = ServicePort {
        cluster_ips: vec!["10.96.0.20".parse().unwrap()],
        port: 80,
        node_port: Some(30080),
        ..ServicePort::default()
    };
    World {
        services: BTreeMap::from([(name(Protocol::Tcp), service)]),
        endpoints: BTreeMap::from([(name(Protocol::Tcp), endpoints)]),
    }
}

impl World {
    fn service(&mut self) -> &mut ServicePort {
        self.services.get_mut(&name(Protocol::Tcp)).unwrap()
    }

    fn table(&self) -> Table {
        service_table(&Input {
            table: "coracle-test",
            family: Family::Ipv4,
            node: "here",
            pod_range: Some("10.42.0.0/16".parse().unwrap()),
            service_range: Some("10.96.0.0/16".parse().unwrap()),
            services: &self.services,
            endpoints: &self.endpoints,
        })
    }
}

fn verdicts<'a>(table: &'a Table, set: &str) -> Vec<&'a Verdict> {
    match &table.sets[set].content {
        Content::Verdicts(map) => map.values().collect(),
        _ => panic!("{set} is no map"),
    }
}

fn target<'a>(table: &'a Table, set: &str) -> &'a str {
    match verdicts(table, set)[..] {
        [Verdict::Goto(chain)] => chain,
        ref other => panic!("{set} has {other:?}"),
    }
}

fn spread(table: &Table, chain: &str) -> Vec<IpAddr> {
    let Some(Expr::Spread(choices)) = table.chains[chain].rules.last().and_then(|rule| rule.last()) else {
        panic!("{chain} does not spread")
    };
    let address_of = |choice: &Verdict| match choice {
        Verdict::Goto(chain) => table.chains[chain].rules.iter().flatten().find_map(|expr| match expr {
            Expr::Dnat(address, 8080) => Some(*address),
            _ => None,
        }),
        _ => None,
    };
    choices.iter().filter_map(address_of).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

use EndpointState::{Leaving, Ready, Unready};

#[test]
fn load_goes_to_every_ready_endpoint() {
    let table = world(vec![
        endpoint("10.42.0.2", "here", Ready),
        endpoint("10.42.1.2", "there", Ready),
        endpoint("10.42.0.3", "here", Unready),
        endpoint("10.42.0.4", "here", Leaving),
    ])
    .table();
    let chain = target(&table, SERVICE_IPS);
    assert_eq!(spread(&table, chain), addresses(&["10.42.0.2", "10.42.1.2"]));
    assert!(target(&table, SERVICE_NODEPORTS).starts_with("external-"));
    assert!(verdicts(&table, NO_ENDPOINT_SERVICES).is_empty());
}

#[test]
fn leaving_endpoints_serve_while_none_is_ready() {
    let table = world(vec![endpoint("10.42.0.3", "here", Unready), endpoint("10.42.0.4", "here", Leaving)]).table();
    assert_eq!(spread(&table, target(&table, SERVICE_IPS)), addresses(&["10.42.0.4"]));
}

#[test]
fn a_service_without_endpoints_refuses() {
    let table = world(vec![endpoint("10.42.0.3", "here", Unready)]).table();
    assert_eq!(target(&table, NO_ENDPOINT_SERVICES), REJECT);
    assert_eq!(target(&table, NO_ENDPOINT_NODEPORTS), REJECT);
    assert!(verdicts(&table, SERVICE_IPS).is_empty() && verdicts(&table, SERVICE_NODEPORTS).is_empty());
}

#[test]
fn local_traffic_stays_on_the_node_unmasqueraded() {
    let mut world = world(vec![endpoint("10.42.0.2", "here", Ready), endpoint("10.42.1.2", "there", Ready)]);
    world.service().external_local = true;
    world.service().internal_local = true;
    let table = world.table();
    assert_eq!(spread(&table, target(&table, SERVICE_IPS)), addresses(&["10.42.0.2"]));
    let external = &table.chains[target(&table, SERVICE_NODEPORTS)];
    let Some(Expr::Verdict(Verdict::Goto(last))) = external.rules.last().unwrap().last() else { panic!() };
    assert_eq!(spread(&table, last), addresses(&["10.42.0.2"]));
    assert_eq!(external.rules.last().unwrap().len(), 1);
}

#[test]
fn local_traffic_without_an_endpoint_here_is_dropped() {
    let mut world = world(vec![endpoint("10.42.1.2", "there", Ready)]);
    world.service().internal_local = true;
    world.service().external_local = true;
    let table = world.table();
    assert_eq!(verdicts(&table, NO_ENDPOINT_SERVICES), [&Verdict::Drop]);
    assert_eq!(verdicts(&table, NO_ENDPOINT_NODEPORTS), [&Verdict::Drop]);
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let mut world = world(vec![endpoint("10.42.0.2", "here", Ready), endpoint("10.42.0.3", "here", Ready)]);
    world.service().affinity_seconds = Some(60);
    let table = world.table();
    let remembered = table.sets.values().filter(|set| set.content == Content::Remembered { seconds: 60 }).count();
    assert_eq!(remembered, 2);
    assert_eq!(table.chains[target(&table, SERVICE_IPS)].rules.len(), 3);
}

#[test]
fn source_ranges_guard_the_load_balancer_only() {
    let mut world = world(vec![endpoint("10.42.0.2", "here", Ready)]);
    world.service().load_balancer_ips = addresses(&["203.0.113.7"]);
    world.service().source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let table = world.table();
    assert_eq!(verdicts(&table, FIREWALL_IPS).len(), 1);
    assert_eq!(verdicts(&table, SERVICE_IPS).len(), 2);
    let firewall = &table.chains[target(&table, FIREWALL_IPS)];
    assert_eq!(firewall.rules.last(), Some(&vec![Expr::Verdict(Verdict::Drop)]));
}

#[test]
fn an_unchanged_world_needs_no_batch_and_a_new_endpoint_a_small_one() {
    let few = world(vec![endpoint("10.42.0.2", "here", Ready)]).table();
    assert_eq!(diff(&few, &few.clone()), []);
    let more = world(vec![endpoint("10.42.0.2", "here", Ready), endpoint("10.42.0.3", "here", Ready)]).table();
    let commands = diff(&few, &more);
    assert!(commands.len() <= 6, "{commands:?}");
    assert_eq!(encode(&more, &commands).len() % 4, 0);
}

#[test]
fn stale_flows_are_those_to_udp_services() {
    let mut world = world(vec![endpoint("10.42.0.2", "here", Ready)]);
    let map = name(Protocol::Udp);
    world.services.insert(map.clone(), world.services[&name(Protocol::Tcp)].clone());
    world.endpoints.insert(map, vec![endpoint("10.42.0.9", "here", Ready)]);
    let input = Input {
        table: "t",
        family: Family::Ipv4,
        node: "here",
        pod_range: None,
        service_range: None,
        services: &world.services,
        endpoints: &world.endpoints,
    };
    let targets = udp_targets(&input);
    let right = BTreeSet::from(["10.42.0.9".parse().unwrap()]);
    assert_eq!(targets, BTreeMap::from([(("10.96.0.20".parse().unwrap(), 80), right)]));
}
