//! A table of nftables as data: chains, rules, sets and maps, in the words of `nft`. Two tables can be compared; the
//! difference is a list of commands, and commands become one atomic batch of netlink messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::Cidr;

mod diff;
mod encode;
mod expressions;

pub use diff::{Command, diff, replace};
pub use encode::{encode, remove_table, table_name, tables_request};

/// The bit of a packet's mark that asks for masquerading: kube-proxy's own.
pub const MARK_MASQUERADE: u32 = 0x4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    pub fn address_bytes(self) -> usize {
        match self {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        }
    }
}

/// A transport a Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Absent for a chain that is only jumped to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// Where in a packet's way a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: BaseKind,
    pub hook: Hook,
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    Filter,
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// Expressions from left to right; the first that does not hold ends the rule.
pub type Rule = Vec<Expr>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// The packet's source or destination is, or is not, inside a range.
    Address(Side, Test, Cidr),
    /// The interface a packet came in or goes out by.
    Interface(Way, Test, String),
    Transport(Protocol),
    /// The first packet of a connection.
    New,
    /// The address is one of this machine's.
    Local(Side),
    /// Whether any bit of the mask is set in the packet's mark.
    Mark(Test, u32),
    SetMark(u32),
    FlipMark(u32),
    /// The key is in a set.
    In(Vec<Field>, String),
    /// The key's verdict in a map; goes on where the map has none.
    Lookup(Vec<Field>, String),
    /// One of the verdicts, each as likely as the others.
    Spread(Vec<Verdict>),
    /// Adds the source address to a set, or begins its time there anew.
    Remember(String),
    Dnat(IpAddr, u16),
    Masquerade,
    /// Answers with "port unreachable".
    Reject,
    /// Answers with a TCP reset, which no rate limit of the kernel holds back.
    Reset,
    Verdict(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Is,
    IsNot,
}

/// A part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Source,
    Destination,
    Protocol,
    DestinationPort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub key: Vec<Field>,
    pub content: Content,
}

/// What a set holds, and who fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Keys(BTreeSet<Key>),
    Verdicts(BTreeMap<Key, Verdict>),
    /// Filled by packets; a key is forgotten after so many seconds.
    Remembered {
        seconds: u32,
    },
}

/// A value for every field of a set's key.
pub type Key = Vec<Datum>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    Address(IpAddr),
    Protocol(Protocol),
    Port(u16),
}

impl Table {
    pub fn new(family: Family, name: impl Into<String>) -> Table {
        Table { family, name: name.into(), chains: BTreeMap::new(), sets: BTreeMap::new() }
    }

    /// Adds a chain that packets pass of themselves.
    pub fn base(&mut self, name: &str, base: Base, rules: Vec<Rule>) {
        self.chains.insert(name.to_owned(), Chain { base: Some(base), rules });
    }

    /// Adds a chain that is jumped to.
    pub fn chain(&mut self, name: impl Into<String>, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { base: None, rules });
    }
}

impl Set {
    /// Whether the kernel's set can be kept and only its elements changed.
    fn same_shape(&self, other: &Set) -> bool {
        self.key == other.key
            && match (&self.content, &other.content) {
                (Content::Keys(_), Content::Keys(_)) | (Content::Verdicts(_), Content::Verdicts(_)) => true,
                (one, two) => one == two,
            }
    }

    fn elements(&self) -> BTreeMap<&Key, Option<&Verdict>> {
        match &self.content {
            Content::Keys(keys) => keys.iter().map(|key| (key, None)).collect(),
            Content::Verdicts(map) => map.iter().map(|(key, verdict)| (key, Some(verdict))).collect(),
            Content::Remembered { .. } => BTreeMap::new(),
        }
    }
}
