//! Carrying a plan out: writes in order, runs of creations and deletions in growing batches, then events and asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::verbs::Preconditions;
use coracle_client::{Client, ClientError, DeleteOptions, ListOptions, Listed, Made, ObjectPath, Patch, WriteOptions};
use coracle_meta::{Resource, Status};
use coracle_reconcile::{Answer, Ask, Informed, Outcome, Plan, Propagation, SigningOrder, View, Write};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::catalog::{Around, Catalog};

/// Writes of one run that are under way together at most, so that others' find seats too; runs start with one and
/// double, as upstream's do, so that a quota that is used up costs one refusal and not a thousand.
const BATCH_MAX: usize = 128;

/// A write as the server answered it: what a view must show before the same key is decided about again.
#[derive(Clone, Debug)]
pub struct Written {
    pub resource: Resource,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub revision: u64,
    pub deleted: bool,
}

/// Signs with the cluster's keys; the error is told to whom asked.
pub trait Signer: Send + Sync {
    /// A certificate of the cluster's authority, PEM.
    fn sign(&self, order: &SigningOrder) -> Result<String, String>;

    /// A service account's token: a JSON web token of these claims.
    fn token(&self, claims: &Value) -> Result<String, String>;
}

/// What one controller's plans are carried out with.
#[derive(Clone)]
pub struct Means {
    pub client: Client,
    pub view: Arc<Informed<Around>>,
    pub signer: Option<Arc<dyn Signer>>,
    /// Resources, with their subresource, that the client may update and not patch.
    pub updates: Arc<Mutex<BTreeSet<(Resource, String)>>>,
}

/// What carrying out came to.
#[derive(Debug, Default)]
pub struct Done {
    /// By the write's place in the plan; `None` from the first failure on.
    pub written: Vec<Option<Written>>,
    pub outcome: Outcome,
}

/// Carries out writes until one fails, then asks.
pub async fn execute(means: &Means, plan: &Plan) -> Done {
    let mut done = Done { written: vec![None; plan.writes.len()], outcome: Outcome::default() };
    let mut next = 0;
    while next < plan.writes.len() {
        let run = run_length(&plan.writes[next..]);
        let mut batch = 1;
        let end = next + run;
        while next < end {
            let until = (next + batch).min(end);
            let results = join_all(plan.writes[next..until].iter().map(|write| send(means, write))).await;
            for (at, result) in results.into_iter().enumerate() {
                match result {
                    Ok(written) => done.written[next + at] = Some(written),
                    Err(error) if done.outcome.error.is_none() => {
                        done.outcome.error = Some(error.into_status());
                        done.outcome.refused = plan.writes.get(next + at).cloned();
                    }
                    Err(_) => {}
                }
            }
            if done.outcome.error.is_some() {
                return done;
            }
            (next, batch) = (until, (batch * 2).min(BATCH_MAX));
        }
    }
    for ask in &plan.asks {
        done.outcome.asked.push(ask.clone());
        done.outcome.answers.push(answer(means, ask).await);
    }
    done
}

/// How many of the first writes may go out together: creations, or deletions, of one resource.
fn run_length(writes: &[Write]) -> usize {
    let class = |write: &Write| match write {
        Write::Create { resource, .. } => Some((true, resource.clone())),
        Write::Delete { resource, .. } => Some((false, resource.clone())),
        _ => None,
    };
    let Some(first) = writes.first().and_then(class) else { return 1 };
    writes.iter().take_while(|write| class(write).as_ref() == Some(&first)).count()
}

async fn send(means: &Means, write: &Write) -> Result<Written, ClientError> {
    let (client, catalog) = (&means.client, means.view.around.catalog.as_ref());
    let options = WriteOptions::default();
    let (resource, namespace, name, made): (_, _, _, Made) = match write {
        Write::Create { resource, namespace, object } => {
            let made = client.create_of(&catalog.version(resource), namespace, object, &options).await?;
            (resource, namespace, None, made)
        }
        Write::Patch { resource, namespace, name, subresource, uid, resource_version, patch } => {
            let path = ObjectPath::new(catalog.version(resource), namespace, name);
            let path = path.subresource(subresource.unwrap_or_default());
            let patch = guarded(patch, uid, resource_version.as_deref());
            (resource, namespace, Some(name), change(means, &path, &patch).await?)
        }
        Write::Replace { resource, namespace, name, subresource, object } => {
            let path = ObjectPath::new(catalog.version(resource), namespace, name).subresource(*subresource);
            (resource, namespace, Some(name), client.replace_of(&path, object, &options).await?)
        }
        Write::Delete { resource, namespace, name, .. } => {
            return delete(client, catalog, write).await.map(|uid| Written {
                resource: resource.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                uid,
                revision: 0,
                deleted: true,
            });
        }
    };
    let revision = made.revision();
    Ok(Written {
        resource: resource.clone(),
        namespace: namespace.clone(),
        name: name.cloned().unwrap_or(made.metadata.name),
        uid: made.metadata.uid,
        revision,
        deleted: false,
    })
}

