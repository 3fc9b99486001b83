//! What a new cluster starts with, written once in a few batches: namespaces, roles, priority classes, flow control, the
//! range of Services and the `kubernetes` Service itself. Later starts only bring that Service's endpoint up to
//! date, and what feature gates switched on since then need.

use std::sync::Arc;

use coracle_access::bootstrap as policy;
use coracle_cache::store::{Compare, Detail, Op, RangeRequest, Txn, TxnResponse};
use coracle_meta::{Object, Resource, Status, Value, time};
use serde_json::json;

use crate::call::Served;
use crate::server::{Server, ServerError};
use crate::store::{at_rest, encode, failed, key, store_failed, swap, tree};

const NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];
const LEVELS: [(&str, i64, i64); 5] = [
    ("system", 30, 33),
    ("node-high", 40, 25),
    ("leader-election", 10, 0),
    ("workload-high", 40, 50),
    ("workload-low", 100, 90),
];

const CONFIG_MAPS: Resource = Resource::new("", "configmaps");
/// Tells controllers since which day the use of tokens that Secrets hold is noted on them.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Objects in one transaction, as many as an etcd takes by default.
const BATCH_MAX: usize = 128;

pub async fn write(server: &Arc<Server>) -> Result<(), ServerError> {
    let range = RangeRequest {
        start: key_of("", "namespaces", "", "default"),
        end: Default::default(),
        at: None,
        limit: 1,
        detail: Detail::KeysOnly,
    };
    if server.cache.store.range(range).await?.items.is_empty() {
        let mut is_all_new = true;
        for txn in first_batches(server).map_err(ServerError::Bootstrap)? {
            // Another server, or an earlier start that broke off, may have been faster: then it wrote the same but for
            // where it is reached.
            is_all_new &= matches!(server.cache.store.txn(txn).await?, TxnResponse::Done { .. });
        }
        if is_all_new {
            return Ok(());
        }
    }
    endpoint(server).await.map_err(ServerError::Bootstrap)?;
    tracking(server).await.map_err(ServerError::Bootstrap)?;
    gated_policy(server).await.map_err(ServerError::Bootstrap)
}

fn key_of(group: &str, plural: &str, namespace: &str, name: &str) -> bytes::Bytes {
    Served::stored(group, plural).map_or_else(Default::default, |served| key(served.kind, namespace, name))
}

/// The namespace `default` comes last: where it is, everything is.
fn first_batches(server: &Server) -> Result<Vec<Txn>, Status> {
    let mut objects: Vec<(Resource, Value)> = Vec::new();
    objects.extend(
        policy::objects(|gate| server.gates.has_named(gate)).into_iter().map(|seed| (seed.resource, seed.object)),
    );
    objects.extend(priority_classes());
    objects.extend(flow_control());
    let cidr = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [server.service_range.to_string()]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": time::seconds(server.clock.now())}]}});
    objects.push((Resource::new("networking.k8s.io", "servicecidrs"), value(&cidr)));
    objects.extend(kubernetes_service(server));
    objects.extend(endpoint_objects(server).map(|(resource, object, _)| (resource, object)));
    objects.push((CONFIG_MAPS, tracking_object(server)));
    for name in NAMESPACES {
        let labels = json!({"kubernetes.io/metadata.name": name});
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        objects.push((Resource::new("", "namespaces"), value(&object)));
    }
    let batch = |objects: &[(Resource, Value)]| {
        let mut txn = Txn::default();
        for (resource, object) in objects {
            add(server, resource, object.clone(), &mut txn)?;
        }
        Ok(txn)
    };
    objects.chunks(BATCH_MAX).map(batch).collect()
}

fn value(json: &serde_json::Value) -> Value {
    Value::from_json(json.to_string().as_bytes()).unwrap_or_default()
}

/// Adds an object that must not exist yet, with what the server says of a new one.
fn add(server: &Server, resource: &Resource, mut object: Value, txn: &mut Txn) -> Result<(), Status> {
    let kind = coracle_kinds::find(resource).ok_or_else(|| Status::internal(format!("no kind for {resource}")))?;
    let Some(storage) = kind.storage else { return Err(Status::internal(format!("{resource} is not kept"))) };
    object.set(&["metadata", "uid"], server.dice.uuid());
    object.set(&["metadata", "creationTimestamp"], time::seconds(server.clock.now()));
    if kind.rules.lifecycle.counts_generation {
        object.set(&["metadata", "generation"], 1);
    }
    kind.default(&mut object, storage.version);
    let meta = object.get("metadata");
    let key = key(kind, meta.str_at(&["namespace"]), meta.str_at(&["name"]));
    let value = at_rest(server, &key, encode(kind, &mut object)?)?;
    txn.compares.push(Compare { key: key.clone(), mod_revision: 0 });
    txn.then.push(Op::Put { key, value, lease_seconds: 0 });
    Ok(())
}

