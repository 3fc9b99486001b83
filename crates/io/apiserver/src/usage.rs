//! `metrics.k8s.io`: what nodes and pods use. Nothing is measured until somebody asks. Then the kubelets of the nodes in
//! question are read, and for as long as questions keep coming, their last two readings are kept to tell rates by; a
//! minute and a half of silence, and everything is forgotten.

mod points;
mod sampler;
mod scrape;
mod show;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Object, Resource, Status};
use coracle_reconcile::View;
use futures_util::{Stream, StreamExt, stream};

use crate::answer::Response;
use crate::call::{Call, Served};
use crate::server::Server;
use crate::store::{Target, tree};
use crate::verbs::select::Selector;
use points::{Pair, Used};
pub use sampler::Sampler;

static NODES: Resource = Resource::new("", "nodes");
static PODS: Resource = Resource::new("", "pods");
/// Nodes that are read at once for one question.
const AT_ONCE_MAX: usize = 256;
/// What was not read by then is left out, however many nodes do not answer.
const QUESTION_MAX: Duration = Duration::from_secs(15);

/// What is told of one object, and of which: its containers by name, or itself under the empty name.
struct Told {
    object: Arc<Object>,
    used: Vec<(String, Used)>,
}

/// `get` and `list` of nodes and pods.
pub async fn answer(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let is_pods = target.served.kind.kind == "PodMetrics";
    if call.info.verb == "get" {
        let object = one(server, target, if is_pods { &PODS } else { &NODES })?;
        let told = if is_pods { pods(server, vec![object]).await } else { nodes(server, vec![object]).await };
        let told = told.into_iter().next().ok_or_else(|| unknown(target))?;
        return show::object(server, call, target.served, &told);
    }
    let selector = Selector::read(call, target.served)?;
    let namespace = Some(target.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let mut objects = server.view.list(if is_pods { &PODS } else { &NODES }, namespace);
    objects.retain(|object| selector.matches(object));
    let told = if is_pods { pods(server, objects).await } else { nodes(server, objects).await };
    show::list(server, call, target.served, &told)
}

fn one(server: &Server, target: &Target, resource: &Resource) -> Result<Arc<Object>, Status> {
    let found = server.view.get(resource, &target.namespace, &target.name);
    found.ok_or_else(|| Status::not_found(resource, &target.name))
}

/// As metrics-server says it of what is there and was not measured.
fn unknown(target: &Target) -> Status {
    match target.served.kind.kind {
        "PodMetrics" => {
            let name = format!("{}/{}", target.namespace, target.name);
            Status::not_found(&Resource::new("metrics.k8s.io", "podmetrics"), &name)
        }
        _ => Status::not_found(&Resource::new("metrics.k8s.io", "nodemetrics"), &target.name),
    }
}

async fn nodes(server: &Arc<Server>, objects: Vec<Arc<Object>>) -> Vec<Told> {
    let read = stream::iter(objects).map(|object| async move {
        let pair = readings(server, &object.meta.name).await?;
        let used = pair.node()?;
        Some(Told { object, used: vec![(String::new(), used)] })
    });
    let mut told: Vec<Told> = in_time(read).await;
    told.sort_by(|a, b| a.object.meta.name.cmp(&b.object.meta.name));
    told
}

/// What comes of these readings, in any order, as far as it comes in time.
async fn in_time<T, C: Default + Extend<T>>(read: impl Stream<Item = impl Future<Output = Option<T>>>) -> C {
    let read = read.buffer_unordered(AT_ONCE_MAX).take_until(tokio::time::sleep(QUESTION_MAX));
    read.filter_map(std::future::ready).collect().await
}

/// Only the nodes that these pods are on are asked.
async fn pods(server: &Arc<Server>, objects: Vec<Arc<Object>>) -> Vec<Told> {
    let placed: Vec<(Arc<Object>, String)> =
        objects.into_iter().filter_map(|pod| Some((pod.clone(), node_of(&pod)?))).collect();
    let mut names: Vec<String> = placed.iter().map(|(_, node)| node.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let read = stream::iter(names).map(|name| async move { readings(server, &name).await.map(|pair| (name, pair)) });
    let read: BTreeMap<String, Arc<Pair>> = in_time(read).await;
    let told = placed.into_iter().filter_map(|(object, node)| {
        let used = read.get(&node)?.pod(&object.meta.namespace, &object.meta.name)?;
        Some(Told { object, used })
    });
    told.collect()
}

async fn readings(server: &Arc<Server>, node: &str) -> Option<Arc<Pair>> {
    if !scrape::can_answer(server, node) {
        return None;
    }
    server.usage.readings(&server.scope, node, || scrape::read(server, node)).await
}

/// Where a pod was bound to.
fn node_of(pod: &Object) -> Option<String> {
    let served = Served::stored("", "pods")?;
    let fields = pod.selectable(|| {
        let value = tree(pod);
        value.map_or_else(|_| Box::default(), |value| served.kind.selectable_fields(&value).into())
    });
    let (_, node) = fields.iter().find(|(name, _)| *name == "spec.nodeName")?;
    Some(node.clone()).filter(|node| !node.is_empty())
}
