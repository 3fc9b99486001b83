//! Expressions of a rule as netlink attributes. Every value passes through the registers from the first on; no
//! expression leaves one for a later one to read, so each stands for itself.

use std::net::IpAddr;

use super::encode::{NAMELESS, field_bytes, header, put_verdict};
use super::{Expr, Family, Field, Side, Test, Way};
use crate::cidr::octets;
use crate::wire::Writer;

const REGISTER_VERDICT: u32 = 0;
/// The first of the sixteen registers of 4 bytes.
const REGISTER: u32 = 8;

/// Writes the expressions of one rule.
pub(super) struct Expressions<'a> {
    pub list: &'a mut Writer,
    pub family: Family,
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const META_MARK: u32 = 3;
const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const META_TRANSPORT: u32 = 16;
const STATE_NEW: u32 = 8;
const ROUTE_LOCAL: u32 = 2;
const INTERFACE_NAME_BYTES: usize = 16;

impl Expressions<'_> {
    /// `map` is the number of the nameless map made for a `Spread`.
    pub fn put(&mut self, expr: &Expr, map: Option<u32>) {
        match expr {
            Expr::Address(side, test, range) => {
                self.load_address(*side, REGISTER);
                let zero = vec![0; range.mask().len()];
                self.bitwise(&range.mask(), &zero);
                self.compare(operator(*test), &octets(range.network()));
            }
            Expr::Interface(way, test, name) => {
                self.load_meta(if *way == Way::In { META_IN_NAME } else { META_OUT_NAME }, REGISTER);
                let mut padded = name.as_bytes().to_vec();
                padded.resize(INTERFACE_NAME_BYTES, 0);
                self.compare(operator(*test), &padded);
            }
            Expr::Transport(protocol) => self.transport_is(protocol.number()),
            Expr::New => {
                self.expr("ct", |data| {
                    data.put_be32(1, REGISTER).put_be32(2, 0);
                });
                self.bitwise(&STATE_NEW.to_ne_bytes(), &[0; 4]);
                self.compare(NOT_EQUAL, &[0; 4]);
            }
            Expr::Local(side) => self.local(*side),
            Expr::Mark(test, mask) => {
                self.load_meta(META_MARK, REGISTER);
                self.bitwise(&mask.to_ne_bytes(), &[0; 4]);
                self.compare(if *test == Test::Is { NOT_EQUAL } else { EQUAL }, &[0; 4]);
            }
            Expr::SetMark(bits) => self.change_mark(!bits, *bits),
            Expr::FlipMark(bits) => self.change_mark(u32::MAX, *bits),
            _ => self.act(expr, map),
        }
    }

    fn act(&mut self, expr: &Expr, map: Option<u32>) {
        match expr {
            Expr::In(key, set) => {
                self.load_key(key);
                self.expr("lookup", |data| {
                    data.put_text(1, set).put_be32(2, REGISTER);
                });
            }
            Expr::Lookup(key, set) => {
                self.load_key(key);
                self.expr("lookup", |data| {
                    data.put_text(1, set).put_be32(2, REGISTER).put_be32(3, REGISTER_VERDICT);
                });
            }
            Expr::Spread(verdicts) => self.spread(verdicts.len() as u32, map.unwrap_or_default()),
            Expr::Remember(set) => {
                self.load_address(Side::Source, REGISTER);
                self.expr("dynset", |data| {
                    data.put_text(1, set).put_be32(3, 1).put_be32(4, REGISTER);
                });
            }
            Expr::Dnat(address, port) => self.dnat(*address, *port),
            Expr::Masquerade => self.expr("masq", |data| {
                data.put_be32(1, 0x10);
            }),
            Expr::Reject => {
                let code = if self.family == Family::Ipv4 { 3 } else { 4 };
                self.expr("reject", |data| {
                    data.put_be32(1, 0).put(2, &[code]);
                });
            }
            Expr::Reset => self.expr("reject", |data| {
                data.put_be32(1, 1);
            }),
            Expr::Verdict(verdict) => self.expr("immediate", |data| {
                data.put_be32(1, REGISTER_VERDICT).nest(2, |value| put_verdict(value, verdict));
            }),
            _ => {}
        }
    }

    fn expr(&mut self, name: &str, body: impl FnOnce(&mut Writer)) {
        self.list.nest(1, |element| {
            element.put_text(1, name).nest(2, body);
        });
    }

    fn load_payload(&mut self, base: u32, offset: usize, length: usize, register: u32) {
        self.expr("payload", |data| {
            data.put_be32(1, register).put_be32(2, base).put_be32(3, offset as u32).put_be32(4, length as u32);
        });
    }

    fn load_address(&mut self, side: Side, register: u32) {
        let offset = match (self.family, side) {
            (Family::Ipv4, Side::Source) => 12,
            (Family::Ipv4, Side::Destination) => 16,
            (Family::Ipv6, Side::Source) => 8,
            (Family::Ipv6, Side::Destination) => 24,
        };
        self.load_payload(1, offset, self.family.address_bytes(), register);
    }

    fn load_meta(&mut self, key: u32, register: u32) {
        self.expr("meta", |data| {
            data.put_be32(1, register).put_be32(2, key);
        });
    }

    fn load_key(&mut self, key: &[Field]) {
        let mut register = REGISTER;
        for field in key {
            match field {
                Field::Source => self.load_address(Side::Source, register),
                Field::Destination => self.load_address(Side::Destination, register),
                Field::Protocol => self.load_meta(META_TRANSPORT, register),
                Field::DestinationPort => self.load_payload(2, 2, 2, register),
            }
            register += (field_bytes(*field, self.family) as u32).div_ceil(4);
        }
    }

    fn bitwise(&mut self, mask: &[u8], flip: &[u8]) {
        self.expr("bitwise", |data| {
            data.put_be32(1, REGISTER).put_be32(2, REGISTER).put_be32(3, mask.len() as u32);
            data.nest(4, |value| {
                value.put(1, mask);
            });
            data.nest(5, |value| {
                value.put(1, flip);
            });
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expr("cmp", |data| {
            data.put_be32(1, REGISTER).put_be32(2, operator).nest(3, |inner| {
                inner.put(1, value);
            });
        });
    }

    fn transport_is(&mut self, number: u8) {
        self.load_meta(META_TRANSPORT, REGISTER);
        self.compare(EQUAL, &[number]);
    }

    fn local(&mut self, side: Side) {
        let flags = if side == Side::Source { 1 } else { 2 };
        self.expr("fib", |data| {
            data.put_be32(1, REGISTER).put_be32(2, 3).put_be32(3, flags);
        });
        self.compare(EQUAL, &ROUTE_LOCAL.to_ne_bytes());
    }

    fn change_mark(&mut self, keep: u32, flip: u32) {
        self.load_meta(META_MARK, REGISTER);
        self.bitwise(&keep.to_ne_bytes(), &flip.to_ne_bytes());
        self.expr("meta", |data| {
            data.put_be32(2, META_MARK).put_be32(3, REGISTER);
        });
    }

    fn spread(&mut self, choices: u32, map: u32) {
        self.expr("numgen", |data| {
            data.put_be32(1, REGISTER).put_be32(2, choices).put_be32(3, 1).put_be32(4, 0);
        });
        self.expr("lookup", |data| {
            data.put_text(1, NAMELESS).put_be32(2, REGISTER).put_be32(3, REGISTER_VERDICT).put_be32(4, map);
        });
    }

    fn dnat(&mut self, address: IpAddr, port: u16) {
        let second = REGISTER + (self.family.address_bytes() / 4) as u32;
        self.immediate(REGISTER, &octets(address));
        self.immediate(second, &port.to_be_bytes());
        let family = u32::from(header(self.family, 0)[0]);
        self.expr("nat", |data| {
            data.put_be32(1, 1).put_be32(2, family).put_be32(3, REGISTER).put_be32(5, second);
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expr("immediate", |data| {
            data.put_be32(1, register).nest(2, |inner| {
                inner.put(1, value);
            });
        });
    }
}

fn operator(test: Test) -> u32 {
    match test {
        Test::Is => EQUAL,
        Test::IsNot => NOT_EQUAL,
    }
}
