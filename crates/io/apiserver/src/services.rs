//! Services take cluster addresses and node ports before they are stored, with the same transaction that stores them:
//! an `IPAddress` object per address, as 1.36 keeps them. Source: Kubernetes `pkg/registry/core/service`.

pub mod range;

use coracle_cache::store::{Compare, Op, Txn};
use coracle_kinds::Kind;
use coracle_meta::{ErrorList, Path, Resource, Status, Value, time};
use coracle_reconcile::View;
use tokio::sync::MutexGuard;

use crate::server::Server;
use crate::store::{at_rest, encode, key};

const SERVICES: Resource = Resource::new("", "services");
const ADDRESSES: Resource = Resource::new("networking.k8s.io", "ipaddresses");
const ADDRESS_TRIES_MAX: u32 = 256;

/// What a Service takes, to be written with it. Others wait while it is held.
#[derive(Default)]
pub struct Claim<'a> {
    more: Txn,
    _turn: Option<MutexGuard<'a, ()>>,
}

impl Claim<'_> {
    pub fn join(&self, txn: &mut Txn) {
        txn.compares.extend(self.more.compares.iter().cloned());
        txn.then.extend(self.more.then.iter().cloned());
    }
}

/// Fills addresses, families and node ports into a Service that is written; nothing for other kinds.
pub async fn claim<'a>(
    server: &'a Server,
    kind: &Kind,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Claim<'a>, Status> {
    if kind.resource() != SERVICES || old.is_some_and(|old| old.get("spec") == service.get("spec")) {
        return Ok(Claim::default());
    }
    let turn = server.allocation.lock().await;
    for kept in [Some(kind), coracle_kinds::find(&ADDRESSES)].into_iter().flatten() {
        server.resource(kept).await?.sync().await.map_err(crate::store::store_failed)?;
    }
    let mut claim = Claim { more: Txn::default(), _turn: Some(turn) };
    let type_of = |service: &Value| service.str_at(&["spec", "type"]).to_owned();
    if type_of(service) == "ExternalName" {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            service.remove(&["spec", key]);
        }
        if let Some(old) = old {
            claim.more.then.extend(release(kind, old));
        }
        return Ok(claim);
    }
    keep(service, old);
    families(server, service);
    address(server, service, old, &mut claim.more)?;
    ports(server, service, old)?;
    Ok(claim)
}

/// What gives a deleted Service's addresses back, to be done with the deletion.
pub fn release(kind: &Kind, service: &Value) -> Vec<Op> {
    let Some(addresses) = coracle_kinds::find(&ADDRESSES).filter(|_| has_more(kind)) else { return Vec::new() };
    let ips = service.list_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    // The view may not have seen the address yet; deleting none is no change.
    ips.filter(|ip| *ip != "None").map(|ip| Op::Delete { key: key(addresses, "", ip) }).collect()
}

/// Whether an object of this kind holds what goes with it.
pub fn has_more(kind: &Kind) -> bool {
    kind.resource() == SERVICES
}

/// What an update leaves out stays.
fn keep(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old.filter(|old| old.str_at(&["spec", "type"]) != "ExternalName") else { return };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        let was = old.at(&["spec", field]);
        if service.at(&["spec", field]).is_empty() && !was.is_null() {
            service.set(&["spec", field], was.clone());
        }
    }
    if service.str_at(&["spec", "type"]) == "ClusterIP" {
        return;
    }
    let known = old.list_at(&["spec", "ports"]);
    for port in service.list_at_mut(&["spec", "ports"]) {
        let same = |one: &&Value| {
            let number = |value: &Value| (value.int_at(&["port"]), value.str_at(&["protocol"]).to_owned());
            number(one) == number(port)
        };
        let given = known.iter().find(same).and_then(|one| one.int_at(&["nodePort"])).unwrap_or_default();
        if port.int_at(&["nodePort"]).unwrap_or_default() == 0 && given != 0 {
            port.set(&["nodePort"], given);
        }
    }
}

/// The families of a cluster that has one range of Services.
fn families(server: &Server, service: &mut Value) {
    let is_bare_headless =
        service.str_at(&["spec", "clusterIP"]) == "None" && service.at(&["spec", "selector"]).is_empty();
    service.set_default(&["spec", "ipFamilyPolicy"], if is_bare_headless { "RequireDualStack" } else { "SingleStack" });
    if service.list_at(&["spec", "ipFamilies"]).is_empty() {
        let both = is_bare_headless.then_some(Value::string("IPv6"));
        let list = std::iter::once(Value::string(server.service_range.family())).chain(both);
        service.set(&["spec", "ipFamilies"], list.collect::<Vec<_>>());
    }
}

fn address(server: &Server, service: &mut Value, old: Option<&Value>, txn: &mut Txn) -> Result<(), Status> {
    let wanted = match service.str_at(&["spec", "clusterIP"]) {
        "" => service.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or_default(),
        ip => ip,
    }
    .to_owned();
    if wanted == "None" {
        service.set(&["spec", "clusterIP"], "None");
        service.set(&["spec", "clusterIPs"], vec!["None".into()]);
        return Ok(());
    }
    let held = old.map_or("", |old| old.str_at(&["spec", "clusterIP"]));
    if !wanted.is_empty() && wanted == held {
        service.set(&["spec", "clusterIPs"], vec![wanted.into()]);
        return Ok(());
    }
    let ip = if wanted.is_empty() { free_address(server)? } else { requested(server, service, &wanted)? };
    service.set(&["spec", "clusterIP"], ip.as_str());
    service.set(&["spec", "clusterIPs"], vec![ip.as_str().into()]);
    record(server, service, &ip, txn)
}