fn priority_classes() -> Vec<(Resource, Value)> {
    let about = |what: &str| format!("Used for system critical pods that must {what}.");
    let classes = [
        ("system-node-critical", 2_000_001_000_i64, about("not be moved from their current node")),
        (
            "system-cluster-critical",
            2_000_000_000,
            about("run in the cluster, but can be moved to another node if necessary"),
        ),
    ];
    let object = |(name, number, description): (&str, i64, String)| {
        let object = json!({"metadata": {"name": name}, "value": number, "description": description,
            "preemptionPolicy": "PreemptLowerPriority"});
        (Resource::new("scheduling.k8s.io", "priorityclasses"), value(&object))
    };
    classes.into_iter().map(object).collect()
}

/// The levels and schemas that flow control must have and those it is suggested to have. Source: Kubernetes
/// `pkg/apis/flowcontrol/bootstrap`.
fn flow_control() -> Vec<(Resource, Value)> {
    const GROUP: &str = "flowcontrol.apiserver.k8s.io";
    let level = |object: serde_json::Value| (Resource::new(GROUP, "prioritylevelconfigurations"), value(&object));
    let limited = |shares: i64, lendable: i64, response: serde_json::Value| json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}});
    let queue = |queues: i64, hand: i64| json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}});
    let marked = |name: &str| json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}});
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut objects = vec![
        level(json!({"metadata": marked("exempt"), "spec": exempt})),
        level(json!({"metadata": marked("catch-all"), "spec": limited(5, 0, json!({"type": "Reject"}))})),
        level(json!({"metadata": marked("global-default"), "spec": limited(20, 50, queue(128, 6))})),
    ];
    for (name, shares, lendable) in LEVELS {
        let (queues, hand) = if name == "leader-election" {
            (16, 4)
        } else if name.starts_with("workload") {
            (128, 6)
        } else {
            (64, 6)
        };
        objects.push(level(json!({"metadata": marked(name), "spec": limited(shares, lendable, queue(queues, hand))})));
    }
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let account =
        |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}});
    let all = |groups: &[&str]| json!([{"verbs": ["*"], "apiGroups": groups, "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let urls = |verbs: &[&str], urls: &[&str]| json!([{"verbs": verbs, "nonResourceURLs": urls}]);
    let everything = (all(&["*"]), urls(&["*"], &["*"]));
    let nowhere = json!([]);
    let leases = json!([{"verbs": ["get", "create", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]}]);
    let node_parts = json!([
        {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true, "namespaces": ["*"]},
        {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]},
    ]);
    let health = urls(&["get"], &["/healthz", "/readyz", "/livez"]);
    let everyone = json!([group("system:unauthenticated"), group("system:authenticated")]);
    let system = json!([account("*")]);
    let leaders = json!([user("system:kube-controller-manager"), user("system:kube-scheduler"), account("*")]);
    let schemas = [
        ("exempt", "exempt", 1, "", json!([group("system:masters")]), everything.clone()),
        ("probes", "exempt", 2, "", everyone.clone(), (nowhere.clone(), health)),
        ("system-leader-election", "leader-election", 100, "ByUser", leaders, (leases, nowhere.clone())),
        ("system-node-high", "node-high", 400, "ByUser", json!([group("system:nodes")]), (node_parts, nowhere)),
        ("system-nodes", "system", 500, "ByUser", json!([group("system:nodes")]), everything.clone()),
        (
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            json!([user("system:kube-controller-manager")]),
            everything.clone(),
        ),
        (
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            json!([user("system:kube-scheduler")]),
            everything.clone(),
        ),
        ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", system, everything.clone()),
        (
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            json!([group("system:serviceaccounts")]),
            everything.clone(),
        ),
        ("global-default", "global-default", 9900, "ByUser", everyone.clone(), everything.clone()),
        ("catch-all", "catch-all", 10000, "ByUser", everyone, everything),
    ];
    for (name, level, precedence, by, subjects, (resources, paths)) in schemas {
        let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence});
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        let mut rule = json!({"subjects": subjects});
        for (key, rules) in [("resourceRules", resources), ("nonResourceRules", paths)] {
            if rules.as_array().is_some_and(|rules| !rules.is_empty()) {
                rule[key] = rules;
            }
        }
        spec["rules"] = json!([rule]);
        let object = json!({"metadata": marked(name), "spec": spec});
        objects.push((Resource::new(GROUP, "flowschemas"), value(&object)));
    }
    objects
}

