//! A question of the wire as one of the zone, and the zone's answer as a message. What is not the zone's is left to the
//! caller, who may ask elsewhere.

use coracle_zones::{Answer, Data, Query as Asked, Record as ZoneRecord, Zone};
use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Seconds: Services change, and whoever remembers longer talks to pods that are gone.
const LIFE_SECONDS: u32 = 5;
/// What every resolver takes without saying so (RFC 1035).
const UDP_BYTES_PLAIN: u16 = 512;
/// What passes without fragments on any link (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1232;
const ALIASES_MAX: usize = 8;

/// What is to be done about a request.
pub enum Next {
    Send(Message),
    /// The name is not of the cluster.
    Forward,
    /// The answer so far ends in a name outside, whose addresses belong into it.
    Follow {
        message: Message,
        target: String,
    },
}

/// Answers a request from the zone.
pub fn respond(zone: &Zone, request: &Message) -> Next {
    if request.metadata.op_code != OpCode::Query {
        return Next::Send(refuse(request, ResponseCode::NotImp));
    }
    let [query] = &request.queries[..] else { return Next::Send(refuse(request, ResponseCode::FormErr)) };
    if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Next::Send(refuse(request, ResponseCode::BADVERS));
    }
    if query.query_class() != DNSClass::IN {
        return Next::Forward;
    }
    let name = plain(query.name());
    let mut message = reply_to(request);
    message.metadata.authoritative = true;
    match zone.answer(&name, asked(query.query_type())) {
        Answer::Foreign => Next::Forward,
        Answer::NoData => Next::Send(negative(message, zone, ResponseCode::NoError)),
        Answer::NoName => Next::Send(negative(message, zone, ResponseCode::NXDomain)),
        Answer::Found { records, extra } => {
            let target = alias(&records);
            add(&mut message, zone, query, records, extra);
            match target {
                Some(target) if matches!(query.query_type(), RecordType::A | RecordType::AAAA) => {
                    follow(message, zone, query, target)
                }
                _ => Next::Send(message),
            }
        }
    }
}

/// Follows an alias as long as it stays inside the zone.
fn follow(mut message: Message, zone: &Zone, query: &Query, mut target: String) -> Next {
    for _ in 0..ALIASES_MAX {
        match zone.answer(&target, asked(query.query_type())) {
            Answer::Foreign => return Next::Follow { message, target },
            Answer::NoData | Answer::NoName => return Next::Send(message),
            Answer::Found { records, extra } => {
                let next = alias(&records);
                add(&mut message, zone, query, records, extra);
                match next {
                    Some(next) => target = next,
                    None => return Next::Send(message),
                }
            }
        }
    }
    message.metadata.response_code = ResponseCode::ServFail;
    Next::Send(message)
}

/// An answer to this request that holds nothing yet.
pub fn reply_to(request: &Message) -> Message {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.recursion_available = true;
    message.queries = request.queries.clone();
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        message.set_edns(edns);
    }
    message
}

pub fn refuse(request: &Message, code: ResponseCode) -> Message {
    let mut message = reply_to(request);
    message.metadata.response_code = code;
    if let Some(edns) = &mut message.edns {
        edns.set_rcode_high(code.high());
    }
    message
}

/// The bytes for a UDP client: cut to what it takes, with the sign that TCP has the whole.
pub fn encode_udp(message: &Message, request: &Message) -> Option<Vec<u8>> {
    let wanted = request.edns.as_ref().map_or(UDP_BYTES_PLAIN, Edns::max_payload);
    let bytes_max = wanted.clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX);
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(bytes_max) {
        return Some(bytes);
    }
    message.truncate().to_vec().ok()
}

/// The request that asks elsewhere for an alias' target.
pub fn question_for(target: &str, request: &Message) -> Option<Message> {
    let mut message = Message::new(request.metadata.id, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire(target)?, request.queries.first()?.query_type()));
    Some(message)
}

fn asked(kind: RecordType) -> Asked {
    match kind {
        RecordType::A => Asked::A,
        RecordType::AAAA => Asked::Aaaa,
        RecordType::SRV => Asked::Srv,
        RecordType::PTR => Asked::Ptr,
        RecordType::TXT => Asked::Txt,
        RecordType::CNAME => Asked::Cname,
        RecordType::SOA => Asked::Soa,
        RecordType::ANY => Asked::Any,
        _ => Asked::Other,
    }
}

fn alias(records: &[ZoneRecord]) -> Option<String> {
    match records {
        [ZoneRecord { data: Data::Cname(target), .. }] => Some(target.clone()),
        _ => None,
    }
}

fn add(message: &mut Message, zone: &Zone, query: &Query, records: Vec<ZoneRecord>, extra: Vec<ZoneRecord>) {
    message.answers.extend(records.into_iter().filter_map(|record| on_wire(zone, query, record)));
    message.additionals.extend(extra.into_iter().filter_map(|record| on_wire(zone, query, record)));
}

fn negative(mut message: Message, zone: &Zone, code: ResponseCode) -> Message {
    message.metadata.response_code = code;
    message.authorities.extend(soa(zone));
    message
}

fn on_wire(zone: &Zone, query: &Query, record: ZoneRecord) -> Option<Record> {
    let data = match record.data {
        Data::Address(std::net::IpAddr::V4(address)) => RData::A(A(address)),
        Data::Address(std::net::IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
        Data::Cname(target) => RData::CNAME(CNAME(wire(&target)?)),
        Data::Srv { weight, port, target } => RData::SRV(SRV::new(0, weight, port, wire(&target)?)),
        Data::Ptr(target) => RData::PTR(PTR(wire(&target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text])),
        Data::Soa => return soa(zone),
    };
    // The name comes back in the asker's own letters, which some resolvers compare.
    let is_asked = record.name == plain(query.name());
    let name = if is_asked { query.name().clone() } else { wire(&record.name)? };
    Some(Record::from_rdata(name, LIFE_SECONDS, data))
}

fn soa(zone: &Zone) -> Option<Record> {
    let name = wire(zone.domain())?;
    let server = wire(&format!("ns.dns.{}", zone.domain()))?;
    let person = wire(&format!("hostmaster.{}", zone.domain()))?;
    let times = SOA::new(server, person, zone.serial(), 7200, 1800, 86400, LIFE_SECONDS);
    Some(Record::from_rdata(name, LIFE_SECONDS, RData::SOA(times)))
}

fn plain(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

fn wire(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}
