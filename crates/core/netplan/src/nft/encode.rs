//! Commands as one batch of netlink messages, by the numbers of linux/netfilter/nf_tables.h.

use super::expressions::Expressions;
use super::{Base, BaseKind, Command, Content, Datum, Expr, Family, Field, Hook, Key, Set, Table, Verdict};
use crate::cidr::octets;
use crate::wire::{Writer, attribute, flag, text};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const TYPE_INTEGER: u32 = 4;

/// So that an attribute with all of them stays below 64 KiB.
const ELEMENTS_PER_MESSAGE_MAX: usize = 300;

/// The batch that carries out `commands` on the table's name and family: all or nothing.
pub fn encode(table: &Table, commands: &[Command]) -> Vec<u8> {
    let mut batch = Batch { writer: Writer::new(), family: table.family, table: &table.name, sets: 0 };
    batch.envelope(BATCH_BEGIN);
    for command in commands {
        batch.command(command);
    }
    batch.writer.acknowledge_last();
    batch.envelope(BATCH_END);
    batch.writer.finish()
}

/// The batch that removes a table, which need not exist.
pub fn remove_table(family: Family, name: &str) -> Vec<u8> {
    encode(&Table::new(family, name), &[Command::AddTable, Command::DeleteTable])
}

/// The request for a listing of all tables of a family.
pub fn tables_request(family: Family) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.message(SUBSYSTEM << 8 | GET_TABLE, flag::DUMP, &header(family, 0), |_| {});
    writer.finish()
}

/// The name in one answer to `tables_request`.
pub fn table_name(answer: &[u8]) -> Option<String> {
    attribute(answer.get(4..)?, 1).map(text)
}

pub(super) fn header(family: Family, resource: u16) -> [u8; 4] {
    let number = match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    };
    let [high, low] = resource.to_be_bytes();
    [number, 0, high, low]
}

struct Batch<'a> {
    writer: Writer,
    family: Family,
    table: &'a str,
    /// Numbers given to sets, unique in the batch.
    sets: u32,
}

