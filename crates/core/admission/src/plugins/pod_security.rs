//! Pod security levels that a namespace's labels enforce. Source: Kubernetes `pod-security-admission/policy`.

use coracle_meta::{Resource, Value};

use crate::plugin::{Context, Operation, Plugin, Request, Verdict, forbidden};
use crate::pods;

pub struct PodSecurity;

const NAMESPACES: Resource = Resource::new("", "namespaces");
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const VERSION: &str = "pod-security.kubernetes.io/enforce-version";
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const RESTRICTED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(&self, request: &Request<'_>, pod: &Value, context: &Context<'_>) -> Verdict {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let is_pod = request.resource.group.is_empty() && request.resource.plural == "pods";
        let is_spec = matches!(request.subresource, "" | "ephemeralcontainers");
        // What does not change the spec cannot break a level that was kept.
        let is_same = request.old.is_some_and(|old| old.get("spec") == pod.get("spec"));
        if !writes || !is_pod || !is_spec || is_same {
            return Verdict::Admit;
        }
        let Some(namespace) = context.facts.get(&NAMESPACES, "", request.namespace) else { return Verdict::Admit };
        let level = namespace.meta.label(ENFORCE).unwrap_or("privileged");
        let version = namespace.meta.label(VERSION).unwrap_or("latest");
        let wrong = match level {
            "baseline" => baseline(pod),
            "restricted" => baseline(pod).into_iter().chain(restricted(pod)).collect(),
            _ => Vec::new(),
        };
        if wrong.is_empty() {
            return Verdict::Admit;
        }
        forbidden(request, format!("violates PodSecurity \"{level}:{version}\": {}", wrong.join(", ")))
    }
}

fn all(pod: &Value) -> impl Iterator<Item = &Value> {
    pods::containers(pod).chain(pod.list_at(&["spec", "ephemeralContainers"]))
}

fn named<'a>(containers: impl Iterator<Item = &'a Value>) -> Option<String> {
    let names: Vec<String> = containers.map(|one| format!("\"{}\"", one.str_at(&["name"]))).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("container {one}")),
        many => Some(format!("containers {}", many.join(", "))),
    }
}

fn baseline(pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let spec = pod.get("spec");
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|key| spec.bool_at(&[key]))
        .map(|key| format!("{key}=true"))
        .collect();
    if !host.is_empty() {
        wrong.push(format!("host namespaces ({})", host.join(", ")));
    }
    let paths: Vec<String> = spec
        .list_at(&["volumes"])
        .iter()
        .filter(|volume| !volume.get("hostPath").is_null())
        .map(|volume| format!("\"{}\"", volume.str_at(&["name"])))
        .collect();
    if !paths.is_empty() {
        let plural = if paths.len() == 1 { "volume" } else { "volumes" };
        wrong.push(format!("hostPath volumes ({plural} {})", paths.join(", ")));
    }
    let ports = |one: &&Value| one.list_at(&["ports"]).iter().any(|port| port.int_at(&["hostPort"]).unwrap_or(0) != 0);
    if let Some(who) = named(all(pod).filter(ports)) {
        wrong.push(format!("hostPort ({who} uses hostPort)"));
    }
    if let Some(who) = named(all(pod).filter(|one| one.bool_at(&["securityContext", "privileged"]))) {
        wrong.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    let adds = |one: &&Value| {
        let added = one.list_at(&["securityContext", "capabilities", "add"]);
        added.iter().any(|cap| !BASELINE_CAPABILITIES.contains(&cap.as_str().unwrap_or_default()))
    };
    if let Some(who) = named(all(pod).filter(adds)) {
        wrong.push(format!(
            "non-default capabilities ({who} must not include these in securityContext.capabilities.add)"
        ));
    }
    let unconfined = |holder: &Value| holder.str_at(&["securityContext", "seccompProfile", "type"]) == "Unconfined";
    if unconfined(spec) || all(pod).any(unconfined) {
        wrong.push("seccompProfile (must not set securityContext.seccompProfile.type to \"Unconfined\")".into());
    }
    let unmasked = |one: &&Value| one.str_at(&["securityContext", "procMount"]) == "Unmasked";
    if let Some(who) = named(all(pod).filter(unmasked)) {
        wrong.push(format!("procMount ({who} must not set securityContext.procMount to \"Unmasked\")"));
    }
    wrong
}

fn restricted(pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let spec = pod.get("spec");
    let foreign =
        |volume: &&Value| volume.entries_at(&[]).any(|(key, _)| key != "name" && !RESTRICTED_VOLUMES.contains(&key));
    if spec.list_at(&["volumes"]).iter().any(|volume| foreign(&volume)) {
        wrong.push("restricted volume types".into());
    }
    let escalates = |one: &&Value| one.at(&["securityContext", "allowPrivilegeEscalation"]).as_bool() != Some(false);
    if let Some(who) = named(all(pod).filter(escalates)) {
        wrong.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let keeps = |one: &&Value| {
        let dropped = one.list_at(&["securityContext", "capabilities", "drop"]);
        !dropped.iter().any(|cap| cap.as_str() == Some("ALL"))
    };
    if let Some(who) = named(all(pod).filter(keeps)) {
        wrong.push(format!("unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"));
    }
    let pod_value = |key: &str| spec.at(&["securityContext", key]).clone();
    let roots = |one: &&Value| {
        let own = one.at(&["securityContext", "runAsNonRoot"]).as_bool();
        own.or(pod_value("runAsNonRoot").as_bool()) != Some(true)
    };
    if let Some(who) = named(all(pod).filter(roots)) {
        wrong.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    let open = |one: &&Value| {
        let own = one.str_at(&["securityContext", "seccompProfile", "type"]);
        let kind = if own.is_empty() { spec.str_at(&["securityContext", "seccompProfile", "type"]) } else { own };
        !["RuntimeDefault", "Localhost"].contains(&kind)
    };
    if let Some(who) = named(all(pod).filter(open)) {
        wrong.push(format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ));
    }
    wrong
}
