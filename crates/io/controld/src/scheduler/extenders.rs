//! Calling extenders over HTTP: what the scheduler wants to know goes out in the form of
//! k8s.io/kube-scheduler/extender/v1, and what comes back becomes an answer, or the words of a failure as
//! kube-scheduler's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coracle_client::kubeconfig::{Cluster, Context, NamedCluster, NamedContext, NamedUser, User};
use coracle_client::{BodyError, HttpsTransport, Kubeconfig, KubeconfigError, Transport};
use coracle_meta::{Object, Resource};
use coracle_reconcile::{EventKind, View};
use coracle_rt::Scope;
use coracle_scheduler::extender::{Answer, Extender, Extenders, Filtered, Question, Victims};
use coracle_scheduler::preemption::Candidate;
use coracle_scheduler::{Event, PodInfo};
use futures_util::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::deeds::{Deeds, PODS};

const NODES: Resource = Resource::new("", "nodes");
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The extenders of a scheduler, each with its connections.
pub struct Callers {
    view: Arc<dyn View>,
    all: Vec<Caller>,
}

struct Caller {
    extender: Extender,
    transport: Result<Box<dyn Transport>, String>,
}

/// Makes sure that the extenders' URLs, certificates and keys can be used.
pub fn check_extenders(scope: &Scope, extenders: &Extenders) -> Result<(), KubeconfigError> {
    extenders.all().iter().try_for_each(|extender| connect(scope, extender).map(|_| ()))
}

fn connect(scope: &Scope, extender: &Extender) -> Result<HttpsTransport, KubeconfigError> {
    HttpsTransport::from_kubeconfig(&scope.child("extender"), &access(extender))
}

/// Where the extender is, in the form of a kubeconfig. Without an authority, HTTPS trusts anyone, as kube-scheduler does.
fn access(extender: &Extender) -> Kubeconfig {
    let tls = extender.tls_config.clone();
    let text = |value: String| Some(value).filter(|value| !value.is_empty());
    let path = |value: String| text(value).map(PathBuf::from);
    let has_authority = !(tls.ca_file.is_empty() && tls.ca_data.is_empty());
    let cluster = Cluster {
        server: extender.url_prefix.clone(),
        certificate_authority: path(tls.ca_file),
        certificate_authority_data: text(tls.ca_data),
        insecure_skip_tls_verify: tls.insecure || (extender.enable_https && !has_authority),
        tls_server_name: text(tls.server_name),
    };
    let user = User {
        client_certificate: path(tls.cert_file),
        client_certificate_data: text(tls.cert_data),
        client_key: path(tls.key_file),
        client_key_data: text(tls.key_data),
        ..User::default()
    };
    let name = String::from("extender");
    let context = Context { cluster: name.clone(), user: name.clone(), namespace: None };
    Kubeconfig {
        clusters: vec![NamedCluster { name: name.clone(), cluster }],
        users: vec![NamedUser { name: name.clone(), user }],
        contexts: vec![NamedContext { name: name.clone(), context }],
        current_context: name,
        ..Kubeconfig::default()
    }
}

impl Callers {
    pub fn new(scope: &Scope, view: Arc<dyn View>, extenders: &Extenders) -> Callers {
        let caller = |extender: &Extender| {
            let transport = connect(scope, extender).map(|transport| Box::new(transport) as Box<dyn Transport>);
            let transport = transport.map_err(|error| error.to_string());
            Caller { extender: extender.clone(), transport }
        };
        Callers { view, all: extenders.all().iter().map(caller).collect() }
    }

    pub async fn ask(&self, pod: &PodInfo, question: Question) -> Answer {
        match question {
            Question::Filter { extender, nodes } => {
                let answer = self.filter(&self.all[extender], pod, &nodes).await;
                self.log(extender, answer.as_ref().err());
                Answer::Filter(answer)
            }
            Question::Prioritize { extenders, nodes } => {
                let asked = extenders.iter().map(|at| self.prioritize(&self.all[*at], pod, &nodes));
                let answers = join_all(asked).await;
                extenders.iter().zip(&answers).for_each(|(at, answer)| self.log(*at, answer.as_ref().err()));
                Answer::Prioritize(answers)
            }
            Question::Preempt { extender, candidates } => {
                let answer = self.preempt(&self.all[extender], pod, &candidates).await;
                self.log(extender, answer.as_ref().err());
                Answer::Preempt(answer)
            }
        }
    }

