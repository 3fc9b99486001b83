//! The server on the embedded store, met as its clients meet it: by requests.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use coracle_apiserver::{Caller, Identity, Options, Server};
use coracle_cache::Cache;
use coracle_cache::store::Store;
use coracle_meta::Gates;
use coracle_rt::{Clock, Dice, Scope};
use coracle_store::Engine;
use http_body_util::BodyExt;
use serde_json::{Value, json};

#[path = "it/groups.rs"]
mod groups;
#[path = "it/legacy.rs"]
mod legacy;
#[path = "it/parts.rs"]
mod parts;
#[path = "it/quota.rs"]
mod quota;
#[path = "it/rubbish.rs"]
mod rubbish;
#[path = "it/usage.rs"]
mod usage;
#[path = "it/wire.rs"]
mod wire;

struct Fixture {
    server: Arc<Server>,
    scope: Scope,
    /// Removed with the last server on it.
    folder: Arc<Folder>,
}

struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type KubeletTls = Option<Arc<rustls::ClientConfig>>;

/// Feature gates that are on, and API versions switched on or off.
#[derive(Clone, Copy, Default)]
struct Extent {
    gates: Gates,
    runtime_config: &'static [&'static str],
}

fn server_on(store: Arc<dyn Store>, scope: &Scope, kubelet_tls: KubeletTls, extent: Extent) -> Arc<Server> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    Server::new(Options {
        cache: Cache::new(store, scope.clone()),
        clock: Clock::system(),
        dice: Dice::seeded(1),
        scope: scope.clone(),
        advertise: ([192, 0, 2, 1].into(), 6443),
        service_cidr: "10.96.0.0/16".into(),
        node_ports: (30000, 32767),
        token_keys: vec![key.serialize_pem()],
        tokens: Vec::new(),
        kubelet_tls,
        docs: None,
        metric_resolution: std::time::Duration::from_secs(10),
        runtime_config: extent.runtime_config.iter().map(|setting| (*setting).to_owned()).collect(),
        gates: extent.gates,
    })
    .unwrap()
}

async fn fixture() -> Fixture {
    fixture_with(None, Extent::default()).await
}

