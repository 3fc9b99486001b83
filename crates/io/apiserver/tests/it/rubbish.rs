//! Whatever a client sends, it is answered by a proper `Status`: never a panic, never a server's failure.

use bytes::Bytes;
use coracle_apiserver::{Caller, Identity};
use coracle_rt::Dice;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{MAPS, PODS, config_map, fixture, pod};

const ROUNDS: usize = 1500;

const WORDS: &[&str] = &[
    "",
    "a",
    "A_b",
    "..",
    "%00",
    "%ff",
    "é",
    "null",
    "-1",
    "0",
    "9223372036854775808",
    "true",
    "*",
    "a=b,c!=d",
    "a in (",
    "metadata.name=a",
    "spec.nodeName=x",
    "status.phase",
    "rubbish.field=1",
    "All",
    "Strict",
    "Exact",
    "NotOlderThan",
    "default",
    "kubernetes",
    "🦀",
    "a/b",
    "x y",
    "{}",
    "[]",
];

const PATHS: &[&str] = &[
    "/",
    "/api",
    "/apis",
    "/api/v1",
    "/apis/apps/v1",
    "/apis/nowhere/v1/things",
    "/healthz",
    "/readyz/etcd",
    "/version",
    "/openapi/v2",
    MAPS,
    PODS,
    "/api/v1/namespaces",
    "/api/v1/namespaces/default",
    "/api/v1/nodes",
    "/api/v1/namespaces/default/services",
    "/apis/apps/v1/namespaces/default/deployments",
    "/apis/apps/v1/namespaces/default/deployments/a/scale",
    "/apis/batch/v1/namespaces/default/jobs",
    "/api/v1/namespaces/default/pods/a",
    "/api/v1/namespaces/default/pods/a/binding",
    "/api/v1/bindings",
    "/api/v1/namespaces/default/pods/a/eviction",
    "/api/v1/namespaces/default/pods/a/status",
    "/api/v1/namespaces/default/pods/a/ephemeralcontainers",
    "/api/v1/namespaces/default/pods/a/resize",
    "/api/v1/namespaces/default/serviceaccounts/default/token",
    "/api/v1/componentstatuses",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authentication.k8s.io/v1/tokenreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/storage.k8s.io/v1/storageclasses",
    "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
    "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
    "/apis/certificates.k8s.io/v1/certificatesigningrequests/a/approval",
    "/api/v1/namespaces/x/finalize",
];

const KEYS: &[&str] = &[
    "labelSelector",
    "fieldSelector",
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "dryRun",
    "fieldValidation",
    "fieldManager",
    "force",
    "gracePeriodSeconds",
    "propagationPolicy",
    "pretty",
    "includeObject",
    "timeout",
    "verbose",
    "exclude",
];

const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/plain",
    "",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "*/*",
    ";;;=,,",
];

const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"];

fn pick<'a>(dice: &Dice, from: &[&'a str]) -> &'a str {
    from[dice.below(from.len() as u64) as usize]
}

fn is_rarely(dice: &Dice, one_in: u64) -> bool {
    dice.below(one_in) == 0
}

fn object(dice: &Dice) -> Value {
    let meta = json!({"name": "a"});
    match dice.below(8) {
        0 => config_map("a"),
        1 => pod("a"),
        2 => json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": meta, "spec": {"replicas": 1,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("a")["spec"]}}}),
        3 => {
            json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30001}]}})
        }
        4 => json!([{"op": "replace", "path": "/metadata/labels", "value": {"a": "b"}}]),
        5 => {
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}})
        }
        6 => json!({"metadata": meta, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        _ => {
            json!({"spec": {"resourceAttributes": {"verb": "get"}, "token": "t", "replicas": 3}, "target": {"name": "n"}})
        }
    }
}

/// Replaces, drops or adds something anywhere below.
fn mutate(dice: &Dice, value: &mut Value) {
    let size = match value {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    if size > 0 && !is_rarely(dice, 4) {
        let index = dice.below(size as u64) as usize;
        let below = match value {
            Value::Object(map) => map.values_mut().nth(index),
            Value::Array(list) => list.get_mut(index),
            _ => None,
        };
        return below.into_iter().for_each(|below| mutate(dice, below));
    }
    let odd = match dice.below(8) {
        0 => Value::Null,
        1 => json!(i64::MIN),
        2 => json!(1.5e300),
        3 => json!([{}, null, [[]]]),
        4 => json!({"": {"a": null}, "metadata": []}),
        5 => json!("x".repeat(300)),
        _ => json!(pick(dice, WORDS)),
    };
    match value {
        Value::Object(map) if is_rarely(dice, 2) => drop(map.insert(pick(dice, WORDS).to_owned(), odd)),
        Value::Array(list) if is_rarely(dice, 2) => list.push(odd),
        value => *value = odd,
    }
}

fn body(dice: &Dice) -> Bytes {
    let mut value = object(dice);
    (0..dice.below(4)).for_each(|_| mutate(dice, &mut value));
    let mut bytes = value.to_string().into_bytes();
    match dice.below(8) {
        0 => bytes.truncate(dice.below(bytes.len() as u64 + 1) as usize),
        1 => (0..4).for_each(|_| {
            let at = dice.below(bytes.len().max(1) as u64) as usize;
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = dice.below(256) as u8);
        }),
        2 => bytes.splice(0..0, *b"k8s\0").for_each(drop),
        3 => bytes = "[".repeat(50_000).into_bytes(),
        4 => bytes.clear(),
        _ => {}
    }
    bytes.into()
}

fn request(dice: &Dice) -> http::Request<Bytes> {
    let mut path = pick(dice, PATHS).to_owned();
    if is_rarely(dice, 3) {
        path =
            format!("{}/{}", path.trim_end_matches('/'), pick(dice, &["a", "kubernetes", "%ff", "..", "%2F", "x%20y"]));
    }
    for index in 0..dice.below(3) {
        let word = pick(dice, WORDS).bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        path += &format!("{}{}={word}", if index == 0 { "?" } else { "&" }, pick(dice, KEYS));
    }
    let mut request = http::Request::builder().method(pick(dice, METHODS)).uri(path);
    request = request.header("content-type", pick(dice, MEDIA)).header("accept", pick(dice, MEDIA));
    if is_rarely(dice, 10) {
        request = request
            .header("impersonate-user", pick(dice, &["u", "system:serviceaccount:a:b", "system:serviceaccount:"]));
    }
    request.body(body(dice)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_answered_by_a_status() {
    let fixture = fixture().await;
    let dice = Dice::seeded(7);
    for round in 0..ROUNDS {
        let request = request(&dice);
        let told = format!("{round}: {request:?}");
        let response = fixture.server.call(Caller::Local(Identity::admin()), request).await;
        let code = response.status().as_u16();
        let is_json = response.headers()["content-type"] == "application/json";
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        // Too new a resource version is a timeout and one that is no number an error, as upstream has it.
        let is_odd_version = text.contains("strconv.ParseUint") || text.contains("should not be set on objects");
        assert!(code < 500 || code == 504 || (code == 500 && is_odd_version), "{code} {text}\n{told}");
        if code >= 400 && is_json {
            let status: Value =
                serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {text}\n{told}"));
            assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{text}\n{told}");
            assert!(status["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}\n{told}");
        }
    }
    fixture.close().await;
}