impl Batch<'_> {
    fn envelope(&mut self, kind: u16) {
        self.writer.message(kind, 0, &[0, 0, 0, SUBSYSTEM as u8], |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        let table = self.table;
        self.writer.message(SUBSYSTEM << 8 | kind, flags, &header(self.family, 0), |writer| {
            writer.put_text(1, table);
            body(writer);
        });
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::AddTable => self.message(NEW_TABLE, flag::CREATE, |_| {}),
            Command::DeleteTable => self.message(DELETE_TABLE, 0, |_| {}),
            Command::AddChain(name, base) => self.message(NEW_CHAIN, flag::CREATE, |writer| {
                writer.put_text(3, name);
                if let Some(base) = base {
                    put_base(writer, base);
                }
            }),
            Command::FlushChain(name) => self.message(DELETE_RULE, 0, |writer| {
                writer.put_text(2, name);
            }),
            Command::DeleteChain(name) => self.message(DELETE_CHAIN, 0, |writer| {
                writer.put_text(3, name);
            }),
            Command::AddRule(chain, rule) => self.add_rule(chain, rule),
            Command::AddSet(name, set) => self.add_set(name, set),
            Command::DeleteSet(name) => self.message(DELETE_SET, 0, |writer| {
                writer.put_text(2, name);
            }),
            Command::AddElements(set, elements) => {
                for part in elements.chunks(ELEMENTS_PER_MESSAGE_MAX) {
                    self.elements(NEW_ELEMENT, set, part.iter().map(|(key, verdict)| (key, verdict.as_ref())));
                }
            }
            Command::DeleteElements(set, keys) => {
                for part in keys.chunks(ELEMENTS_PER_MESSAGE_MAX) {
                    self.elements(DELETE_ELEMENT, set, part.iter().map(|key| (key, None)));
                }
            }
        }
    }

    fn add_set(&mut self, name: &str, set: &Set) {
        self.sets += 1;
        let number = self.sets;
        let family = self.family;
        self.message(NEW_SET, flag::CREATE, |writer| {
            let flags = match set.content {
                Content::Keys(_) => 0,
                Content::Verdicts(_) => SET_MAP,
                Content::Remembered { .. } => SET_TIMEOUT | SET_EVAL,
            };
            let kind = set.key.iter().fold(0, |sum, field| sum << 6 | field_type(*field, family));
            let length: usize = set.key.iter().map(|field| field_bytes(*field, family).next_multiple_of(4)).sum();
            let length = if set.key.len() == 1 { field_bytes(set.key[0], family) } else { length };
            writer.put_text(2, name).put_be32(3, flags).put_be32(4, kind).put_be32(5, length as u32);
            if flags & SET_MAP != 0 {
                writer.put_be32(6, TYPE_VERDICT);
            }
            writer.put_be32(10, number);
            if let Content::Remembered { seconds } = set.content {
                writer.put(11, &(u64::from(seconds) * 1000).to_be_bytes());
            }
        });
    }

    fn elements<'k>(&mut self, kind: u16, set: &str, elements: impl Iterator<Item = (&'k Key, Option<&'k Verdict>)>) {
        let single_width = |key: &Key| if key.len() == 1 { 1 } else { 4 };
        self.message(kind, if kind == NEW_ELEMENT { flag::CREATE } else { 0 }, |writer| {
            writer.put_text(2, set).nest(3, |list| {
                for (key, verdict) in elements {
                    let bytes = key_bytes(key, single_width(key));
                    put_element(list, &bytes, verdict);
                }
            });
        });
    }

    fn add_rule(&mut self, chain: &str, rule: &[Expr]) {
        // The kernel wants a rule's nameless maps before the rule.
        let maps: Vec<Option<u32>> = rule
            .iter()
            .map(|expr| match expr {
                Expr::Spread(verdicts) => Some(self.add_choices(verdicts)),
                _ => None,
            })
            .collect();
        let family = self.family;
        self.message(NEW_RULE, flag::CREATE | flag::APPEND, |writer| {
            writer.put_text(2, chain).nest(4, |list| {
                for (expr, map) in rule.iter().zip(maps) {
                    Expressions { list, family }.put(expr, map);
                }
            });
        });
    }

    /// A nameless map from 0, 1, 2… to verdicts; gives its number in the batch.
    fn add_choices(&mut self, verdicts: &[Verdict]) -> u32 {
        self.sets += 1;
        let number = self.sets;
        self.message(NEW_SET, flag::CREATE, |writer| {
            writer.put_text(2, NAMELESS).put_be32(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP);
            writer.put_be32(4, TYPE_INTEGER).put_be32(5, 4).put_be32(6, TYPE_VERDICT).put_be32(10, number);
            writer.nest(9, |description| {
                description.put_be32(1, verdicts.len() as u32);
            });
            // For `nft list`: the key is in the machine's byte order.
            writer.put(13, &[0, 4, 1, 0, 0, 0]);
        });
        let indexed: Vec<(u32, &Verdict)> = (0..).zip(verdicts).collect();
        for part in indexed.chunks(ELEMENTS_PER_MESSAGE_MAX) {
            self.message(NEW_ELEMENT, flag::CREATE, |writer| {
                writer.put_text(2, NAMELESS).put_be32(4, number).nest(3, |list| {
                    for (index, verdict) in part {
                        put_element(list, &index.to_ne_bytes(), Some(verdict));
                    }
                });
            });
        }
        number
    }
}

/// The kernel puts a free number in.
pub(super) const NAMELESS: &str = "__map%d";

fn put_base(writer: &mut Writer, base: &Base) {
    let hook = match base.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    writer.nest(4, |inner| {
        inner.put_be32(1, hook).put_be32(2, base.priority as u32);
    });
    writer.put_be32(5, 1);
    writer.put_text(
        7,
        match base.kind {
            BaseKind::Filter => "filter",
            BaseKind::Nat => "nat",
        },
    );
}

fn put_element(list: &mut Writer, key: &[u8], verdict: Option<&Verdict>) {
    list.nest(1, |element| {
        element.nest(1, |data| {
            data.put(1, key);
        });
        if let Some(verdict) = verdict {
            element.nest(2, |data| put_verdict(data, verdict));
        }
    });
}

pub(super) fn put_verdict(data: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    data.nest(2, |inner| {
        inner.put_be32(1, code as u32);
        if let Some(chain) = chain {
            inner.put_text(2, chain);
        }
    });
}

fn key_bytes(key: &Key, width: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for datum in key {
        match datum {
            Datum::Address(address) => bytes.extend(octets(*address)),
            Datum::Protocol(protocol) => bytes.push(protocol.number()),
            Datum::Port(port) => bytes.extend(port.to_be_bytes()),
        }
        bytes.resize(bytes.len().next_multiple_of(width), 0);
    }
    bytes
}

fn field_type(field: Field, family: Family) -> u32 {
    match (field, family) {
        (Field::Source | Field::Destination, Family::Ipv4) => 7,
        (Field::Source | Field::Destination, Family::Ipv6) => 8,
        (Field::Protocol, _) => 12,
        (Field::DestinationPort, _) => 13,
    }
}

pub(super) fn field_bytes(field: Field, family: Family) -> usize {
    match field {
        Field::Source | Field::Destination => family.address_bytes(),
        Field::Protocol => 1,
        Field::DestinationPort => 2,
    }
}
