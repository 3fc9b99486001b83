//! Services on a real kernel: packets from pods and from the node, in network namespaces made for the test. Needs
//! root, `unshare`, `nsenter`, `ip` and `nft`.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coracle_linux::netns::run_in;
use coracle_meta::{Object, Resource};
use coracle_proxy::{Options, Proxy, remove_all};
use coracle_reconcile::{Change, Index, Sink, View};
use coracle_rt::Scope;
use serde_json::{Value, json};

/// Runs the named test again in a network namespace of its own; true inside it.
fn alone(test: &str) -> bool {
    const INSIDE: &str = "CORACLE_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let status =
        Command::new("unshare").arg("--net").arg(own).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
    assert!(status.unwrap().success(), "{test} failed in its namespace");
    false
}

fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The node: a bridge as the pod network makes one, and an address outside.
fn make_node() {
    run("ip link set lo up");
    run("ip link add br0 type bridge");
    run("ip addr add 10.42.0.1/24 dev br0");
    run("ip link set br0 up");
    run("ip link add out0 type bridge");
    run("ip addr add 192.0.2.9/24 dev out0");
    run("ip link set out0 up");
    run("ip route add 10.96.0.0/15 dev br0");
    run("ip route add 203.0.113.0/24 dev out0");
    let switches = [("ip_forward", "1"), ("conf/br0/route_localnet", "1"), ("conf/all/send_redirects", "0")];
    for (key, value) in switches.into_iter().chain([("conf/br0/send_redirects", "0")]) {
        std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).unwrap();
    }
}

/// A pod whose servers, on TCP and UDP port 8080, answer with its address.
struct Pod {
    namespace: Child,
    address: IpAddr,
}

impl Pod {
    fn new(number: u8) -> Pod {
        let namespace = Command::new("unshare").args(["--net", "sleep", "120"]).spawn().unwrap();
        let pod = Pod { namespace, address: [10, 42, 0, number].into() };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        while std::fs::read_link(pod.path()).unwrap() == own {
            std::thread::yield_now();
        }
        let id = pod.namespace.id();
        run(&format!("ip link add pod{number} master br0 up type veth peer name eth0 netns {id}"));
        // Where the kernel filters bridged packets too, what is translated stays on the bridge and may go back out.
        run(&format!("ip link set pod{number} type bridge_slave hairpin on"));
        let inside = |line: &str| run(&format!("nsenter --net={} {line}", pod.path().display()));
        inside("ip link set lo up");
        inside("ip link set eth0 up");
        inside(&format!("ip addr add {}/32 dev eth0", pod.address));
        inside("ip route add 10.42.0.1 dev eth0");
        inside("ip route add default via 10.42.0.1");
        pod.serve();
        pod
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.namespace.id()).into()
    }

    fn serve(&self) {
        let text = self.address.to_string();
        let tcp = run_in(&self.path(), || TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
        let udp = run_in(&self.path(), || UdpSocket::bind("0.0.0.0:8080")).unwrap().unwrap();
        let answer = text.clone();
        std::thread::spawn(move || {
            for mut client in tcp.incoming().flatten() {
                let _ = client.write_all(answer.as_bytes());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(text.as_bytes(), from);
            }
        });
    }

    fn call(&self, target: &str) -> Result<String, ErrorKind> {
        run_in(&self.path(), || call(target)).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.namespace.kill().unwrap();
        self.namespace.wait().unwrap();
    }
}

fn call(target: &str) -> Result<String, ErrorKind> {
    let target: SocketAddr = target.parse().unwrap();
    let mut heard = String::new();
    let connected = TcpStream::connect_timeout(&target, Duration::from_secs(2));
    let read = connected.and_then(|mut server| server.read_to_string(&mut heard));
    read.map(|_| heard).map_err(|error| error.kind())
}

fn answers(mut call: impl FnMut() -> Result<String, ErrorKind>) -> BTreeSet<String> {
    (0..40).map(|_| call().unwrap()).collect()
}

/// A view whose objects the test sets.
#[derive(Default)]
struct Fake {
    objects: Mutex<BTreeMap<(Resource, String), Arc<Object>>>,
    sinks: Mutex<Vec<(Resource, Sink)>>,
}