fn is_taken(server: &Server, ip: &str) -> bool {
    let services = || server.view.list(&SERVICES, None);
    let needle = format!("\"clusterIP\":\"{ip}\"");
    server.view.get(&ADDRESSES, "", ip).is_some()
        || services().iter().any(|service| contains(&service.bytes, needle.as_bytes()))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn free_address(server: &Server) -> Result<String, Status> {
    let range = &server.service_range;
    let thrown =
        (0..ADDRESS_TRIES_MAX).map(|_| range.dynamic(server.dice.below(u64::from(range.dynamic_len())) as u32));
    let all = (0..range.len()).map(|offset| range.usable(offset));
    let free = thrown.chain(all).map(|ip| ip.to_string()).find(|ip| !is_taken(server, ip));
    free.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
}

fn requested(server: &Server, service: &Value, ip: &str) -> Result<String, Status> {
    let why = match server.service_range.holds(ip) {
        false => format!("failed to allocate IP {ip}: the provided network does not match the current range"),
        true if is_taken(server, ip) => format!("failed to allocate IP {ip}: provided IP is already allocated"),
        true => return Ok(ip.to_owned()),
    };
    let mut errors = ErrorList::default();
    let spec = Path::new("spec");
    let list = Value::List(vec![ip.into()]);
    errors.invalid(&spec.child("clusterIPs"), list, why);
    Err(Status::invalid("", "Service", service.str_at(&["metadata", "name"]), &errors))
}

/// The `IPAddress` object that says whose the address is.
fn record(server: &Server, service: &Value, ip: &str, txn: &mut Txn) -> Result<(), Status> {
    let Some(kind) = coracle_kinds::find(&ADDRESSES) else { return Ok(()) };
    let mut object = Value::map();
    object.set(&["metadata", "name"], ip);
    object.set(&["metadata", "uid"], server.dice.uuid());
    object.set(&["metadata", "creationTimestamp"], time::seconds(server.clock.now()));
    object.set(&["metadata", "labels", "ipaddress.kubernetes.io/managed-by"], "ipallocator.k8s.io");
    object.set(&["metadata", "labels", "ipaddress.kubernetes.io/ip-family"], server.service_range.family());
    object.set(&["spec", "parentRef", "resource"], "services");
    object.set(&["spec", "parentRef", "namespace"], service.str_at(&["metadata", "namespace"]));
    object.set(&["spec", "parentRef", "name"], service.str_at(&["metadata", "name"]));
    let key = key(kind, "", ip);
    let value = at_rest(server, &key, encode(kind, &mut object)?)?;
    txn.compares.push(Compare { key: key.clone(), mod_revision: 0 });
    txn.then.push(Op::Put { key, value, lease_seconds: 0 });
    Ok(())
}

fn ports(server: &Server, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let wants = match service.str_at(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => service.at(&["spec", "allocateLoadBalancerNodePorts"]).as_bool() != Some(false),
        _ => false,
    };
    let given: Vec<i64> = node_ports(service);
    if !wants && given.is_empty() {
        return Ok(());
    }
    let own: Vec<i64> = old.map(node_ports).unwrap_or_default();
    let mut taken = taken_ports(server, service.str_at(&["metadata", "uid"]));
    let (first, last) = (i64::from(server.node_ports.0), i64::from(server.node_ports.1));
    let name = service.str_at(&["metadata", "name"]).to_owned();
    for (index, port) in service.list_at_mut(&["spec", "ports"]).iter_mut().enumerate() {
        let number = port.int_at(&["nodePort"]).unwrap_or_default();
        if number != 0 {
            let why = match number {
                _ if own.contains(&number) => "",
                _ if taken.contains(&number) => "provided port is already allocated",
                _ if !(first..=last).contains(&number) => "provided port is not in the valid range",
                _ => "",
            };
            if !why.is_empty() {
                let range = format!("The range of valid ports is {first}-{last}");
                let why = if why.contains("range") { format!("{why}. {range}") } else { why.to_owned() };
                let mut errors = ErrorList::default();
                let (spec, number) = (Path::new("spec"), number);
                errors.invalid(&spec.child("ports").index(index).child("nodePort"), number, why);
                return Err(Status::invalid("", "Service", &name, &errors));
            }
            continue;
        }
        if !wants {
            continue;
        }
        let span = (last - first + 1).max(1);
        let start = server.dice.below(span as u64) as i64;
        let free = (0..span).map(|step| first + (start + step) % span);
        let free = free.into_iter().find(|port| !taken.contains(port) && !given.contains(port));
        let Some(free) = free else {
            return Err(Status::internal("failed to allocate a nodePort: range is full"));
        };
        taken.push(free);
        port.set(&["nodePort"], free);
    }
    Ok(())
}

fn node_ports(service: &Value) -> Vec<i64> {
    let ports = service.list_at(&["spec", "ports"]).iter();
    ports.filter_map(|port| port.int_at(&["nodePort"])).filter(|port| *port != 0).collect()
}

fn taken_ports(server: &Server, own_uid: &str) -> Vec<i64> {
    let services = server.view.list(&SERVICES, None);
    let others =
        services.iter().filter(|service| service.meta.uid != own_uid && contains(&service.bytes, b"\"nodePort\":"));
    others
        .filter_map(|service| Value::from_json(&service.bytes).ok())
        .flat_map(|service| node_ports(&service))
        .collect()
}
