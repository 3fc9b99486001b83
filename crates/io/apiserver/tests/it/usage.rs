//! What nodes and pods use, read from a kubelet that is made of one page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use coracle_apiserver::{Caller, Identity};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Extent, Fixture, fixture_with};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// Serves a page of which every reading says that a tenth of a second of a processor was used since the last.
struct Kubelet {
    port: u16,
    client: Arc<rustls::ClientConfig>,
}

impl Kubelet {
    async fn start() -> Kubelet {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone());
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = Arc::new(server.with_single_cert(vec![certificate], key).unwrap());
        let client = rustls::ClientConfig::builder_with_provider(provider);
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve(listener, tokio_rustls::TlsAcceptor::from(server)));
        Kubelet { port, client }
    }
}

async fn serve(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor) {
    let reads = AtomicU64::new(0);
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            assert_eq!(request.uri().path(), "/metrics/resource");
            let count = reads.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(page(count))))) }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

fn page(count: u64) -> String {
    let seconds = count as f64 / 10.0;
    // A second passes from reading to reading, whatever the clock says.
    let at = 1_700_000_000_000 + count * 1000;
    let labels = "container=\"c\",namespace=\"default\",pod=\"a\"";
    format!(
        "node_cpu_usage_seconds_total {seconds} {at}\nnode_memory_working_set_bytes 1.048576e+08 {at}\n\
         container_cpu_usage_seconds_total{{{labels}}} {seconds} {at}\n\
         container_memory_working_set_bytes{{{labels}}} 1.25952e+06 {at}\ncontainer_start_time_seconds{{{labels}}} 1.6e+09\n"
    )
}

/// Two nodes, of which the second does not answer, and a pod on each; and a node without a kubelet.
async fn cluster(kubelet: &Kubelet) -> Fixture {
    let fixture = fixture_with(Some(kubelet.client.clone()), Extent::default()).await;
    let simulated = json!({"metadata": {"name": "simulated"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}}});
    fixture.ok("POST", "/api/v1/nodes", &simulated).await;
    for (node, pod, port) in [("up", "a", kubelet.port), ("down", "b", 1)] {
        let object = json!({"metadata": {"name": node, "labels": {"zone": node}}, "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
        fixture.ok("POST", "/api/v1/nodes", &object).await;
        let object = json!({"metadata": {"name": pod, "labels": {"app": pod}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        fixture.ok("POST", "/api/v1/namespaces/default/pods", &object).await;
    }
    fixture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_told_of_what_answers() {
    let kubelet = Kubelet::start().await;
    let fixture = cluster(&kubelet).await;
    let nodes = fixture.get(&format!("{METRICS}/nodes")).await;
    assert_eq!((&nodes["kind"], nodes["items"].as_array().map(Vec::len)), (&json!("NodeMetricsList"), Some(1)));
    let node = &nodes["items"][0];
    assert_eq!((&node["metadata"]["name"], &node["metadata"]["labels"]), (&json!("up"), &json!({"zone": "up"})));
    assert_eq!((&node["window"], &node["usage"]), (&json!("1s"), &json!({"cpu": "100m", "memory": "100Mi"})));
    assert_eq!(node["timestamp"], "2023-11-14T22:13:21Z");
    let pods = fixture.get(&format!("{METRICS}/pods")).await;
    let only = pods["items"].as_array().unwrap();
    assert_eq!((only.len(), &only[0]["metadata"]["namespace"]), (1, &json!("default")));
    assert_eq!(only[0]["containers"], json!([{"name": "c", "usage": {"cpu": "100m", "memory": "1230Ki"}}]));
    let none = fixture.get(&format!("{METRICS}/namespaces/default/pods?labelSelector=app%3Db")).await;
    assert_eq!(none["items"], json!([]));
    let one = fixture.get(&format!("{METRICS}/namespaces/default/pods/a")).await;
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PodMetrics"), &json!("metrics.k8s.io/v1beta1")));
    for (path, message) in [
        ("namespaces/default/pods/none", "pods \"none\" not found"),
        ("namespaces/default/pods/b", "podmetrics.metrics.k8s.io \"default/b\" not found"),
        ("nodes/simulated", "nodemetrics.metrics.k8s.io \"simulated\" not found"),
        ("nodes/down", "nodemetrics.metrics.k8s.io \"down\" not found"),
        ("nodes/none", "nodes \"none\" not found"),
    ] {
        let (code, status) = fixture.call("GET", &format!("{METRICS}/{path}"), &Value::Null).await;
        assert_eq!((code, status["message"].as_str()), (404, Some(message)));
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_shown_as_a_table_and_in_discovery_and_to_who_may_see_it() {
    let kubelet = Kubelet::start().await;
    let fixture = cluster(&kubelet).await;
    let request = http::Request::get(format!("{METRICS}/namespaces/default/pods"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(Bytes::new());
    let (_, text) = fixture.send(Caller::Local(Identity::admin()), request.unwrap()).await;
    let table: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().filter_map(|column| column["name"].as_str()).collect();
    assert_eq!(names, ["Name", "cpu", "memory", "Window"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "100m", "1230Ki", "1s"]));
    let protobuf = http::Request::get(format!("{METRICS}/nodes"))
        .header("accept", "application/vnd.kubernetes.protobuf, */*")
        .body(Bytes::new());
    let (code, text) = fixture.send(Caller::Local(Identity::admin()), protobuf.unwrap()).await;
    assert!(code == 200 && text.contains("NodeMetricsList"), "{text}");
    let groups = fixture.get("/apis").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "metrics.k8s.io"));
    let listed = fixture.get(METRICS).await;
    let verbs = |index: usize| (&listed["resources"][index]["kind"], &listed["resources"][index]["verbs"]);
    assert_eq!(verbs(0), (&json!("NodeMetrics"), &json!(["get", "list"])));
    assert_eq!(verbs(1), (&json!("PodMetrics"), &json!(["get", "list"])));
    assert_eq!(fixture.call("DELETE", &format!("{METRICS}/nodes/up"), &Value::Null).await.0, 405);
    let scaler = Identity::controller("horizontal-pod-autoscaler");
    let path = format!("{METRICS}/namespaces/default/pods");
    assert_eq!(fixture.as_user(scaler.clone(), "GET", &path, &Value::Null).await.0, 200);
    assert_eq!(fixture.as_user(scaler, "GET", &format!("{METRICS}/nodes"), &Value::Null).await.0, 403);
    fixture.close().await;
}
