//! Protobuf on the wire, and watches that resume.

use bytes::Bytes;
use coracle_apiserver::{Caller, Identity};
use coracle_meta::GroupVersionKind;
use coracle_schema::{Schema, proto, read_proto, write_proto};
use http_body_util::BodyExt;
use serde_json::json;

use super::{Fixture, MAPS, PODS, config_map, fixture, pod};

const PROTO: &str = "application/vnd.kubernetes.protobuf";

impl Fixture {
    async fn proto(&self, method: &str, path: &str, accept: &str, body: Bytes) -> (u16, String, Bytes) {
        let request = http::Request::builder().method(method).uri(path).header("accept", accept);
        let request = request.header("content-type", PROTO).body(body).unwrap();
        let response = self.server.call(Caller::Local(Identity::admin()), request).await;
        let code = response.status().as_u16();
        let media = response.headers()["content-type"].to_str().unwrap().to_owned();
        (code, media, response.into_body().collect().await.unwrap().to_bytes())
    }
}

fn decoded(body: &[u8]) -> coracle_meta::Value {
    let envelope = proto::open(body).unwrap();
    let kind = GroupVersionKind::parse(envelope.api_version, envelope.kind).unwrap();
    let schema = Schema::builtin();
    read_proto(schema, schema.kind(&kind).unwrap(), body).unwrap()
}

fn encoded(value: serde_json::Value) -> Bytes {
    let value = coracle_meta::Value::from_json(value.to_string().as_bytes()).unwrap();
    let kind = GroupVersionKind::parse(value.str_at(&["apiVersion"]), value.str_at(&["kind"])).unwrap();
    let schema = Schema::builtin();
    write_proto(schema, schema.kind(&kind).unwrap(), &value).unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_is_spoken_both_ways() {
    let fixture = fixture().await;
    let (code, media, body) = fixture.proto("POST", MAPS, PROTO, encoded(config_map("a"))).await;
    assert_eq!((code, media.as_str()), (201, PROTO));
    let made = decoded(&body);
    assert_eq!(made.str_at(&["data", "k"]), "v");
    let version = made.str_at(&["metadata", "resourceVersion"]).to_owned();
    assert!(!version.is_empty());

    let (_, _, body) = fixture.proto("GET", MAPS, PROTO, Bytes::new()).await;
    let list = decoded(&body);
    assert_eq!((list.str_at(&["kind"]), list.list_at(&["items"]).len()), ("ConfigMapList", 1));
    assert_eq!(list.list_at(&["items"])[0].str_at(&["metadata", "resourceVersion"]), version);

    let partial = format!("{PROTO};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, _, body) = fixture.proto("GET", MAPS, &partial, Bytes::new()).await;
    let list = decoded(&body);
    assert_eq!(list.str_at(&["kind"]), "PartialObjectMetadataList");
    assert_eq!(list.list_at(&["items"])[0].str_at(&["metadata", "name"]), "a");

    let accept = format!("{PROTO},application/json");
    let (code, media, body) = fixture.proto("GET", &format!("{MAPS}/none"), &accept, Bytes::new()).await;
    assert_eq!((code, media.as_str()), (404, PROTO));
    assert_eq!(decoded(&body).str_at(&["reason"]), "NotFound");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_and_reviews_take_protobuf() {
    let fixture = fixture().await;
    fixture.ok("POST", PODS, &pod("p")).await;
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let (code, _, body) = fixture.proto("POST", &format!("{PODS}/p/binding"), PROTO, encoded(binding)).await;
    assert_eq!((code, decoded(&body).str_at(&["status"])), (201, "Success"));

    let review = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (_, _, body) = fixture.proto("POST", path, PROTO, encoded(review)).await;
    assert!(decoded(&body).bool_at(&["status", "allowed"]));

    let token =
        json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 600}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, _, body) = fixture.proto("POST", path, PROTO, encoded(token)).await;
    assert!(code == 201 && !decoded(&body).str_at(&["status", "token"]).is_empty());

    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}});
    let (code, _, _) = fixture.proto("POST", &format!("{PODS}/p/eviction"), PROTO, encoded(eviction)).await;
    assert_eq!(code, 201);
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    let (code, _, _) = fixture.proto("DELETE", &format!("{PODS}/p"), PROTO, encoded(options)).await;
    assert_eq!(code, 200);
    assert_eq!(fixture.call("GET", &format!("{PODS}/p"), &serde_json::Value::Null).await.0, 404);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protobuf_watch_frames_its_events_by_their_length() {
    let fixture = fixture().await;
    let before = fixture.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.ok("POST", MAPS, &config_map("a")).await;
    fixture.ok("DELETE", &format!("{MAPS}/a"), &serde_json::Value::Null).await;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={before}");
    let accept = format!("{PROTO};stream=watch");
    // Two at once are shown the same frames.
    let watch = || fixture.proto("GET", &path, &accept, Bytes::new());
    let ((_, media, body), (_, _, other)) = tokio::join!(watch(), watch());
    assert_eq!((media.as_str(), &body), ("application/vnd.kubernetes.protobuf;stream=watch", &other));
    let mut rest = &body[..];
    let mut words = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (event, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        // Field 1 is the event's word.
        words.push(String::from_utf8(event[2..2 + usize::from(event[1])].to_vec()).unwrap());
        rest = tail;
    }
    assert_eq!(words, ["ADDED", "DELETED"]);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_on_another_server_and_a_forgotten_place_is_gone() {
    let fixture = fixture().await;
    let before = fixture.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.ok("POST", MAPS, &config_map("a")).await;
    let changed = fixture.ok("PATCH", &format!("{MAPS}/a"), &json!({"data": {"k": "w"}})).await;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={before}");

    // Its cache has seen none of it.
    let next = fixture.beside();
    let told = next.watch(&path).await;
    let words: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(words, ["ADDED", "MODIFIED"]);
    assert_eq!(told[1]["object"]["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);

    let newest = changed["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    fixture.server.cache.store.compact(newest).await.unwrap();
    let told = fixture.beside().watch(&path).await;
    assert_eq!((&told[0]["type"], &told[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(told[0]["object"]["reason"], "Expired");
    let message = told[0]["object"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("too old resource version: {before} (")), "{message}");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_is_asked_for_again_only_when_it_changed() {
    let fixture = fixture().await;
    let ask = async |tag: &str| {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let request = http::Request::builder().uri("/apis").header("accept", accept).header("if-none-match", tag);
        let request = request.body(Bytes::new()).unwrap();
        fixture.server.call(Caller::Local(Identity::admin()), request).await
    };
    let first = ask("").await;
    assert_eq!(first.status(), 200);
    let tag = first.headers()["etag"].to_str().unwrap();
    assert_eq!(ask(tag).await.status(), 304);
    fixture.close().await;
}
