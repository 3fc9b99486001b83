//! The embedded pod network: a bridge per cluster, a pair of links and an address per pod, and the packet filter that
//! lets pods out. It knows sandboxes by id and namespace path only. Pods are reached by routing, not by bridging:
//! each has its address alone and sends everything to the node, so Services work without a filter on the bridge.
//!
//! Every call blocks for about a millisecond; from async code it is made on a blocking thread.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use coracle_linux::netlink::{Family as Kernel, Socket};
pub use coracle_netplan::Cidr;
use coracle_netplan::cidr::octets;
use coracle_netplan::ipam::IpamError;
use coracle_netplan::nft::{Family, Table, diff, encode, remove_table, replace};
use coracle_netplan::podrules::{self, HostPort, pod_table};

mod leases;
mod links;
mod switches;

use leases::Leases;
pub use leases::{PortMapping, Transport};
use links::{Links, Veth};
use switches::Switches;

/// How the pods' end of a link is called.
pub const POD_INTERFACE: &str = "eth0";
/// What a plain Ethernet carries.
pub const MTU_DEFAULT: u32 = 1500;

#[derive(Clone, Debug)]
pub struct Options {
    /// Names every kernel object.
    pub cluster: String,
    /// Where the leases are written down.
    pub state_dir: PathBuf,
    /// The pods of this node. Its second address is the node's own among them. IPv4.
    pub node_range: Cidr,
    /// The pods of all nodes: reached without masquerading.
    pub cluster_range: Cidr,
    /// The Services' addresses; routed to the bridge, so that they work on a machine without a default route.
    pub service_range: Option<Cidr>,
    pub mtu: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the embedded pod network has IPv4 ranges only, not {range}")]
    NotIpv4 { range: Cidr },
    #[error("leasing an address")]
    Lease(#[from] IpamError),
    #[error("keeping the address leases in {}", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("setting up bridge {bridge}")]
    Bridge { bridge: String, source: io::Error },
    #[error("setting up the packet filter of the pod network")]
    Filter(#[source] io::Error),
    #[error("turning on packet forwarding")]
    Switches(#[source] io::Error),
    #[error("connecting sandbox {sandbox}")]
    Attach { sandbox: String, source: io::Error },
    #[error("disconnecting sandbox {sandbox}")]
    Detach { sandbox: String, source: io::Error },
    #[error("removing the pod network of cluster {cluster}")]
    Remove { cluster: String, source: io::Error },
}

/// A cluster's pod network on this node.
pub struct PodNetwork {
    options: Options,
    bridge: String,
    bridge_index: u32,
    gateway: IpAddr,
    state: Mutex<State>,
}

struct State {
    leases: Leases,
    /// The packet filter as the kernel has it.
    table: Table,
}

impl PodNetwork {
    /// Makes what is missing and adopts what is there: bridge, addresses, links of pods that live on.
    pub fn open(options: Options) -> Result<PodNetwork, Error> {
        for range in [options.node_range, options.cluster_range].iter().chain(&options.service_range) {
            if !range.is_ipv4() {
                return Err(Error::NotIpv4 { range: *range });
            }
        }
        let mut leases = Leases::open(&options.state_dir, options.node_range)?;
        let gateway = leases.ipam.gateway();
        let bridge = bridge_name(&options.cluster);
        let bridge_index = open_bridge(&options, &bridge, gateway)
            .map_err(|source| Error::Bridge { bridge: bridge.clone(), source })?;
        adopt_links(&options.cluster, &mut leases)
            .map_err(|source| Error::Bridge { bridge: bridge.clone(), source })?;
        let table = planned_table(&options, &leases);
        netfilter(&encode(&table, &replace(&table))).map_err(Error::Filter)?;
        Switches::here().and_then(|switch| switch.need(&options.cluster)).map_err(Error::Switches)?;
        leases.save()?;
        Ok(PodNetwork { options, bridge, bridge_index, gateway, state: Mutex::new(State { leases, table }) })
    }

    /// This node's address among its pods: their gateway, and where a node-local DNS server listens.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Gives the sandbox whose network namespace is pinned at `netns` its loopback, link, address and routes, and leads
    /// the node's ports to it. A sandbox connected before is connected anew, with the same address.
    pub fn attach(&self, netns: &Path, sandbox: &str, ports: &[PortMapping]) -> Result<Vec<IpAddr>, Error> {
        let (address, is_new) = {
            let mut state = self.state();
            let is_new = state.leases.ipam.leased_to(sandbox).is_none();
            let address = state.leases.ipam.lease(sandbox)?;
            let is_other = state.leases.set_ports(sandbox, ports);
            if is_new || is_other {
                state.leases.save()?;
            }
            if is_other {
                self.filter(&mut state)?;
            }
            (address, is_new)
        };
        let result = self.connect(netns, sandbox, address);
        if let Err(source) = result {
            if is_new {
                self.detach(sandbox)?;
            }
            return Err(Error::Attach { sandbox: sandbox.into(), source });
        }
        Ok(vec![address])
    }

    /// Takes link and address away. A sandbox that has none is no error.
    pub fn detach(&self, sandbox: &str) -> Result<(), Error> {
        let name = link_name(&self.options.cluster, sandbox);
        Links::open()
            .and_then(|mut links| links.delete(&name))
            .map_err(|source| Error::Detach { sandbox: sandbox.into(), source })?;
        let mut state = self.state();
        let had_ports = state.leases.set_ports(sandbox, &[]);
        let had_address = state.leases.ipam.release(sandbox).is_some();
        if had_ports {
            self.filter(&mut state)?;
        }
        if had_ports || had_address { state.leases.save() } else { Ok(()) }
    }

    /// The addresses of a sandbox connected now or before a restart; empty if it is not.
    pub fn addresses(&self, sandbox: &str) -> Vec<IpAddr> {
        self.state().leases.ipam.leased_to(sandbox).into_iter().collect()
    }

    /// Disconnects every sandbox that is not among the living ones and names them: what a crash left behind.
    pub fn retain(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let leaked: Vec<String> = {
            let state = self.state();
            let leases = state.leases.ipam.leases();
            leases.map(|(_, sandbox)| sandbox.to_owned()).filter(|one| !live.contains(one)).collect()
        };
        for sandbox in &leaked {
            self.detach(sandbox)?;
        }
        Ok(leaked)
    }

    /// Removes the whole network from the kernel and forgets the leases.
    pub fn remove_all(self) -> Result<(), Error> {
        remove_all(&self.options.cluster, &self.options.state_dir)
    }

    fn connect(&self, netns: &Path, sandbox: &str, address: IpAddr) -> io::Result<()> {
        let namespace = File::open(netns)?;
        let host_name = link_name(&self.options.cluster, sandbox);
        let alias = format!("{}{sandbox}/{address}", alias_prefix(&self.options.cluster));
        let veth = Veth {
            host_name: &host_name,
            pod_name: POD_INTERFACE,
            bridge: self.bridge_index,
            mtu: self.options.mtu,
            alias: &alias,
            netns: namespace.as_fd(),
            mac: pod_mac(address),
        };
        let mut links = Links::open()?;
        match links.add_veth(&veth) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                links.delete(&host_name)?;
                links.add_veth(&veth)?;
            }
            result => result?,
        }
        let gateway = self.gateway;
        coracle_linux::netns::run_in(netns, || Links::open()?.set_up_pod(POD_INTERFACE, address, gateway))?
    }

    /// Brings the kernel's packet filter to what the leases say.
    fn filter(&self, state: &mut State) -> Result<(), Error> {
        let table = planned_table(&self.options, &state.leases);
        netfilter(&encode(&table, &diff(&state.table, &table))).map_err(Error::Filter)?;
        state.table = table;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Removes a cluster's pod network from the kernel, whether or not anybody serves it, and forgets its leases.
/// Nothing there is no error.
pub fn remove_all(cluster: &str, state_dir: &Path) -> Result<(), Error> {
    let remove = || -> io::Result<()> {
        let mut links = Links::open()?;
        let prefix = alias_prefix(cluster);
        for link in links.list()?.iter().filter(|link| link.alias.starts_with(&prefix)) {
            links.delete(&link.name)?;
        }
        links.delete(&bridge_name(cluster))?;
        netfilter(&remove_table(Family::Ipv4, &table_name(cluster)))?;
        Switches::here()?.release(cluster)?;
        match fs::remove_file(state_dir.join(leases::FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    remove().map_err(|source| Error::Remove { cluster: cluster.into(), source })
}

/// The IPv4 ranges that this machine routes somewhere already: a new cluster chooses others. The Services of the
/// clusters beside are among them.
pub fn ranges_in_use() -> io::Result<Vec<Cidr>> {
    Links::open()?.routed_ranges()
}

/// `cor-NAME`, or a hash of the name where an interface's 15 bytes do not hold it.
pub fn bridge_name(cluster: &str) -> String {
    const NAME_BYTES_MAX: usize = 11;
    if cluster.len() <= NAME_BYTES_MAX {
        return format!("cor-{cluster}");
    }
    format!("cor-{:011x}", hash(cluster) & 0xfff_ffff_ffff)
}

fn planned_table(options: &Options, leases: &Leases) -> Table {
    let host_ports: Vec<HostPort> = leases.host_ports().collect();
    pod_table(&podrules::Input {
        table: &table_name(&options.cluster),
        bridge: &bridge_name(&options.cluster),
        node_range: options.node_range,
        cluster_range: options.cluster_range,
        host_ports: &host_ports,
    })
}

fn table_name(cluster: &str) -> String {
    format!("coracle-{cluster}.pods")
}

fn link_name(cluster: &str, sandbox: &str) -> String {
    format!("cv{:013x}", hash(&format!("{cluster}/{sandbox}")) & 0xf_ffff_ffff_ffff)
}

/// Made of the address, so that whoever remembers the one finds the other when an address is used again.
fn pod_mac(address: IpAddr) -> [u8; 6] {
    let [.., a, b, c, d] = octets(address)[..] else { return [2; 6] };
    [0x0a, 0x58, a, b, c, d]
}

/// An alias shows an operator whose link it is, and tells a restarted node which lease it stands for.
fn alias_prefix(cluster: &str) -> String {
    format!("coracle/{cluster}/")
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn open_bridge(options: &Options, name: &str, gateway: IpAddr) -> io::Result<u32> {
    let mut links = Links::open()?;
    if links.find(name)?.is_none() {
        let [_, _, a, b, c, d, e, _] = hash(&options.cluster).to_be_bytes();
        links.add_bridge(name, [0x02, a, b, c, d, e], options.mtu)?;
    }
    let bridge = links.find(name)?.ok_or_else(|| io::Error::other("the bridge vanished"))?;
    links.set_alias(name, &format!("{}bridge", alias_prefix(&options.cluster)))?;
    links.add_address(bridge.index, gateway, options.node_range.prefix())?;
    if let Some(range) = options.service_range {
        links.add_route(bridge.index, range)?;
    }
    fs::write(format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0")?;
    // NodePorts on 127.0.0.1: the answer of a pod to it comes in by the bridge.
    fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")?;
    Ok(bridge.index)
}

/// Leases of links that are there and that the file does not know.
fn adopt_links(cluster: &str, leases: &mut Leases) -> io::Result<()> {
    let prefix = alias_prefix(cluster);
    for link in Links::open()?.list()? {
        let Some((sandbox, address)) = link.alias.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once('/')) else {
            continue;
        };
        if let Ok(address) = address.parse()
            && leases.ipam.leased_to(sandbox).is_none()
        {
            leases.ipam.restore(address, sandbox);
        }
    }
    Ok(())
}

fn netfilter(batch: &[u8]) -> io::Result<()> {
    Socket::open(Kernel::Netfilter)?.transact(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        assert_eq!(bridge_name("coracle"), "cor-coracle");
        assert_eq!(bridge_name("a-very-long-cluster-name").len(), 15);
        assert_ne!(bridge_name("a-very-long-cluster-name"), bridge_name("a-very-long-cluster-nam2"));
        assert_eq!(link_name("a", "b").len(), 15);
        assert_ne!(link_name("a", "b"), link_name("c", "b"));
    }
}
