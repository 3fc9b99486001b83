//! Every pod runs as a service account, and gets its token, the cluster's root certificates and its namespace as one
//! projected volume. Source: Kubernetes `plugin/pkg/admission/serviceaccount`.

use coracle_meta::{Resource, Value};

use crate::plugin::{Answer, Ask, Context, Plugin, Request, Verdict, forbidden};
use crate::pods;

pub struct ServiceAccount;

const ACCOUNTS: Resource = Resource::new("", "serviceaccounts");
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// One hour and seven seconds: a life that the API server may lengthen for old clients is told by the odd seconds.
const TOKEN_SECONDS: i64 = 3607;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value, context: &Context<'_>) -> Verdict {
        if !request.is_core("pods") || !request.creates() {
            return Verdict::Admit;
        }
        if pods::is_mirror(pod) {
            return mirror(request, pod);
        }
        if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
            pod.set(&["spec", "serviceAccountName"], "default");
        }
        let name = pod.str_at(&["spec", "serviceAccountName"]).to_owned();
        // Old readers know the account by this name.
        pod.set(&["spec", "serviceAccount"], name.as_str());
        let found = match context.answers.first() {
            Some(Answer::Object(found)) => found.clone(),
            _ => context.facts.get(&ACCOUNTS, request.namespace, &name),
        };
        let Some(account) = found.and_then(|object| Value::from_json(&object.bytes).ok()) else {
            let namespace = request.namespace;
            return match context.answers {
                [] => Verdict::Ask(Ask::Read { resource: ACCOUNTS, namespace: namespace.to_owned(), name }),
                _ => forbidden(
                    request,
                    format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"),
                ),
            };
        };
        if mounts_token(&account, pod) {
            mount(pod, context.suffix);
        }
        if pod.list_at(&["spec", "imagePullSecrets"]).is_empty() && !account.list_at(&["imagePullSecrets"]).is_empty() {
            pod.set(&["spec", "imagePullSecrets"], account.get("imagePullSecrets").clone());
        }
        Verdict::Mutate
    }
}

fn mirror(request: &Request<'_>, pod: &Value) -> Verdict {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return forbidden(request, "a mirror pod may not reference service accounts");
    }
    let volumes = pod.list_at(&["spec", "volumes"]);
    if volumes.iter().any(|volume| !volume.get("secret").is_null()) {
        return forbidden(request, "a mirror pod may not reference secrets");
    }
    Verdict::Admit
}

fn mounts_token(account: &Value, pod: &Value) -> bool {
    let wishes = [pod.at(&["spec", "automountServiceAccountToken"]), account.get("automountServiceAccountToken")];
    wishes.into_iter().find_map(Value::as_bool).unwrap_or(true)
}

fn mount(pod: &mut Value, suffix: &str) {
    let known = pod.list_at(&["spec", "volumes"]).iter().map(|volume| volume.str_at(&["name"]));
    let known = known.filter(|name| name.starts_with(VOLUME)).map(str::to_owned).next();
    let is_new = known.is_none();
    let name = known.unwrap_or_else(|| format!("{VOLUME}{suffix}"));
    let mut needed = false;
    pods::each_container(pod, |container| {
        if container.list_at(&["volumeMounts"]).iter().any(|mount| mount.str_at(&["mountPath"]) == MOUNT) {
            return;
        }
        needed = true;
        let mut mount = Value::map();
        mount.set(&["name"], name.as_str());
        mount.set(&["readOnly"], true);
        mount.set(&["mountPath"], MOUNT);
        push(container.ensure(&["volumeMounts"]), mount);
    });
    if needed && is_new {
        push(pod.ensure(&["spec", "volumes"]), volume(&name));
    }
}

fn volume(name: &str) -> Value {
    let text = format!(
        r#"{{"projected":{{"defaultMode":420,"sources":[
            {{"serviceAccountToken":{{"expirationSeconds":{TOKEN_SECONDS},"path":"token"}}}},
            {{"configMap":{{"name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}},
            {{"downwardAPI":{{"items":[{{"path":"namespace","fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.namespace"}}}}]}}}}]}}}}"#
    );
    let mut volume = Value::map();
    volume.set(&["name"], name);
    let projected = Value::from_json(text.as_bytes()).expect("the template is JSON");
    volume.set(&["projected"], projected.get("projected").clone());
    volume
}

fn push(place: &mut Value, item: Value) {
    match place {
        Value::List(items) => items.push(item),
        place => *place = Value::List(vec![item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_gets_the_token_once() {
        let mut pod = Value::from_json(br#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#).unwrap();
        mount(&mut pod, "abcde");
        mount(&mut pod, "fghij");
        assert_eq!(pod.list_at(&["spec", "volumes"]).len(), 1);
        assert_eq!(pod.list_at(&["spec", "volumes"])[0].str_at(&["name"]), "kube-api-access-abcde");
        for container in pod.list_at(&["spec", "containers"]) {
            assert_eq!(container.list_at(&["volumeMounts"]).len(), 1);
        }
    }
}