    fn log(&self, extender: usize, error: Option<&String>) {
        if let Some(error) = error {
            let Extender { url_prefix, ignorable, .. } = &self.all[extender].extender;
            tracing::info!(extender = url_prefix, ignorable, error, "an extender failed");
        }
    }

    async fn filter(&self, caller: &Caller, pod: &PodInfo, nodes: &[String]) -> Result<Filtered, String> {
        let args = self.nodes_args(caller, pod, nodes);
        let result = caller.call(&caller.extender.filter_verb, &args).await?;
        failure(&result)?;
        let by_name = field(&result, "NodeNames").filter(|_| caller.extender.node_cache_capable);
        let kept: Vec<String> = match (by_name, field(&result, "Nodes")) {
            (Some(names), _) => strings(names).collect(),
            (None, Some(list)) => {
                items(list).filter_map(|node| Some(node["metadata"]["name"].as_str()?.into())).collect()
            }
            (None, None) => Vec::new(),
        };
        if by_name.is_some()
            && let Some(unknown) = kept.iter().find(|name| !nodes.contains(name))
        {
            let url = &caller.extender.url_prefix;
            return Err(format!(
                "extender {url:?} claims a filtered node {unknown:?} which is not found in the input node list"
            ));
        }
        let reasons = |name| field(&result, name).map(texts).unwrap_or_default();
        Ok(Filtered { kept, failed: reasons("FailedNodes"), unresolvable: reasons("FailedAndUnresolvableNodes") })
    }

    async fn prioritize(&self, caller: &Caller, pod: &PodInfo, nodes: &[String]) -> Result<Vec<(String, i64)>, String> {
        let args = self.nodes_args(caller, pod, nodes);
        let result = caller.call(&caller.extender.prioritize_verb, &args).await?;
        let entry =
            |entry: &Value| Some((field(entry, "Host")?.as_str()?.to_owned(), field(entry, "Score")?.as_i64()?));
        Ok(result.as_array().into_iter().flatten().filter_map(entry).collect())
    }

    async fn preempt(
        &self,
        caller: &Caller,
        pod: &PodInfo,
        candidates: &[Candidate],
    ) -> Result<BTreeMap<String, Victims>, String> {
        let by_uid = caller.extender.node_cache_capable;
        let victims = |candidate: &Candidate| {
            let pods = candidate.victims.iter().map(|victim| match by_uid {
                true => json!({"UID": victim.uid}),
                false => self.pod(victim),
            });
            json!({"Pods": pods.collect::<Vec<_>>(), "NumPDBViolations": candidate.broken_budgets})
        };
        let all: serde_json::Map<_, _> =
            candidates.iter().map(|candidate| (candidate.node.clone(), victims(candidate))).collect();
        let (whole, meta) = if by_uid { (Value::Null, all.into()) } else { (all.into(), Value::Null) };
        let args = json!({"Pod": self.pod(pod), "NodeNameToVictims": whole, "NodeNameToMetaVictims": meta});
        let result = caller.call(&caller.extender.preempt_verb, &args).await?;
        let nodes = field(&result, "NodeNameToMetaVictims").and_then(Value::as_object);
        let read = |victims: &Value| Victims {
            uids: field(victims, "Pods")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|pod| Some(field(pod, "UID")?.as_str()?.to_owned()))
                .collect(),
            broken_budgets: field(victims, "NumPDBViolations").and_then(Value::as_i64).unwrap_or(0),
        };
        Ok(nodes.into_iter().flatten().map(|(node, victims)| (node.clone(), read(victims))).collect())
    }

    async fn bind(&self, caller: &Caller, pod: &PodInfo, node: &str) -> Result<(), String> {
        let args = json!({
            "PodName": &*pod.key.name, "PodNamespace": &*pod.key.namespace, "PodUID": pod.uid, "Node": node,
        });
        failure(&caller.call(&caller.extender.bind_verb, &args).await?)
    }

    /// `ExtenderArgs`: the pod, and the nodes whole or by name.
    fn nodes_args(&self, caller: &Caller, pod: &PodInfo, nodes: &[String]) -> Value {
        if caller.extender.node_cache_capable {
            return json!({"Pod": self.pod(pod), "Nodes": null, "NodeNames": nodes});
        }
        let known = nodes.iter().filter_map(|name| self.view.get(&NODES, "", name));
        let items: Vec<Value> = known.map(|node| plain(&node)).collect();
        json!({"Pod": self.pod(pod), "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
    }

    /// The pod as the API has it; what is left of it where it has gone meanwhile.
    fn pod(&self, pod: &PodInfo) -> Value {
        match self.view.get(&PODS, &pod.key.namespace, &pod.key.name) {
            Some(object) => plain(&object),
            None => {
                json!({"metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": pod.uid}})
            }
        }
    }
}

