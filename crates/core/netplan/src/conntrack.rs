//! Flows that connection tracking remembers wrongly. UDP has no end of a connection: a client that keeps its port would
//! be sent to an endpoint that is gone for as long as it talks. Numbers are those of
//! linux/netfilter/nfnetlink_conntrack.h.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::nft::{Family, Protocol};
use crate::wire::{Writer, attribute, flag};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const HEADER_BYTES: usize = 4;

/// By service address and port, the endpoints to which a flow may go.
pub type Targets = BTreeMap<(IpAddr, u16), BTreeSet<IpAddr>>;

/// Asks for all flows of a family.
pub fn flows_request(family: Family) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.message(SUBSYSTEM << 8 | GET, flag::DUMP, &header(family), |_| {});
    writer.finish()
}

/// The message that forgets the flow of one answer, if the flow goes to a service address and on to none of its
/// endpoints.
pub fn forget_if_stale(answer: &[u8], family: Family, targets: &Targets) -> Option<Vec<u8>> {
    let flow = answer.get(HEADER_BYTES..)?;
    let original = attribute(flow, TUPLE_ORIGINAL)?;
    let sent = Tuple::read(original)?;
    let answered = Tuple::read(attribute(flow, TUPLE_REPLY)?)?;
    if sent.protocol != Protocol::Udp.number() {
        return None;
    }
    let right = targets.get(&(sent.destination, sent.destination_port))?;
    if right.contains(&answered.source) {
        return None;
    }
    let mut writer = Writer::new();
    writer.message(SUBSYSTEM << 8 | DELETE, flag::ACK, &header(family), |body| {
        body.nest(TUPLE_ORIGINAL, |tuple| {
            tuple.raw(original);
        });
    });
    Some(writer.finish())
}

fn header(family: Family) -> [u8; HEADER_BYTES] {
    [if family == Family::Ipv4 { 2 } else { 10 }, 0, 0, 0]
}

struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    destination_port: u16,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Tuple> {
        let (addresses, protocol) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
        let address = |short, long| attribute(addresses, short).or(attribute(addresses, long)).and_then(address_of);
        let port = attribute(protocol, 3).and_then(|value| Some(u16::from_be_bytes(value.try_into().ok()?)));
        Some(Tuple {
            source: address(1, 3)?,
            destination: address(2, 4)?,
            protocol: *attribute(protocol, 1)?.first()?,
            destination_port: port.unwrap_or_default(),
        })
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(service: [u8; 4], endpoint: [u8; 4], protocol: u8) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(&header(Family::Ipv4));
        for (number, source, destination) in [(1, [10, 0, 0, 1], service), (2, endpoint, [10, 0, 0, 1])] {
            writer.nest(number, |tuple| {
                tuple.nest(1, |addresses| {
                    addresses.put(1, &source).put(2, &destination);
                });
                tuple.nest(2, |ports| {
                    ports.put(1, &[protocol]).put(2, &[1, 1]).put(3, &[0, 53]);
                });
            });
        }
        writer.finish()
    }

    #[test]
    fn only_flows_to_a_wrong_endpoint_are_forgotten() {
        let right = BTreeSet::from(["10.42.0.2".parse().unwrap()]);
        let targets = Targets::from([(("10.96.0.10".parse().unwrap(), 53), right)]);
        let is_stale = |flow: Vec<u8>| forget_if_stale(&flow, Family::Ipv4, &targets).is_some();
        assert!(is_stale(flow([10, 96, 0, 10], [10, 42, 0, 3], 17)));
        assert!(is_stale(flow([10, 96, 0, 10], [10, 96, 0, 10], 17)), "sent nowhere while there was no endpoint");
        assert!(!is_stale(flow([10, 96, 0, 10], [10, 42, 0, 2], 17)));
        assert!(!is_stale(flow([10, 96, 0, 10], [10, 42, 0, 3], 6)));
        assert!(!is_stale(flow([10, 96, 0, 11], [10, 42, 0, 3], 17)));
        assert!(forget_if_stale(&[1, 2], Family::Ipv4, &targets).is_none());
    }
}