async fn fixture_with(kubelet_tls: KubeletTls, extent: Extent) -> Fixture {
    let scope = Scope::root();
    // A folder of its own: the files of an ephemeral store have names for a moment.
    let folder = std::env::temp_dir().join(format!("coracle-apiserver-{}", Dice::system().uuid()));
    std::fs::create_dir(&folder).unwrap();
    let store = Engine::ephemeral(&folder, scope.clone()).unwrap();
    let server = server_on(store, &scope, kubelet_tls, extent);
    server.start().await.unwrap();
    let fixture = Fixture { server, scope, folder: Arc::new(Folder(folder)) };
    let account = json!({"metadata": {"name": "default"}});
    fixture.ok("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await;
    fixture
}

impl Fixture {
    /// Another server on the same store.
    fn beside(&self) -> Fixture {
        self.beside_with(Extent::default())
    }

    fn beside_with(&self, extent: Extent) -> Fixture {
        let server = server_on(self.server.cache.store.clone(), &self.scope, None, extent);
        Fixture { server, scope: self.scope.clone(), folder: self.folder.clone() }
    }

    async fn send(&self, caller: Caller, request: http::Request<Bytes>) -> (u16, String) {
        let response = self.server.call(caller, request).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    async fn as_user(&self, identity: Identity, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", media).body(body);
        let (code, text) = self.send(Caller::Local(identity), request.unwrap()).await;
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.as_user(Identity::admin(), method, path, body).await
    }

    async fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer:#}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &Value::Null).await
    }

    async fn watch(&self, path: &str) -> Vec<Value> {
        let request = http::Request::builder().uri(path).body(Bytes::new()).unwrap();
        let (_, text) = self.send(Caller::Local(Identity::admin()), request).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn close(self) {
        self.scope.cancel();
    }
}

fn config_map(name: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": {"n": name}}, "data": {"k": "v"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_made_read_changed_and_deleted() {
    let fixture = fixture().await;
    let made = fixture.ok("POST", MAPS, &config_map("a")).await;
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string());
    let one = format!("{MAPS}/a");
    assert_eq!(fixture.get(&one).await, made);
    let (code, again) = fixture.call("POST", MAPS, &config_map("a")).await;
    assert_eq!((code, &again["message"]), (409, &json!("configmaps \"a\" already exists")));

    let same = fixture.ok("PATCH", &one, &json!({"data": {"k": "v"}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let changed = fixture.ok("PATCH", &one, &json!({"data": {"k": "w"}})).await;
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, stale) = fixture.call("PUT", &one, &made).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    assert!(
        stale["message"].as_str().unwrap().ends_with("please apply your changes to the latest version and try again")
    );

    let gone = fixture.ok("DELETE", &one, &Value::Null).await;
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("configmaps")));
    let (code, missing) = fixture.call("GET", &one, &Value::Null).await;
    assert_eq!((code, &missing["message"]), (404, &json!("configmaps \"a\" not found")));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_and_by_selectors() {
    let fixture = fixture().await;
    for name in ["a", "b", "c"] {
        fixture.ok("POST", MAPS, &config_map(name)).await;
    }
    let page = fixture.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["metadata"]["remainingItemCount"]), (2, &json!(1)));
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = fixture.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
    assert!(rest["metadata"].get("continue").is_none());
    for query in ["labelSelector=n%3Db", "fieldSelector=metadata.name%3Db"] {
        let found = fixture.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{query}");
    }
    let left = fixture.ok("DELETE", &format!("{MAPS}?labelSelector=n%3Da"), &Value::Null).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(fixture.get(MAPS).await["items"].as_array().unwrap().len(), 2);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_whose_history_is_gone_goes_on_with_what_stands() {
    let fixture = fixture().await;
    for name in ["a", "b", "c"] {
        fixture.ok("POST", MAPS, &config_map(name)).await;
    }
    let first = fixture.get(&format!("{MAPS}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    // The list itself stays as it was.
    let later = fixture.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "later"}})).await;
    let later: u64 = later["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    fixture.server.cache.store.compact(later).await.unwrap();
    let (code, expired) = fixture.call("GET", &format!("{MAPS}?limit=1&continue={token}"), &Value::Null).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")), "{expired:#}");
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let second = fixture.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!(
        (&second["items"][0]["metadata"]["name"], &second["metadata"]["remainingItemCount"]),
        (&json!("b"), &json!(1))
    );
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_changes_from_a_version_on() {
    let fixture = fixture().await;
    let before = fixture.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.ok("POST", MAPS, &config_map("a")).await;
    fixture.ok("PATCH", &format!("{MAPS}/a"), &json!({"metadata": {"labels": {"n": "other"}}})).await;
    fixture.ok("DELETE", &format!("{MAPS}/a"), &Value::Null).await;
    let kinds =
        |events: &[Value]| events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all = fixture.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={before}")).await;
    assert_eq!(kinds(&all), ["ADDED", "MODIFIED", "DELETED"]);
    let some =
        fixture.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={before}&labelSelector=n%3Da")).await;
    assert_eq!(kinds(&some), ["ADDED", "DELETED"]);
    fixture.ok("POST", MAPS, &config_map("b")).await;
    let query =
        "watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let initial = fixture.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(kinds(&initial), ["ADDED", "BOOKMARK"]);
    assert_eq!(initial[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_admitted_bound_and_deleted_with_grace() {
    let fixture = fixture().await;
    let made = fixture.ok("POST", PODS, &pod("a")).await;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["priority"], 0);
    assert!(made["spec"]["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    fixture.ok("POST", &format!("{PODS}/a/binding"), &binding).await;
    assert_eq!(fixture.get(&format!("{PODS}/a")).await["spec"]["nodeName"], "n1");
    let (code, _) = fixture.call("POST", &format!("{PODS}/a/binding"), &binding).await;
    assert_eq!(code, 409);
    fixture.ok("PATCH", &format!("{PODS}/a/status"), &json!({"status": {"phase": "Running"}})).await;
    let going = fixture.ok("DELETE", &format!("{PODS}/a"), &Value::Null).await;
    assert_eq!((&going["kind"], &going["metadata"]["deletionGracePeriodSeconds"]), (&json!("Pod"), &json!(30)));
    let gone = fixture.ok("DELETE", &format!("{PODS}/a"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(gone["status"], "Success");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_and_namespaces_end() {
    let fixture = fixture().await;
    let mut held = config_map("a");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    fixture.ok("POST", MAPS, &held).await;
    let going = fixture.ok("DELETE", &format!("{MAPS}/a"), &Value::Null).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    fixture.ok("PATCH", &format!("{MAPS}/a"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(fixture.call("GET", &format!("{MAPS}/a"), &Value::Null).await.0, 404);

    let made = fixture.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let going = fixture.ok("DELETE", "/api/v1/namespaces/x", &Value::Null).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    // Admission sees namespaces as the watch cache has them.
    let version = going["metadata"]["resourceVersion"].as_str().unwrap();
    fixture.get(&format!("/api/v1/namespaces/x?resourceVersion={version}")).await;
    let (code, refused) = fixture.call("POST", "/api/v1/namespaces/x/configmaps", &config_map("a")).await;
    assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    let mut done = going;
    done["spec"]["finalizers"] = json!([]);
    fixture.ok("PUT", "/api/v1/namespaces/x/finalize", &done).await;
    assert_eq!(fixture.call("GET", "/api/v1/namespaces/x", &Value::Null).await.0, 404);
    let (code, _) = fixture.call("POST", "/api/v1/namespaces/nowhere/configmaps", &config_map("a")).await;
    assert_eq!(code, 404);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_take_addresses_and_give_them_back() {
    let fixture = fixture().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = fixture.ok("POST", services, &service).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert!((30000..=32767).contains(&made["spec"]["ports"][0]["nodePort"].as_i64().unwrap()));
    let address = fixture.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}")).await;
    assert_eq!(address["spec"]["parentRef"]["name"], "s");
    fixture.ok("DELETE", &format!("{services}/s"), &Value::Null).await;
    assert_eq!(fixture.call("GET", &format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"), &Value::Null).await.0, 404);
    assert_eq!(fixture.get(&format!("{services}/kubernetes")).await["spec"]["clusterIP"], "10.96.0.1");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_those_of_the_default_roles() {
    let fixture = fixture().await;
    let scheduler = Identity::scheduler;
    assert_eq!(fixture.as_user(scheduler(), "GET", "/api/v1/pods", &Value::Null).await.0, 200);
    let (code, refused) = fixture.as_user(scheduler(), "GET", "/api/v1/namespaces/default/secrets", &Value::Null).await;
    let words = "secrets is forbidden: User \"system:kube-scheduler\" cannot list resource \"secrets\" in API group \"\" \
                 in the namespace \"default\"";
    assert_eq!((code, &refused["message"]), (403, &json!(words)));
    let socket = || Caller::Socket { certificate: None, address: IpAddr::from([192, 0, 2, 9]) };
    for (path, code) in
        [("/healthz", 200), ("/readyz", 200), ("/version", 200), ("/api/v1/pods", 403), ("/metrics", 403)]
    {
        let request = http::Request::builder().uri(path).body(Bytes::new()).unwrap();
        assert_eq!(fixture.send(socket(), request).await.0, code, "{path}");
    }
    let request = json!({"spec": {"expirationSeconds": 3600}});
    let made = fixture.ok("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", &request).await;
    let token = made["status"]["token"].as_str().unwrap();
    let request = http::Request::builder().uri("/api/v1/pods").header("authorization", format!("Bearer {token}"));
    let (code, text) = fixture.send(socket(), request.body(Bytes::new()).unwrap()).await;
    assert!(code == 403 && text.contains("system:serviceaccount:default:default"), "{text}");
    let request = http::Request::builder().uri("/healthz").header("authorization", "Bearer rubbish");
    assert_eq!(fixture.send(socket(), request.body(Bytes::new()).unwrap()).await.0, 401);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_token_may_ends_with_its_binding_and_its_account() {
    let fixture = fixture().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let made = fixture.ok("POST", &format!("{accounts}/default/token"), &json!({"spec": {}})).await;
    let bearer = format!("Bearer {}", made["status"]["token"].as_str().unwrap());
    // A fresh list returns once the server has seen every write before it.
    let code = async |after: &str| {
        fixture.get(after).await;
        let socket = Caller::Socket { certificate: None, address: IpAddr::from([192, 0, 2, 9]) };
        let request = http::Request::builder().uri("/api/v1/pods").header("authorization", &bearer);
        fixture.send(socket, request.body(Bytes::new()).unwrap()).await.0
    };
    assert_eq!(code(accounts).await, 403);
    let subject = json!({"kind": "ServiceAccount", "name": "default", "namespace": "default"});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let binding = json!({"metadata": {"name": "x"}, "roleRef": role, "subjects": [subject]});
    for _ in 0..2 {
        fixture.ok("POST", bindings, &binding).await;
        assert_eq!(code(bindings).await, 200);
        fixture.ok("DELETE", &format!("{bindings}/x"), &Value::Null).await;
        assert_eq!(code(bindings).await, 403);
    }
    fixture.ok("DELETE", &format!("{accounts}/default"), &Value::Null).await;
    assert_eq!(code(accounts).await, 401);
    fixture.ok("POST", accounts, &json!({"metadata": {"name": "default"}})).await;
    assert_eq!(code(accounts).await, 401, "an account of the same name is another one");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_discovery_and_refusals_are_as_clients_expect() {
    let fixture = fixture().await;
    fixture.ok("POST", PODS, &pod("a")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let request = http::Request::builder().uri(PODS).header("accept", accept).body(Bytes::new()).unwrap();
    let (_, text) = fixture.send(Caller::Local(Identity::admin()), request).await;
    let table: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    let names = |list: &Value| {
        list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(names(&fixture.get("/api/v1").await).contains(&"pods/log".to_owned()));
    assert!(names(&fixture.get("/apis/apps/v1").await).contains(&"deployments".to_owned()));
    for (method, path, body, code) in [
        ("GET", "/apis/nothing.example.com/v1/things", Value::Null, 404),
        ("POST", "/api/v1/namespaces/default/pods/a", json!({}), 405),
        ("POST", PODS, json!({"metadata": {"name": "b"}, "spec": {}}), 422),
        ("POST", PODS, json!({"kind": "Secret", "apiVersion": "v1"}), 400),
        ("POST", MAPS, json!("text"), 400),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            json!({"metadata": {"name": "z"}, "nope": 1}),
            400,
        ),
    ] {
        let (answered, status) = fixture.call(method, path, &body).await;
        assert_eq!((answered, &status["kind"]), (code, &json!("Status")), "{method} {path}: {status:#}");
    }
    // Behind no group there is nobody to answer a Status.
    for path in ["/nothing", "/apis/nothing.example.com"] {
        assert_eq!(fixture.call("GET", path, &Value::Null).await, (404, json!("404 page not found\n")));
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_may_be_yaml() {
    let fixture = fixture().await;
    let body = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: plain\ndata:\n  k: v\n";
    let request = http::Request::builder().method("POST").uri(MAPS).header("content-type", "application/yaml");
    let (code, text) = fixture.send(Caller::Local(Identity::admin()), request.body(body.into()).unwrap()).await;
    assert_eq!(code, 201, "{text}");
    assert_eq!(fixture.get(&format!("{MAPS}/plain")).await["data"]["k"], "v");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_are_applied_and_owners_asked() {
    let fixture = fixture().await;
    let apply = async |manager: &str, data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let request = http::Request::patch(format!("{MAPS}/a?fieldManager={manager}"))
            .header("content-type", "application/apply-patch+yaml")
            .body(body.to_string().into());
        let (code, text) = fixture.send(Caller::Local(Identity::admin()), request.unwrap()).await;
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (code, made) = apply("one", json!({"x": "1", "y": "1"})).await;
    assert_eq!((code, &made["metadata"]["managedFields"][0]["manager"]), (201, &json!("one")));
    let (code, again) = apply("one", json!({"x": "1", "y": "1"})).await;
    assert_eq!((code, again), (200, made));
    let (code, refused) = apply("two", json!({"x": "2"})).await;
    assert_eq!(code, 409, "{refused:#}");
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    assert_eq!(refused["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let (_, left) = apply("one", json!({"x": "1"})).await;
    assert_eq!(left["data"], json!({"x": "1"}));
    let changed = fixture.ok("PATCH", &format!("{MAPS}/a?fieldManager=three"), &json!({"data": {"z": "3"}})).await;
    assert_eq!(changed["metadata"]["managedFields"][1]["fieldsV1"], json!({"f:data": {"f:z": {}}}));
    let reset = fixture.ok("PATCH", &format!("{MAPS}/a"), &json!({"metadata": {"managedFields": []}})).await;
    assert!(reset["metadata"]["managedFields"].is_null());
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_names_its_user_over_tls() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let fixture = fixture().await;
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&ca, &ca_key);
    let issue = |params: CertificateParams| {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (vec![certificate.der().clone()], key)
    };
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, "eve");
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let (client_chain, client_key) = issue(client);
    let (server_chain, server_key) = issue(CertificateParams::new(vec!["localhost".to_owned()]).unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier =
        rustls::server::WebPkiClientVerifier::builder(roots.clone()).allow_unauthenticated().build().unwrap();
    let tls = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
    let tls = Arc::new(tls.with_single_cert(server_chain, server_key).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    fixture
        .scope
        .spawn("serve", coracle_apiserver::serve(fixture.server.clone(), listener, tls, fixture.scope.clone()));

    let trusting = rustls::ClientConfig::builder().with_root_certificates(roots);
    let trusting = Arc::new(trusting.with_client_auth_cert(client_chain, client_key).unwrap());
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(trusting).connect(name, stream).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    fixture.scope.spawn_until_cancelled("client", async move { drop(connection.await) });
    let body = json!({}).to_string();
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").header("host", "localhost");
    let response =
        sender.send_request(request.body(http_body_util::Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    assert_eq!(response.status(), 201);
    let review: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(review["status"]["userInfo"]["username"], "eve");
    assert_eq!(review["status"]["userInfo"]["groups"][0], "system:masters");
    fixture.close().await;
}
