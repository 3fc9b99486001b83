//! Questions about tokens and rights, answered on the spot. Source: Kubernetes `pkg/registry/authentication` and
//! `pkg/registry/authorization`.

use std::sync::Arc;

use coracle_access::{Attributes, Decision};
use coracle_meta::{Status, User, Value};
use serde_json::json;

use crate::answer::{self, Response};
use crate::authorise::decide;
use crate::call::Call;
use crate::identify::token_user;
use crate::server::Server;
use crate::store::Target;
use crate::{decode, encode};

pub async fn route(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let kind = target.served.kind;
    let mut review = decode::object(call, target.served)?;
    let status = match kind.kind {
        "TokenReview" if review.str_at(&["spec", "token"]).is_empty() => {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        "TokenReview" => token(server, &review),
        "SelfSubjectReview" => {
            let mut status = Value::map();
            status.set(&["userInfo"], user_info(&call.user));
            status
        }
        "SelfSubjectAccessReview" => access(server, &call.user, review.get("spec"))?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let spec = review.get("spec");
            let mut user =
                User { name: spec.str_at(&["user"]).into(), uid: spec.str_at(&["uid"]).into(), ..User::default() };
            let groups = spec.list_at(&["groups"]).iter().filter_map(Value::as_str);
            user.groups = groups.map(str::to_owned).collect();
            if user.name.is_empty() && user.groups.is_empty() {
                let mut errors = coracle_meta::ErrorList::default();
                let path = coracle_meta::Path::new("spec.user");
                errors.invalid(&path, "", "at least one of user or group must be specified");
                return Err(Status::invalid(kind.group, "", "", &errors));
            }
            let asked = spec.str_at(&["resourceAttributes", "namespace"]);
            if kind.is_namespaced() && asked != target.namespace {
                let mut errors = coracle_meta::ErrorList::default();
                let path = coracle_meta::Path::new("spec.resourceAttributes.namespace");
                errors.invalid(&path, asked, "must match metadata.namespace");
                return Err(Status::invalid(kind.group, "", "", &errors));
            }
            access(server, &user, spec)?
        }
        "SelfSubjectRulesReview" if review.str_at(&["spec", "namespace"]).is_empty() => {
            return Err(Status::bad_request("no namespace on request"));
        }
        "SelfSubjectRulesReview" => rules(server, &call.user, review.get("spec")),
        _ => return Err(answer::method_not_allowed()),
    };
    review.set(&["status"], status);
    Ok(encode::value(call, 201, &review))
}

fn token(server: &Arc<Server>, review: &Value) -> Value {
    let spec = review.get("spec");
    let wanted = spec.list_at(&["audiences"]).iter().filter_map(Value::as_str).map(str::to_owned);
    let mut wanted: Vec<String> = wanted.collect();
    if wanted.is_empty() {
        wanted = server.audiences().to_vec();
    }
    let mut status = Value::map();
    match token_user(server, spec.str_at(&["token"]), &wanted) {
        Ok(proof) => {
            status.set(&["authenticated"], true);
            status.set(&["user"], user_info(&proof.user));
            let audiences = proof.audiences.iter().map(Value::string);
            status.set(&["audiences"], audiences.collect::<Vec<_>>());
        }
        Err(_) => {
            status.set(&["user"], Value::map());
            status.set(&["error"], "invalid bearer token");
        }
    }
    status
}

fn user_info(user: &User) -> Value {
    let mut info = Value::map();
    info.set(&["username"], user.name.as_str());
    if !user.uid.is_empty() {
        info.set(&["uid"], user.uid.as_str());
    }
    info.set(&["groups"], user.groups.iter().map(Value::string).collect::<Vec<_>>());
    for (key, values) in &user.extra {
        info.set(&["extra", key], values.iter().map(Value::string).collect::<Vec<_>>());
    }
    info
}

fn access(server: &Server, user: &User, spec: &Value) -> Result<Value, Status> {
    let resource = spec.get("resourceAttributes");
    let path = spec.get("nonResourceAttributes");
    if resource.is_null() == path.is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let (mut errors, given) = (coracle_meta::ErrorList::default(), resource.clone());
        errors.invalid(&coracle_meta::Path::new("spec.resourceAttributes"), given, why);
        return Err(Status::invalid("authorization.k8s.io", "", "", &errors));
    }
    let asked = Attributes {
        user,
        verb: if path.is_null() { resource.str_at(&["verb"]) } else { path.str_at(&["verb"]) },
        group: resource.str_at(&["group"]),
        version: resource.str_at(&["version"]),
        resource: resource.str_at(&["resource"]),
        subresource: resource.str_at(&["subresource"]),
        namespace: resource.str_at(&["namespace"]),
        name: resource.str_at(&["name"]),
        path: path.str_at(&["path"]),
    };
    let decision = decide(server, &asked);
    let mut status = Value::map();
    status.set(&["allowed"], decision.is_allowed());
    if matches!(decision, Decision::Deny(_)) {
        status.set(&["denied"], true);
    }
    if !decision.reason().is_empty() {
        status.set(&["reason"], decision.reason());
    }
    Ok(status)
}

fn rules(server: &Server, user: &User, spec: &Value) -> Value {
    let rules = server.policy.read().rules_for(user, spec.str_at(&["namespace"]));
    let (of_urls, of_resources): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let list =
        |rules: Vec<&coracle_access::Rule>| rules.into_iter().map(coracle_access::Rule::to_value).collect::<Vec<_>>();
    let mut status = Value::map();
    status.set(&["resourceRules"], list(of_resources));
    status.set(&["nonResourceRules"], list(of_urls));
    status.set(&["incomplete"], false);
    status
}

/// The old list of the control plane's parts.
pub async fn components(server: &Server, call: &Call) -> Response {
    let is_well = server.cache.store.revision().await.is_ok();
    let condition = json!({"type": "Healthy", "status": if is_well { "True" } else { "False" }, "message": "ok"});
    let item = json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": "etcd-0"}, "conditions": [condition]});
    match call.info.name.as_str() {
        "" => answer::json(
            200,
            &json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [item]}),
        ),
        "etcd-0" => answer::json(200, &item),
        name => answer::status(&Status::not_found(&coracle_meta::Resource::new("", "componentstatuses"), name)),
    }
}
