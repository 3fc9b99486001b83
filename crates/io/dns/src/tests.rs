//! The server over real sockets on loopback, with a resolver of the test's own behind it.

use coracle_reconcile::{Change, Index};
use hickory_proto::op::{Edns, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;

use super::*;

/// A view of fixed objects.
struct Fixed(Vec<(Resource, Arc<Object>)>);

impl View for Fixed {
    fn get(&self, _: &Resource, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    fn list(&self, resource: &Resource, _: Option<&str>) -> Vec<Arc<Object>> {
        self.0.iter().filter(|(of, _)| of == resource).map(|(_, object)| object.clone()).collect()
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
    }
}

fn view() -> Arc<dyn View> {
    let object = |value: serde_json::Value| Arc::new(Object::new(value.to_string().into(), 1).unwrap());
    let service = |name: &str, spec: serde_json::Value| {
        let metadata = json!({"name": name, "namespace": "default"});
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        (services(), object(value))
    };
    let endpoints: Vec<_> = (1..=100).map(|n| json!({"addresses": [format!("10.42.0.{n}")]})).collect();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "many-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "many"}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    Arc::new(Fixed(vec![
        service("web", json!({"clusterIP": "10.96.0.20", "ports": [{"port": 80}]})),
        service("many", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        service("out", json!({"type": "ExternalName", "externalName": "example.com"})),
        service("in", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        (slices(), object(slice)),
    ]))
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(question, server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, &question.to_vec().unwrap()).await.unwrap();
    Message::from_vec(&read_framed(&mut stream).await.unwrap().unwrap()).unwrap()
}

/// Answers every question with 192.0.2.1.
async fn resolver(scope: &Scope) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    scope.spawn_until_cancelled("resolver", async move {
        let mut buffer = vec![0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let request = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = respond::reply_to(&request);
            let data = RData::A("192.0.2.1".parse().unwrap());
            answer.add_answer(Record::from_rdata(request.queries[0].name().clone(), 60, data));
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

async fn start(scope: &Scope, upstreams: Vec<SocketAddr>) -> SocketAddr {
    let bind = vec!["127.0.0.1:0".parse().unwrap()];
    let options = Options { bind, cluster_domain: "cluster.local".into(), upstreams };
    Dns::start(scope, view(), options).await.unwrap().addresses()[0]
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn the_clusters_names_are_answered_with_authority() {
    let scope = Scope::root();
    let server = start(&scope, vec![]).await;
    let asked = question("Web.default.svc.Cluster.local.", RecordType::A);
    for answer in [ask_udp(server, &asked.to_vec().unwrap()).await, ask_tcp(server, &asked).await] {
        assert_eq!(data(&answer), ["10.96.0.20"]);
        assert_eq!(answer.metadata.id, 4711);
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.answers[0].name.to_ascii(), "Web.default.svc.Cluster.local.");
    }
    let none = ask_udp(server, &question("web.default.svc.cluster.local.", RecordType::AAAA).to_vec().unwrap()).await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NoError, 1));
    let unknown = ask_udp(server, &question("nope.default.svc.cluster.local.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!((unknown.metadata.response_code, unknown.authorities.len()), (ResponseCode::NXDomain, 1));
    scope.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn other_names_are_asked_elsewhere() {
    let scope = Scope::root();
    let resolver = resolver(&scope).await;
    let server = start(&scope, vec![resolver]).await;
    let ask = async |name: &str| ask_udp(server, &question(name, RecordType::A).to_vec().unwrap()).await;
    assert_eq!(data(&ask("kubernetes.io.").await), ["192.0.2.1"]);
    assert_eq!(data(&ask("out.default.svc.cluster.local.").await), ["example.com.", "192.0.2.1"]);
    assert_eq!(data(&ask("in.default.svc.cluster.local.").await), ["web.default.svc.cluster.local.", "10.96.0.20"]);
    scope.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn without_a_resolver_other_names_fail() {
    let scope = Scope::root();
    let server = start(&scope, vec![]).await;
    let answer = ask_udp(server, &question("kubernetes.io.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    scope.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_whole_over_tcp() {
    let scope = Scope::root();
    let server = start(&scope, vec![]).await;
    let mut asked = question("many.default.svc.cluster.local.", RecordType::A);
    for payload in [None, Some(4096)] {
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            asked.set_edns(edns);
        }
        let cut = ask_udp(server, &asked.to_vec().unwrap()).await;
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(cut.edns.is_some(), payload.is_some());
    }
    let whole = ask_tcp(server, &asked).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 100);
    scope.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn nonsense_is_refused_and_the_server_lives() {
    let scope = Scope::root();
    let server = start(&scope, vec![]).await;
    let answer = ask_udp(server, &[0x12, 0x67, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 200, 200]).await;
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x1267, ResponseCode::FormErr));
    for length in 0..3 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&[1, 0x80, 0x80][..length], server).await.unwrap();
    }
    let answer = ask_udp(server, &question("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(data(&answer), ["10.96.0.20"]);
    scope.close(Duration::from_secs(5)).await;
}

#[test]
fn resolvers_come_from_resolv_conf() {
    let text = "# x\nsearch a b\nnameserver 10.0.0.1\nnameserver fd00::1\n nameserver bad\noptions ndots:5\n";
    assert_eq!(upstream::resolvers(text), ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
}
