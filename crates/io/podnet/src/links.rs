//! Links, addresses and routes by rtnetlink: the few messages a pod network needs, by the numbers of
//! linux/if_link.h and linux/rtnetlink.h. It decides nothing.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use coracle_linux::netlink::{Family, Socket};
use coracle_netplan::Cidr;
use coracle_netplan::cidr::octets;
use coracle_netplan::wire::{Writer, attribute, flag, text};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const LINK_MAC: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_ALIAS: u16 = 20;
const LINK_NETNS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
const UP: u32 = 1;
/// The loopback link is the first of every namespace.
pub const LOOPBACK: u32 = 1;

const SCOPE_GLOBAL: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const ROUTE_UNICAST: u8 = 1;

/// A link as a listing tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
}

/// What connects one pod with its node.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    pub host_name: &'a str,
    pub pod_name: &'a str,
    pub bridge: u32,
    pub mtu: u32,
    pub alias: &'a str,
    pub netns: BorrowedFd<'a>,
    /// Of the pod's end.
    pub mac: [u8; 6],
}

/// A conversation with the namespace of the thread that opened it.
pub struct Links {
    socket: Socket,
}

impl Links {
    pub fn open() -> io::Result<Links> {
        Ok(Links { socket: Socket::open(Family::Route)? })
    }

    pub fn list(&mut self) -> io::Result<Vec<Link>> {
        let mut writer = Writer::new();
        writer.message(GET_LINK, flag::DUMP, &link_header(0, 0, 0), |_| {});
        let answers = self.socket.dump(&writer.finish())?;
        Ok(answers.iter().filter_map(|answer| link_of(answer)).collect())
    }

    pub fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut writer = Writer::new();
        writer.message(GET_LINK, 0, &link_header(0, 0, 0), |body| {
            body.put_text(LINK_NAME, name);
        });
        match self.socket.dump(&writer.finish()) {
            Ok(answers) => Ok(answers.first().and_then(|answer| link_of(answer))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge and takes it up. With an address of its own it does not change that of its first port.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
        let mut writer = Writer::new();
        writer.message(NEW_LINK, flag::ACK | flag::CREATE | flag::EXCL, &link_header(0, UP, UP), |body| {
            body.put_text(LINK_NAME, name).put(LINK_MAC, &mac).put_u32(LINK_MTU, mtu);
            body.nest(LINK_INFO, |info| {
                info.put_text(INFO_KIND, "bridge");
            });
        });
        self.socket.transact(&writer.finish())
    }

    /// Makes a pair of links: one a port of the bridge, the other inside the pod's namespace.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> io::Result<()> {
        let mut writer = Writer::new();
        writer.message(NEW_LINK, flag::ACK | flag::CREATE | flag::EXCL, &link_header(0, UP, UP), |body| {
            body.put_text(LINK_NAME, veth.host_name).put_u32(LINK_MTU, veth.mtu);
            body.put_u32(LINK_MASTER, veth.bridge);
            body.nest(LINK_INFO, |info| {
                info.put_text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                    data.nest(VETH_PEER, |peer| {
                        peer.raw(&link_header(0, 0, 0)).put_text(LINK_NAME, veth.pod_name);
                        peer.put(LINK_MAC, &veth.mac).put_u32(LINK_MTU, veth.mtu);
                        peer.put_u32(LINK_NETNS_FD, veth.netns.as_raw_fd() as u32);
                    });
                });
            });
        });
        writer.message(NEW_LINK, flag::ACK, &link_header(0, 0, 0), |body| {
            body.put_text(LINK_NAME, veth.host_name).put(LINK_ALIAS, veth.alias.as_bytes());
            body.nest(LINK_INFO, |info| {
                info.put_text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |data| {
                    data.put(PORT_HAIRPIN, &[1]);
                });
            });
        });
        self.socket.transact(&writer.finish())
    }

    pub fn set_alias(&mut self, name: &str, alias: &str) -> io::Result<()> {
        let mut writer = Writer::new();
        writer.message(NEW_LINK, flag::ACK, &link_header(0, 0, 0), |body| {
            body.put_text(LINK_NAME, name).put(LINK_ALIAS, alias.as_bytes());
        });
        self.socket.transact(&writer.finish())
    }

    /// Removes a link; one that is gone is no error.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut writer = Writer::new();
        writer.message(DELETE_LINK, flag::ACK, &link_header(0, 0, 0), |body| {
            body.put_text(LINK_NAME, name);
        });
        match self.socket.transact(&writer.finish()) {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }

    /// Gives a link an address of a range of this length; there already is no error.
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut writer = Writer::new();
        put_address(&mut writer, link, address, prefix);
        self.socket.transact(&writer.finish())
    }

    /// Sends a range out of a link; there already is no error.
    pub fn add_route(&mut self, link: u32, range: Cidr) -> io::Result<()> {
        let mut writer = Writer::new();
        put_route(&mut writer, link, Some(range), None);
        self.socket.transact(&writer.finish())
    }

    /// Everything a pod's end needs: loopback up, its one address, and the gateway as the way to everything else, the
    /// pods beside it included, so that the node sees every packet and translates Services both ways.
    pub fn set_up_pod(&mut self, name: &str, address: IpAddr, gateway: IpAddr) -> io::Result<()> {
        let Some(link) = self.find(name)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the pod's end of the link is missing"));
        };
        let mut writer = Writer::new();
        for index in [LOOPBACK, link.index] {
            writer.message(NEW_LINK, flag::ACK, &link_header(index, UP, UP), |_| {});
        }
        put_address(&mut writer, link.index, address, Cidr::host(address).prefix());
        put_route(&mut writer, link.index, Some(Cidr::host(gateway)), None);
        put_route(&mut writer, link.index, None, Some(gateway));
        self.socket.transact(&writer.finish())
    }

    /// The ranges that this machine's main routing table sends somewhere, the default route left out.
    pub fn routed_ranges(&mut self) -> io::Result<Vec<Cidr>> {
        let mut writer = Writer::new();
        writer.message(GET_ROUTE, flag::DUMP, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], |_| {});
        let answers = self.socket.dump(&writer.finish())?;
        Ok(answers.iter().filter_map(|answer| range_of(answer)).collect())
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for number in [index, flags, change] {
        header.extend_from_slice(&number.to_ne_bytes());
    }
    header
}

