//! The pod network on a real kernel, in network namespaces made for the test. Needs root, `unshare` and `nft`.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use coracle_linux::netns::run_in;
use coracle_podnet::{
    MTU_DEFAULT, Options, PodNetwork, PortMapping, Transport, bridge_name, ranges_in_use, remove_all,
};

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

/// A namespace that lives as long as this.
struct Sandbox(Child);

impl Sandbox {
    fn new() -> Sandbox {
        let child = Command::new("unshare").args(["--net", "sleep", "120"]).spawn().unwrap();
        let sandbox = Sandbox(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        while std::fs::read_link(sandbox.path()).unwrap() == own {
            std::thread::yield_now();
        }
        sandbox
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("coracle-podnet-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn options(cluster: &str, state_dir: &Path, second: u8) -> Options {
    Options {
        cluster: cluster.into(),
        state_dir: state_dir.into(),
        node_range: format!("10.{second}.0.0/24").parse().unwrap(),
        cluster_range: format!("10.{second}.0.0/16").parse().unwrap(),
        service_range: Some(format!("10.{}.0.0/16", second + 100).parse().unwrap()),
        mtu: MTU_DEFAULT,
    }
}

/// Whether whoever is in `from` (or here) reaches a server in `at` at its address.
fn reaches(from: Option<&Sandbox>, at: &Sandbox, address: IpAddr) -> bool {
    let listener = run_in(&at.path(), || TcpListener::bind((address, 0))).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&target, std::time::Duration::from_secs(2));
    let client = match from {
        Some(sandbox) => run_in(&sandbox.path(), connect).unwrap(),
        None => connect(),
    };
    let Ok(mut client) = client else { return false };
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"ping").unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).unwrap();
    &heard == b"ping"
}

fn traces() -> String {
    let run = |program: &str, arguments: &[&str]| {
        String::from_utf8(Command::new(program).args(arguments).output().unwrap().stdout).unwrap()
    };
    run("ip", &["-brief", "link"]) + &run("nft", &["list", "ruleset"]) + &run("ip", &["route"])
}

#[test]
fn pods_reach_each_other_the_node_and_themselves() {
    if !alone("pods_reach_each_other_the_node_and_themselves") {
        return;
    }
    let folder = Folder::new("reach");
    let network = PodNetwork::open(options("one", &folder.0, 42)).unwrap();
    let (a, b) = (Sandbox::new(), Sandbox::new());
    let address_a = network.attach(&a.path(), "sandbox-a", &[]).unwrap()[0];
    let begun = std::time::Instant::now();
    let address_b = network.attach(&b.path(), "sandbox-b", &[]).unwrap()[0];
    println!("attach took {:?}", begun.elapsed());
    assert_eq!(network.gateway().to_string(), "10.42.0.1");
    assert_eq!((address_a.to_string().as_str(), address_b.to_string().as_str()), ("10.42.0.2", "10.42.0.3"));
    assert!(reaches(Some(&a), &b, address_b), "pod to pod");
    assert!(reaches(None, &a, address_a), "node to pod");
    assert!(reaches(Some(&a), &a, address_a), "pod to itself");
    assert!(reaches(Some(&a), &a, "127.0.0.1".parse().unwrap()), "the loopback of a pod is up");
    let on_node = TcpListener::bind((network.gateway(), 0)).unwrap();
    let target = on_node.local_addr().unwrap();
    assert!(run_in(&b.path(), || TcpStream::connect(target)).unwrap().is_ok(), "pod to node");
}

#[test]
fn a_restart_adopts_and_a_leak_is_released() {
    if !alone("a_restart_adopts_and_a_leak_is_released") {
        return;
    }
    let folder = Folder::new("restart");
    let network = PodNetwork::open(options("one", &folder.0, 42)).unwrap();
    let (a, b) = (Sandbox::new(), Sandbox::new());
    let address_a = network.attach(&a.path(), "a", &[]).unwrap();
    network.attach(&b.path(), "b", &[]).unwrap();
    drop(network);

    std::fs::write(folder.0.join("addresses.json"), "{ torn").unwrap();
    let network = PodNetwork::open(options("one", &folder.0, 42)).unwrap();
    assert_eq!(network.addresses("a"), address_a);
    assert!(reaches(None, &a, address_a[0]), "a restart touches no pod");
    assert_eq!(network.retain(&BTreeSet::from(["a".to_owned()])).unwrap(), ["b"]);
    assert!(network.addresses("b").is_empty());
    network.detach("b").unwrap();
    assert_eq!(network.attach(&a.path(), "a", &[]).unwrap(), address_a);
    assert!(reaches(None, &a, address_a[0]), "connected anew with the same address");
}

#[test]
fn two_networks_live_side_by_side_and_leave_no_trace() {
    if !alone("two_networks_live_side_by_side_and_leave_no_trace") {
        return;
    }
    let (first, second) = (Folder::new("first"), Folder::new("second"));
    let before = traces();
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let forwarding_before = forwarding();
    let one = PodNetwork::open(options("one", &first.0, 42)).unwrap();
    let two = PodNetwork::open(options("a-cluster-with-a-long-name", &second.0, 43)).unwrap();
    assert!(ranges_in_use().unwrap().contains(&"10.142.0.0/16".parse().unwrap()));
    let (a, b) = (Sandbox::new(), Sandbox::new());
    one.attach(&a.path(), "a", &[]).unwrap();
    let address_b = two.attach(&b.path(), "b", &[]).unwrap()[0];
    remove_all("one", &first.0).unwrap();
    assert!(!traces().contains(&bridge_name("one")));
    assert_eq!(forwarding(), "1\n");
    assert!(reaches(None, &b, address_b), "the other cluster is untouched");
    two.remove_all().unwrap();
    remove_all("one", &first.0).unwrap();
    assert_eq!(traces(), before);
    assert_eq!(forwarding(), forwarding_before);
}

#[test]
fn a_port_of_the_node_leads_to_the_pod_that_asked_for_it() {
    if !alone("a_port_of_the_node_leads_to_the_pod_that_asked_for_it") {
        return;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.unwrap().success());
    let folder = Folder::new("ports");
    let network = PodNetwork::open(options("one", &folder.0, 42)).unwrap();
    let pod = Sandbox::new();
    let asked = |host_address: &str, host_port| PortMapping {
        transport: Transport::Tcp,
        host_address: Some(host_address.parse().unwrap()),
        host_port,
        pod_port: 80,
    };
    let ports = [asked("127.0.0.1", 5000), asked("10.42.0.1", 5001)];
    let address = network.attach(&pod.path(), "a", &ports).unwrap()[0];
    let listener = run_in(&pod.path(), || TcpListener::bind((address, 80))).unwrap().unwrap();
    let calls = |host: &str, port: u16| {
        let target = (host.parse::<IpAddr>().unwrap(), port).into();
        let reached = TcpStream::connect_timeout(&target, std::time::Duration::from_secs(2)).is_ok();
        if reached {
            drop(listener.accept().unwrap());
        }
        reached
    };
    assert!(calls("127.0.0.1", 5000), "by loopback");
    assert!(calls("10.42.0.1", 5001), "by an address of the node");
    assert!(!calls("10.42.0.1", 5000), "not by another address");
    drop(network);
    let network = PodNetwork::open(options("one", &folder.0, 42)).unwrap();
    assert!(calls("127.0.0.1", 5000), "after a restart");
    network.detach("a").unwrap();
    let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout;
    assert!(!String::from_utf8(rules).unwrap().contains("dnat"), "nothing is left of it");
}