/// The Service by which pods reach this server, at the first address of the range.
fn kubernetes_service(server: &Server) -> Vec<(Resource, Value)> {
    let ip = server.service_range.usable(0).to_string();
    let family = server.service_range.family();
    let port = server.advertise.1;
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]},
        "status": {"loadBalancer": {}},
    });
    let address = json!({
        "metadata": {"name": ip, "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": family}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}},
    });
    vec![
        (Resource::new("", "services"), value(&service)),
        (Resource::new("networking.k8s.io", "ipaddresses"), value(&address)),
    ]
}

/// Where this server is reached, as the endpoint of the `kubernetes` Service; with each object the members that say so.
fn endpoint_objects(server: &Server) -> [(Resource, Value, &'static [&'static str]); 2] {
    let (address, port) = server.advertise;
    let ip = address.to_string();
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    [
        (Resource::new("", "endpoints"), value(&endpoints), &["subsets"]),
        (Resource::new("discovery.k8s.io", "endpointslices"), value(&slice), &["addressType", "endpoints", "ports"]),
    ]
}

async fn endpoint(server: &Arc<Server>) -> Result<(), Status> {
    for (resource, wanted, members) in endpoint_objects(server) {
        let settle = |object: &mut Value, wanted: &Value| {
            members.iter().for_each(|member| object.set(&[member], wanted.get(member).clone()));
        };
        put(server, resource, wanted, settle).await?;
    }
    Ok(())
}

fn tracking_object(server: &Server) -> Value {
    let today = server.clock.now().strftime("%Y-%m-%d").to_string();
    value(&json!({"metadata": {"name": TRACKING, "namespace": "kube-system"}, "data": {"since": today}}))
}

/// A day that is none starts over, as one that was taken away does.
async fn tracking(server: &Arc<Server>) -> Result<(), Status> {
    let settle = |map: &mut Value, wanted: &Value| {
        let since = map.str_at(&["data", "since"]);
        if jiff::civil::Date::strptime("%Y-%m-%d", since).is_err() {
            map.set(&["data", "since"], wanted.at(&["data", "since"]).clone());
        }
    };
    put(server, CONFIG_MAPS, tracking_object(server), settle).await
}

/// Roles and bindings that gates bring, where an earlier start without them left them out.
async fn gated_policy(server: &Arc<Server>) -> Result<(), Status> {
    let plain = policy::objects(|_| false);
    for seed in policy::objects(|gate| server.gates.has_named(gate)) {
        if !plain.iter().any(|known| known.object == seed.object) {
            put(server, seed.resource, seed.object, add_rules).await?;
        }
    }
    Ok(())
}

fn add_rules(role: &mut Value, wanted: &Value) {
    let mut rules = role.list_at(&["rules"]).to_vec();
    let known = rules.len();
    for rule in wanted.list_at(&["rules"]) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    if rules.len() > known {
        role.set(&["rules"], rules);
    }
}

/// Creates the object, or puts the one that stands right.
async fn put(
    server: &Arc<Server>,
    resource: Resource,
    wanted: Value,
    settle: impl Fn(&mut Value, &Value),
) -> Result<(), Status> {
    let kind = coracle_kinds::find(&resource).ok_or_else(|| Status::internal(format!("no kind for {resource}")))?;
    let cache = server.resource(kind).await?;
    let (namespace, name) = (wanted.str_at(&["metadata", "namespace"]), wanted.str_at(&["metadata", "name"]));
    let found: Option<Arc<Object>> = cache.get_fresh(namespace, name).await.map_err(failed)?;
    let Some(current) = found else {
        let mut txn = Txn::default();
        add(server, &resource, wanted, &mut txn)?;
        return server.cache.store.txn(txn).await.map(|_: TxnResponse| ()).map_err(store_failed);
    };
    let was = tree(&current)?;
    let mut object = was.clone();
    settle(&mut object, &wanted);
    if object == was {
        return Ok(());
    }
    swap(server, kind, &current, &mut object).await.map(|_| ())
}