/// Patches, or where the caller may only update, as upstream's roles have it for many controllers, merges into the
/// object as the view shows it and replaces it. The version seen guards the replacement. Which of the two works is
/// remembered, so that it is found out once.
async fn change(means: &Means, path: &ObjectPath, patch: &Value) -> Result<Made, ClientError> {
    let what = (path.resource.resource.clone(), path.subresource.to_string());
    let updates = means.updates.lock().contains(&what);
    if !updates {
        match means.client.patch_of(path, &Patch::Merge(patch.clone()), &WriteOptions::default()).await {
            Err(ClientError::Status(status)) if status.code == 403 => {
                return match update(means, path, patch).await {
                    Some(Ok(object)) => {
                        means.updates.lock().insert(what);
                        Ok(object)
                    }
                    Some(Err(error)) => Err(error),
                    None => Err(status.into()),
                };
            }
            other => return other,
        }
    }
    let updated = update(means, path, patch).await;
    if matches!(&updated, Some(Err(ClientError::Status(status))) if status.code == 403) {
        means.updates.lock().remove(&what);
    }
    updated.unwrap_or_else(|| Err(Status::not_found(&path.resource.resource, &path.name).into()))
}

/// `None` where the view does not show the object.
async fn update(means: &Means, path: &ObjectPath, patch: &Value) -> Option<Result<Made, ClientError>> {
    let object = match path.subresource.as_ref() {
        // Another object than the one whose scale it is.
        "scale" => means.client.get(path).await,
        _ => Ok(seen(means.view.as_ref(), path)?),
    };
    let mut object = match object {
        Ok(object) => object,
        Err(error) => return Some(Err(error)),
    };
    for member in ["uid", "resourceVersion"] {
        let wanted = &patch["metadata"][member];
        if !wanted.is_null() && *wanted != object["metadata"][member] {
            return Some(Err(Status::modified(&path.resource.resource, &path.name).into()));
        }
    }
    merge(&mut object, patch);
    Some(means.client.replace_of(path, &object, &WriteOptions::default()).await)
}