impl Fake {
    fn set(&self, resource: Resource, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let new = Arc::new(Object::new(Bytes::from(object.to_string()), 1).unwrap());
        let old = self.objects.lock().unwrap().insert((resource.clone(), name), new.clone());
        let change = Change { old, new: Some(new) };
        for (_, sink) in self.sinks.lock().unwrap().iter().filter(|(wanted, _)| *wanted == resource) {
            sink(&resource, &change);
        }
    }

    fn service(&self, name: &str, address: &str, spec: Value) {
        let mut whole = json!({"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
            {"name": "talk", "port": 80, "protocol": "UDP", "targetPort": 8080}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": "default"});
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": whole});
        self.set(Resource::new("", "services"), object);
    }

    fn endpoints(&self, service: &str, pods: &[&Pod]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|pod| json!({"addresses": [pod.address], "conditions": {"ready": true}, "nodeName": "here"}))
            .collect();
        self.set(
            Resource::new("discovery.k8s.io", "endpointslices"),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("{service}-1"), "namespace": "default",
                    "labels": {"kubernetes.io/service-name": service}},
                "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"},
                    {"name": "talk", "port": 8080, "protocol": "UDP"}]}),
        );
    }
}

impl View for Fake {
    fn get(&self, resource: &Resource, _: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.lock().unwrap().get(&(resource.clone(), name.to_owned())).cloned()
    }

    fn list(&self, resource: &Resource, _: Option<&str>) -> Vec<Arc<Object>> {
        let objects = self.objects.lock().unwrap();
        objects.iter().filter(|((of, _), _)| of == resource).map(|(_, object)| object.clone()).collect()
    }

    fn by_index(&self, _: &Resource, _: Index, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    fn revision(&self, _: &Resource) -> u64 {
        1
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        for object in self.list(resource, None) {
            sink(resource, &Change { old: None, new: Some(object) });
        }
        self.sinks.lock().unwrap().push((resource.clone(), sink));
    }
}

fn options(cluster: &str, services: &str) -> Options {
    Options {
        cluster: cluster.into(),
        node: "here".into(),
        pod_ranges: vec!["10.42.0.0/16".parse().unwrap()],
        service_ranges: vec![services.parse().unwrap()],
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Waits until a batch more than before is in the kernel.
fn next_batch(proxy: &Proxy, change: impl FnOnce()) {
    let before = proxy.status().batches;
    change();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while proxy.status().batches == before {
        assert!(std::time::Instant::now() < deadline, "no batch: {:?}", proxy.status());
        std::thread::yield_now();
    }
}

#[test]
fn services_reach_every_pod_from_everywhere() {
    if !alone("services_reach_every_pod_from_everywhere") {
        return;
    }
    make_node();
    let (a, b, c) = (Pod::new(2), Pod::new(3), Pod::new(4));
    let view = Arc::new(Fake::default());
    view.service(
        "web",
        "10.96.0.20",
        json!({"type": "NodePort", "externalIPs": ["203.0.113.5"], "ports": [
        {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080},
        {"name": "talk", "port": 80, "protocol": "UDP"}]}),
    );
    view.endpoints("web", &[&a, &b]);
    let runtime = runtime();
    let scope = Scope::root();
    let entered = runtime.enter();
    let proxy = Proxy::start(&scope, view.clone(), options("one", "10.96.0.0/16"));
    drop(entered);
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), proxy.tried()).await }).unwrap();

    let both = BTreeSet::from(["10.42.0.2".to_owned(), "10.42.0.3".to_owned()]);
    assert_eq!(answers(|| c.call("10.96.0.20:80")), both, "another pod");
    assert_eq!(answers(|| a.call("10.96.0.20:80")), both, "an endpoint, itself included");
    assert_eq!(answers(|| call("10.96.0.20:80")), both, "the node");
    assert_eq!(answers(|| call("192.0.2.9:30080")), both, "the node's port by its address");
    assert_eq!(answers(|| call("127.0.0.1:30080")), both, "the node's port on loopback");
    assert_eq!(answers(|| c.call("192.0.2.9:30080")), both, "the node's port from a pod");
    assert_eq!(answers(|| c.call("203.0.113.5:80")), both, "an external address");
    assert_eq!(c.call("10.96.0.20:81"), Err(ErrorKind::ConnectionRefused), "a port the Service does not have");

    // A UDP client that keeps its port follows the endpoints.
    let talker = run_in(&c.path(), || UdpSocket::bind("0.0.0.0:4000")).unwrap().unwrap();
    talker.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let talk = || {
        let mut heard = [0; 32];
        talker.send_to(b"hello", "10.96.0.20:80").unwrap();
        let length = talker.recv(&mut heard).unwrap();
        String::from_utf8(heard[..length].to_vec()).unwrap()
    };
    let left = if talk() == "10.42.0.2" { &b } else { &a };
    next_batch(&proxy, || view.endpoints("web", &[left]));
    // The batch is in; forgetting the flows follows it.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while talk() != left.address.to_string() {
        assert!(std::time::Instant::now() < deadline, "the flow is still remembered");
    }
    assert_eq!(answers(|| c.call("10.96.0.20:80")).len(), 1, "an endpoint that left gets nothing");

    next_batch(&proxy, || view.endpoints("web", &[]));
    for target in ["10.96.0.20:80", "192.0.2.9:30080", "203.0.113.5:80"] {
        assert_eq!(c.call(target), Err(ErrorKind::ConnectionRefused), "{target} without endpoints");
    }
    assert_eq!(call("10.96.0.20:80"), Err(ErrorKind::ConnectionRefused));
    next_batch(&proxy, || view.endpoints("web", &[&a]));
    assert_eq!(call("10.96.0.20:80").unwrap(), "10.42.0.2");
    runtime.block_on(scope.close(Duration::from_secs(5)));
}

