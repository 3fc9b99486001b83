//! `serviceaccounts/token`: a token of a service account, bound to what it names. Source: Kubernetes
//! `pkg/registry/core/serviceaccount/storage/token.go`.

use std::sync::Arc;

use coracle_admission::{Operation, Request};
use coracle_meta::{Object, Resource, Status, Value, time};
use coracle_reconcile::View;

use crate::admit;
use crate::answer::{self, Response};
use crate::call::{Call, Served};
use crate::identify::bound::Binding;
use crate::server::{ISSUER, Server};
use crate::store::{Target, failed};
use crate::{decode, encode};

const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// Tokens of pods made by the admission plugin live a year, since old clients never read theirs again; the plugin's
/// odd number of seconds tells them.
const PLUGIN_SECONDS: i64 = 3607;
const YEAR_SECONDS: i64 = 365 * 24 * 3600;

pub async fn request(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let mut asked = decode::named(call, "authentication.k8s.io/v1", "TokenRequest")?;
    let cache = server.resource(target.served.kind).await?;
    let found = cache.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
    let account = found.ok_or_else(|| target.not_found())?;
    let resource = target.resource();
    let request = Request {
        operation: Operation::Create,
        resource: &resource,
        subresource: "token",
        namespace: &target.namespace,
        name: &target.name,
        user: &call.user,
        old: None,
    };
    admit::validate(server, &request, &asked).await?;
    let seconds = asked.int_at(&["spec", "expirationSeconds"]).unwrap_or(3600);
    check_seconds(seconds)?;
    let binding = bind(server, &account, asked.at(&["spec", "boundObjectRef"])).await?;
    let lasts = if seconds == PLUGIN_SECONDS && binding.pod.is_some() { YEAR_SECONDS } else { seconds };
    let mut audiences = asked.list_at(&["spec", "audiences"]).to_vec();
    if audiences.is_empty() {
        audiences.push(ISSUER.into());
    }
    let now = server.clock.now().as_second();
    let claims = claims(server, &binding, &audiences, (now, lasts));
    let token = server.keys.sign(&claims).ok_or_else(|| Status::internal("the token could not be signed"))?;
    let ends = jiff::Timestamp::from_second(now + lasts).map_err(Status::internal)?;
    asked.set(&["metadata", "name"], target.name.as_str());
    asked.set(&["metadata", "namespace"], target.namespace.as_str());
    asked.set(&["metadata", "creationTimestamp"], time::seconds(server.clock.now()));
    asked.set(&["spec", "audiences"], audiences);
    asked.set(&["spec", "expirationSeconds"], seconds);
    asked.set_default(&["spec", "boundObjectRef"], Value::Null);
    asked.set(&["status", "token"], token);
    asked.set(&["status", "expirationTimestamp"], time::seconds(ends));
    Ok(encode::value(call, 201, &asked))
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        seconds if seconds > SECONDS_MAX => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let mut errors = coracle_meta::ErrorList::default();
    errors.invalid(&coracle_meta::Path::new("spec.expirationSeconds"), seconds, why);
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &errors))
}

fn claims(server: &Server, binding: &Binding, audiences: &[Value], (now, lasts): (i64, i64)) -> Value {
    let mut claims = Value::map();
    claims.set(&["aud"], audiences.to_vec());
    claims.set(&["exp"], now + lasts);
    claims.set(&["iat"], now);
    claims.set(&["iss"], ISSUER);
    claims.set(&["jti"], server.dice.uuid());
    claims.set(&["kubernetes.io"], binding.claims());
    claims.set(&["nbf"], now);
    claims.set(&["sub"], format!("system:serviceaccount:{}:{}", binding.namespace, binding.account.0));
    claims
}

/// What the token is bound to, read from the objects themselves.
async fn bind(server: &Arc<Server>, account: &Object, reference: &Value) -> Result<Binding, Status> {
    let meta = &account.meta;
    let account = (meta.name.clone(), meta.uid.clone());
    let mut binding = Binding { namespace: meta.namespace.clone(), account, ..Binding::default() };
    if reference.is_null() {
        return Ok(binding);
    }
    let (plural, namespace) = match reference.str_at(&["kind"]) {
        "Pod" => ("pods", meta.namespace.as_str()),
        "Secret" => ("secrets", meta.namespace.as_str()),
        "Node" => ("nodes", ""),
        other => return Err(Status::bad_request(format!("cannot bind token to object of type {other}"))),
    };
    let resource = Resource::new("", plural);
    let name = reference.str_at(&["name"]);
    let served = Served::stored("", plural).ok_or_else(answer::not_found)?;
    let found = server.resource(served.kind).await?.get_fresh(namespace, name).await.map_err(failed)?;
    let object = found.ok_or_else(|| Status::not_found(&resource, name))?;
    let uid = reference.str_at(&["uid"]);
    if !uid.is_empty() && uid != object.meta.uid {
        let own = &object.meta.uid;
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record ({own}). The object might \
             have been deleted and then recreated"
        );
        return Err(Status::conflict(&resource, name, &why));
    }
    let part = Some((object.meta.name.clone(), object.meta.uid.clone()));
    match plural {
        "pods" => {
            let pod = Value::from_json(&object.bytes).map_err(Status::internal)?;
            if pod.str_at(&["spec", "serviceAccountName"]) != meta.name {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    meta.name
                );
                return Err(Status::bad_request(why));
            }
            let node = pod.str_at(&["spec", "nodeName"]);
            if !node.is_empty() {
                let found = server.view.get(&Resource::new("", "nodes"), "", node);
                binding.node = Some((node.into(), found.map(|node| node.meta.uid.clone()).unwrap_or_default()));
            }
            binding.pod = part;
        }
        "secrets" => binding.secret = part,
        _ => binding.node = part,
    }
    Ok(binding)
}