/// The object with its resource version: controllers may list and watch what they may not get.
fn seen(view: &dyn View, path: &ObjectPath) -> Option<Value> {
    let found = view.get(&path.resource.resource, &path.namespace, &path.name)?;
    serde_json::from_slice(&found.json()).ok()
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(members) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.shift_remove(key);
        } else {
            merge(members.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// One by one where a resource cannot be deleted as a collection.
async fn delete_all(
    client: &Client,
    resource: &coracle_client::ResourceRef,
    namespace: &str,
    options: &DeleteOptions,
) -> Result<Answer, ClientError> {
    let all = ListOptions::default();
    match client.delete_collection(resource, namespace, &all, options).await {
        Err(ClientError::Status(status)) if status.code == 405 => {}
        other => return other.map(|()| Answer::Done),
    }
    for item in client.list(resource, namespace, &all).await?.items {
        let path = ObjectPath::new(resource.clone(), namespace, item["metadata"]["name"].as_str().unwrap_or_default());
        match client.delete(&path, options).await {
            Err(ClientError::Status(status)) if status.is_not_found() => {}
            other => other.map(|_| ())?,
        }
    }
    Ok(Answer::Done)
}

/// An object that is gone already was deleted well.
async fn delete(client: &Client, catalog: &Catalog, write: &Write) -> Result<String, ClientError> {
    let Write::Delete { resource, namespace, name, uid, resource_version, grace_seconds, propagation } = write else {
        unreachable!("only deletions come here");
    };
    let options = DeleteOptions {
        grace_period_seconds: *grace_seconds,
        propagation_policy: propagation.map(|propagation| match propagation {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }),
        preconditions: Some(Preconditions {
            uid: (!uid.is_empty()).then(|| uid.clone()),
            resource_version: resource_version.clone(),
        }),
        dry_run: Vec::new(),
    };
    match client.delete_of(&ObjectPath::new(catalog.version(resource), namespace, name), &options).await {
        Err(ClientError::Status(status)) if status.is_not_found() => Ok(uid.clone()),
        other => other.map(|_: IgnoredAny| uid.clone()),
    }
}

/// The patch with what must hold for it: the object's uid and, where given, its resource version.
fn guarded(patch: &Value, uid: &str, resource_version: Option<&str>) -> Value {
    let mut patch = patch.clone();
    if !uid.is_empty() {
        patch["metadata"]["uid"] = json!(uid);
    }
    if let Some(version) = resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    patch
}

async fn answer(means: &Means, ask: &Ask) -> Answer {
    let (client, catalog) = (&means.client, means.view.around.catalog.as_ref());
    let answered = match ask {
        Ask::Read { resource, namespace, name } => read(client, catalog, resource, namespace, name).await,
        Ask::Scale { resource, namespace, name } => {
            let path = ObjectPath::new(catalog.version(resource), namespace, name).subresource("scale");
            match client.get(&path).await {
                Ok(scale) => Ok(Answer::Object(Some(scale))),
                Err(ClientError::Status(Status { code: 404, .. })) => Ok(Answer::Object(None)),
                Err(error) => Err(error),
            }
        }
        Ask::List { resource, namespace, selector } => {
            let options = ListOptions { label_selector: selector.clone(), ..ListOptions::default() };
            let list = client.list(&catalog.version(resource), namespace, &options).await;
            list.map(|list| Answer::Objects(list.items))
        }
        Ask::Discovery => discover(client, catalog).await,
        Ask::Remaining { namespace } => remaining(client, catalog, namespace).await,
        Ask::DeleteAll { resource, namespace } => {
            let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
            delete_all(client, &catalog.version(resource), namespace, &options).await
        }
        Ask::Review { resource, namespace, object } => {
            let made = client.create(&catalog.version(resource), namespace, object, &WriteOptions::default()).await;
            made.map(|made| Answer::Object(Some(made)))
        }
        Ask::Sign(order) => return signed(means, |signer| signer.sign(order)),
        Ask::Token { claims } => return signed(means, |signer| signer.token(claims)),
    };
    answered.unwrap_or_else(|error| Answer::Failed(error.into_status()))
}

fn signed(means: &Means, sign: impl FnOnce(&dyn Signer) -> Result<String, String>) -> Answer {
    let signed = match means.signer.as_deref() {
        Some(signer) => sign(signer),
        None => Err("this process has no signing key".into()),
    };
    match signed {
        Ok(signed) => Answer::Signed(signed),
        Err(why) => Answer::Failed(Status::internal(why)),
    }
}

async fn read(
    client: &Client,
    catalog: &Catalog,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Answer, ClientError> {
    match client.get(&ObjectPath::new(catalog.version(resource), namespace, name)).await {
        Ok(object) => Ok(Answer::Object(Some(object))),
        Err(ClientError::Status(Status { code: 404, .. })) => Ok(Answer::Object(None)),
        Err(error) => Err(error),
    }
}

async fn discover(client: &Client, catalog: &Catalog) -> Result<Answer, ClientError> {
    catalog.refresh(client).await?;
    let known = catalog.known();
    let list = known.iter().map(|known| {
        json!({"group": known.kind.group, "version": known.kind.version, "kind": known.kind.kind,
               "name": known.resource.plural, "namespaced": known.namespaced})
    });
    Ok(Answer::Resources(list.collect()))
}

/// What is read of an object that remains.
#[derive(Deserialize)]
struct Held {
    metadata: HeldBy,
}

#[derive(Deserialize)]
struct HeldBy {
    finalizers: Option<Vec<String>>,
}

async fn remaining(client: &Client, catalog: &Catalog, namespace: &str) -> Result<Answer, ClientError> {
    let (mut resources, mut finalizers) = (Vec::new(), std::collections::BTreeMap::<String, usize>::new());
    if catalog.known().is_empty() {
        catalog.refresh(client).await?;
    }
    for known in catalog.known().iter().filter(|known| known.namespaced) {
        let resource = catalog.version(&known.resource);
        let list: Listed<Held> = client.list_metadata(&resource, namespace, &ListOptions::default()).await?;
        if list.items.is_empty() {
            continue;
        }
        resources.push((known.resource.to_string(), list.items.len()));
        for finalizer in list.items.into_iter().flat_map(|item| item.metadata.finalizers.unwrap_or_default()) {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    Ok(Answer::Remaining { resources, finalizers: finalizers.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creations_of_one_resource_go_out_together() {
        let create = |plural| Write::Create {
            resource: Resource::new("", plural),
            namespace: String::new(),
            object: Value::Null,
        };
        assert_eq!(run_length(&[create("pods"), create("pods"), create("events")]), 2);
    }

    #[test]
    fn a_patch_carries_what_must_hold() {
        let patch = guarded(&json!({"status": {}}), "u", Some("7"));
        assert_eq!(patch, json!({"status": {}, "metadata": {"uid": "u", "resourceVersion": "7"}}));
    }
}