#[test]
fn a_client_stays_with_its_pod() {
    if !alone("a_client_stays_with_its_pod") {
        return;
    }
    make_node();
    let (a, b, c) = (Pod::new(2), Pod::new(3), Pod::new(4));
    let view = Arc::new(Fake::default());
    view.service(
        "web",
        "10.96.0.20",
        json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}),
    );
    view.endpoints("web", &[&a, &b]);
    let runtime = runtime();
    let scope = Scope::root();
    let entered = runtime.enter();
    let proxy = Proxy::start(&scope, view.clone(), options("one", "10.96.0.0/16"));
    drop(entered);
    runtime.block_on(proxy.tried());
    let kept = answers(|| c.call("10.96.0.20:80"));
    assert_eq!(kept.len(), 1);
    next_batch(&proxy, || view.service("other", "10.96.0.21", json!({})));
    assert_eq!(answers(|| c.call("10.96.0.20:80")), kept, "a change elsewhere forgets no client");
    runtime.block_on(scope.close(Duration::from_secs(5)));
}

#[test]
fn two_clusters_share_a_machine() {
    if !alone("two_clusters_share_a_machine") {
        return;
    }
    make_node();
    let (a, b, c) = (Pod::new(2), Pod::new(3), Pod::new(4));
    let runtime = runtime();
    let scope = Scope::root();
    let entered = runtime.enter();
    let proxies: Vec<Proxy> = [("one", "10.96.0.0/16", "10.96.0.20", &a), ("two", "10.97.0.0/16", "10.97.0.20", &b)]
        .into_iter()
        .map(|(cluster, range, address, pod)| {
            let view = Arc::new(Fake::default());
            view.service("web", address, json!({}));
            view.endpoints("web", &[pod]);
            Proxy::start(&scope, view, options(cluster, range))
        })
        .collect();
    drop(entered);
    for proxy in &proxies {
        runtime.block_on(proxy.tried());
    }
    assert_eq!(c.call("10.96.0.20:80").unwrap(), "10.42.0.2");
    assert_eq!(c.call("10.97.0.20:80").unwrap(), "10.42.0.3");
    let listed = run("nft list ruleset");
    for part in [
        "table ip coracle-one {",
        "ip daddr . meta l4proto . th dport vmap @service-ips",
        "10.96.0.20 . tcp . 80 : goto service-",
        "numgen random mod 1 vmap { 0 : goto endpoint-",
        "fib daddr type local meta l4proto . th dport vmap @service-nodeports",
        "masquerade fully-random",
        "dnat to 10.42.0.2:8080",
        "type nat hook prerouting priority dstnat; policy accept;",
    ] {
        assert!(listed.contains(part), "{part} is not in\n{listed}");
    }
    runtime.block_on(scope.close(Duration::from_secs(5)));
    assert_eq!(c.call("10.96.0.20:80").unwrap(), "10.42.0.2", "Services work on without their proxy");
    remove_all("one").unwrap();
    remove_all("one").unwrap();
    assert_eq!(c.call("10.97.0.20:80").unwrap(), "10.42.0.3", "the other cluster is untouched");
    remove_all("two").unwrap();
    assert_eq!(run("nft list ruleset"), "");
}