fn number_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn put_address(writer: &mut Writer, link: u32, address: IpAddr, prefix: u8) {
    let mut header = vec![number_of(address), prefix, 0, SCOPE_GLOBAL];
    header.extend_from_slice(&link.to_ne_bytes());
    writer.message(NEW_ADDRESS, flag::ACK | flag::CREATE | flag::REPLACE, &header, |body| {
        body.put(2, &octets(address)).put(1, &octets(address));
    });
}

fn put_route(writer: &mut Writer, link: u32, range: Option<Cidr>, gateway: Option<IpAddr>) {
    let family = gateway.or(range.map(|range| range.network())).map_or(2, number_of);
    let scope = if gateway.is_some() { SCOPE_GLOBAL } else { SCOPE_LINK };
    let prefix = range.map_or(0, |range| range.prefix());
    let header = [family, prefix, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, scope, ROUTE_UNICAST, 0, 0, 0, 0];
    writer.message(NEW_ROUTE, flag::ACK | flag::CREATE | flag::REPLACE, &header, |body| {
        if let Some(range) = range {
            body.put(1, &octets(range.network()));
        }
        if let Some(gateway) = gateway {
            body.put(5, &octets(gateway));
        }
        body.put_u32(4, link);
    });
}

fn link_of(answer: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(answer.get(4..8)?.try_into().ok()?);
    let rest = answer.get(16..)?;
    let value = |kind| attribute(rest, kind).map(text).unwrap_or_default();
    Some(Link { index, name: value(LINK_NAME), alias: value(LINK_ALIAS) })
}

fn range_of(answer: &[u8]) -> Option<Cidr> {
    let (prefix, table) = (*answer.get(1)?, *answer.get(4)?);
    let address: [u8; 4] = attribute(answer.get(12..)?, 1)?.try_into().ok()?;
    if table != TABLE_MAIN || prefix == 0 {
        return None;
    }
    Cidr::new(address.into(), prefix)
}

fn is_gone(error: &io::Error) -> bool {
    const NO_DEVICE: i32 = 19;
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<coracle_linux::netlink::Refused>());
    let code = refused.map_or(error.raw_os_error(), |refused| refused.source.raw_os_error());
    code == Some(NO_DEVICE)
}