impl Deeds {
    /// Lets an extender bind the pod. Where it fails and may be ignored, the pod is bound as ever.
    pub(super) async fn bind_by(&self, pod: &PodInfo, node: &str, extender: usize) -> Option<Event> {
        let caller = &self.extenders.all[extender];
        match self.extenders.bind(caller, pod, node).await {
            Ok(()) => {
                let note = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
                self.note(pod, EventKind::Normal, ("Scheduled", "Binding"), note);
                None
            }
            Err(error) => {
                self.extenders.log(extender, Some(&error));
                if caller.extender.ignorable {
                    return self.bind(pod, node).await;
                }
                Some(Event::BindFailed { key: pod.key.clone(), uid: pod.uid.to_string(), message: error })
            }
        }
    }
}

impl Caller {
    async fn call(&self, verb: &str, args: &Value) -> Result<Value, String> {
        let transport = self.transport.as_ref().map_err(String::clone)?;
        let url = self.extender.url(verb);
        match tokio::time::timeout(self.extender.timeout().unsigned_abs(), exchange(&**transport, verb, args)).await {
            Err(_) => {
                Err(format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
            }
            Ok(Err(error)) => Err(format!("Post {url:?}: {}", words(&error, &url))),
            Ok(Ok((StatusCode::OK, body))) => serde_json::from_slice(&body).map_err(|error| error.to_string()),
            Ok(Ok((status, _))) => Err(format!("failed {verb} with extender at URL {url}, code {}", status.as_u16())),
        }
    }
}

async fn exchange(transport: &dyn Transport, verb: &str, args: &Value) -> Result<(StatusCode, Bytes), BodyError> {
    let request = Request::post(format!("/{verb}")).header(header::CONTENT_TYPE, "application/json");
    let answer = transport.send(request.body(Bytes::from(args.to_string()))?).await?;
    let (status, mut frames, mut body) = (answer.status(), answer.into_body(), BytesMut::new());
    while let Some(frame) = frames.frame().await {
        body.extend(frame?.into_data());
        if body.len() > ANSWER_BYTES_MAX {
            return Err("the answer is too long".into());
        }
    }
    Ok((status, body.freeze()))
}

/// What went wrong on the way.
fn words(error: &BodyError, url: &str) -> String {
    let refused = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    match url.parse::<http::Uri>() {
        Ok(uri) if refused => {
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            format!("dial tcp {}:{port}: connect: connection refused", uri.host().unwrap_or_default())
        }
        _ => error.to_string(),
    }
}

/// The object without what Go's typed clients leave out, and without managed fields, which schedulers do not keep.
fn plain(object: &Object) -> Value {
    let mut value: Value = serde_json::from_slice(&object.json()).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    value
}

/// A field of an answer, whatever the case of its name, as Go reads it; `None` where it is null.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    let found = fields
        .get(name)
        .or_else(|| fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value));
    found.filter(|value| !value.is_null())
}

/// The answer's own word of failure.
fn failure(result: &Value) -> Result<(), String> {
    match field(result, "Error").and_then(Value::as_str) {
        None | Some("") => Ok(()),
        Some(error) => Err(error.to_owned()),
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    field(list, "items").and_then(Value::as_array).into_iter().flatten()
}

fn strings(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned))
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs.map(|(name, why)| (name.clone(), why.as_str().unwrap_or_default().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extender_of_https_without_an_authority_is_trusted_unseen() {
        let mut extender = Extender { url_prefix: "https://x/y".into(), enable_https: true, ..Extender::default() };
        assert!(access(&extender).clusters[0].cluster.insecure_skip_tls_verify);
        extender.tls_config.ca_data = "Zm9v".into();
        let cluster = &access(&extender).clusters[0].cluster;
        assert!(!cluster.insecure_skip_tls_verify);
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Zm9v"));
    }

    #[test]
    fn names_of_fields_count_in_any_case() {
        let answer = json!({"nodenames": ["a"], "error": "", "FailedNodes": null});
        assert_eq!(field(&answer, "NodeNames"), Some(&json!(["a"])));
        assert_eq!(field(&answer, "FailedNodes"), None);
        assert_eq!(failure(&answer), Ok(()));
        assert_eq!(failure(&json!({"ERROR": "no"})), Err("no".into()));
    }
}
