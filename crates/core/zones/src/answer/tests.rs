//! The tables of the Kubernetes DNS specification.

use super::*;

fn port(name: &str, protocol: &str, number: u16) -> ZonePort {
    ZonePort { name: name.into(), protocol: protocol.into(), number }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> ZoneEndpoint {
    ZoneEndpoint {
        addresses: vec![address.parse().unwrap()],
        hostname: hostname.map(Into::into),
        ready,
        ports: vec![port("http", "tcp", 8080)],
    }
}

fn zone() -> Zone {
    let mut zone = Zone::new("Cluster.Local.");
    let name = |service: &str| ("default".to_owned(), service.to_owned());
    let service = |kind| ZoneService { kind, ports: vec![port("http", "tcp", 80)], publish_unready: false };
    let own = vec!["10.96.0.20".parse().unwrap()];
    zone.set_service(name("web"), Some(service(Kind::Addressed(own))));
    zone.set_service(name("db"), Some(service(Kind::Headless)));
    zone.set_service(name("empty"), Some(service(Kind::Headless)));
    zone.set_service(name("out"), Some(service(Kind::External("example.com".into()))));
    let endpoints = vec![
        endpoint("10.42.0.2", Some("db-0"), true),
        endpoint("10.42.0.3", None, true),
        endpoint("10.42.0.4", Some("db-2"), false),
    ];
    zone.set_slice(name("db-x"), Some((name("db"), endpoints)));
    zone
}

fn ask(name: &str, query: Query) -> Answer {
    zone().answer(name, query)
}

fn texts(answer: Answer) -> Vec<String> {
    match answer {
        Answer::Found { records, .. } => records
            .into_iter()
            .map(|record| match record.data {
                Data::Address(address) => address.to_string(),
                Data::Cname(name) | Data::Ptr(name) | Data::Txt(name) => name,
                Data::Srv { weight, port, target } => format!("{weight} {port} {target}"),
                Data::Soa => "soa".into(),
            })
            .collect(),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn names_resolve_as_the_specification_says() {
    let cases: [(&str, Query, &[&str]); 26] = [
        ("web.default.svc.cluster.local", Query::A, &["10.96.0.20"]),
        ("web.default.svc.cluster.local", Query::Aaaa, &["NoData"]),
        ("web.default.svc.cluster.local", Query::Srv, &["100 80 web.default.svc.cluster.local"]),
        ("web.default.svc.cluster.local", Query::Txt, &["NoData"]),
        ("_http._tcp.web.default.svc.cluster.local", Query::Srv, &["100 80 web.default.svc.cluster.local"]),
        ("_http._tcp.web.default.svc.cluster.local", Query::A, &["NoData"]),
        ("_http._udp.web.default.svc.cluster.local", Query::Srv, &["NoName"]),
        ("_tcp.web.default.svc.cluster.local", Query::A, &["NoData"]),
        ("x.web.default.svc.cluster.local", Query::A, &["NoName"]),
        ("nope.default.svc.cluster.local", Query::A, &["NoName"]),
        ("web.other.svc.cluster.local", Query::A, &["NoName"]),
        ("default.svc.cluster.local", Query::A, &["NoData"]),
        ("other.svc.cluster.local", Query::A, &["NoName"]),
        ("svc.cluster.local", Query::A, &["NoData"]),
        ("cluster.local", Query::Soa, &["soa"]),
        ("db.default.svc.cluster.local", Query::A, &["10.42.0.2", "10.42.0.3"]),
        ("db-0.db.default.svc.cluster.local", Query::A, &["10.42.0.2"]),
        ("10-42-0-3.db.default.svc.cluster.local", Query::A, &["10.42.0.3"]),
        ("db-2.db.default.svc.cluster.local", Query::A, &["NoName"]),
        ("empty.default.svc.cluster.local", Query::A, &["NoName"]),
        ("out.default.svc.cluster.local", Query::A, &["example.com"]),
        ("10-42-0-9.default.pod.cluster.local", Query::A, &["10.42.0.9"]),
        ("ten.default.pod.cluster.local", Query::A, &["NoName"]),
        ("dns-version.cluster.local", Query::Txt, &["1.1.0"]),
        ("example.com.default.svc.cluster.local", Query::A, &["NoName"]),
        ("example.com", Query::A, &["Foreign"]),
    ];
    for (name, query, wanted) in cases {
        assert_eq!(texts(ask(name, query)), wanted, "{name} {query:?}");
    }
}

#[test]
fn ports_of_headless_services_name_their_endpoints() {
    let answer = ask("_http._tcp.db.default.svc.cluster.local", Query::Srv);
    let Answer::Found { extra, .. } = &answer else { panic!("{answer:?}") };
    assert_eq!(extra.len(), 2);
    assert_eq!(
        texts(answer),
        ["50 8080 10-42-0-3.db.default.svc.cluster.local", "50 8080 db-0.db.default.svc.cluster.local"]
    );
}

#[test]
fn addresses_have_their_names_back() {
    assert_eq!(texts(ask("20.0.96.10.in-addr.arpa", Query::Ptr)), ["web.default.svc.cluster.local"]);
    assert_eq!(texts(ask("2.0.42.10.in-addr.arpa", Query::Ptr)), ["db-0.db.default.svc.cluster.local"]);
    assert_eq!(ask("9.9.9.9.in-addr.arpa", Query::Ptr), Answer::Foreign);
    assert_eq!(ask("not-cluster.local", Query::A), Answer::Foreign);
}

#[test]
fn unready_endpoints_are_published_on_request() {
    let mut zone = zone();
    let name = ("default".to_owned(), "db".to_owned());
    let mut service = zone.services[&name].clone();
    service.publish_unready = true;
    zone.set_service(name.clone(), Some(service));
    assert_eq!(texts(zone.answer("db-2.db.default.svc.cluster.local", Query::A)), ["10.42.0.4"]);
    zone.set_slice(("default".into(), "db-x".into()), None);
    assert_eq!(zone.answer("db.default.svc.cluster.local", Query::A), Answer::NoName);
    zone.set_service(name, None);
    assert!(zone.slices_of.is_empty());
}
