//! StatefulSets: pods with names and storage that stay.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::update_strategy::{validate_amount, validate_at_most_whole};
use crate::column::{AGE, Column, NAME, joined, text};
use crate::object_meta::not_negative;
use crate::rules::{Lifecycle, Rules, same};
use crate::shapes::{fill, pod_defaults, template, tree, volume_defaults};

const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", |object, _| {
        let ready = object.int_at(&["status", "readyReplicas"]).unwrap_or_default();
        format!("{ready}/{}", object.int_at(&["spec", "replicas"]).unwrap_or_default()).into()
    }),
    AGE,
    text("Containers", |object, _| joined(object.list_at(&["spec", "template", "spec", "containers"]), "name").into())
        .wide(),
    text("Images", |object, _| joined(object.list_at(&["spec", "template", "spec", "containers"]), "image").into())
        .wide(),
];

pub const RULES: Rules = Rules {
    default,
    drop_gated: template::drop_gated,
    name: names::dns1123_label,
    validate,
    validate_update,
    columns: COLUMNS,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(object: &mut Value, _: &str) {
    let spec = object.ensure(&["spec"]);
    fill(spec, &["podManagementPolicy"], "OrderedReady");
    if spec.str_at(&["updateStrategy", "type"]).is_empty() {
        spec.set(&["updateStrategy", "type"], "RollingUpdate");
        spec.set_default(&["updateStrategy", "rollingUpdate"], Value::map());
    }
    let is_rolling = spec.str_at(&["updateStrategy", "type"]) == "RollingUpdate";
    if is_rolling && !spec.at(&["updateStrategy", "rollingUpdate"]).is_null() {
        spec.set_default(&["updateStrategy", "rollingUpdate", "partition"], 0);
    }
    fill(spec, &["persistentVolumeClaimRetentionPolicy", "whenDeleted"], "Retain");
    fill(spec, &["persistentVolumeClaimRetentionPolicy", "whenScaled"], "Retain");
    spec.set_default(&["replicas"], 1);
    spec.set_default(&["revisionHistoryLimit"], 10);
    for claim in spec.list_at_mut(&["volumeClaimTemplates"]) {
        fill(claim, &["kind"], "PersistentVolumeClaim");
        fill(claim, &["apiVersion"], "v1");
        fill(claim, &["status", "phase"], "Pending");
        volume_defaults::claim_spec(claim.ensure(&["spec"]));
    }
    pod_defaults::template(spec.ensure(&["template"]));
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    match spec.str_at(&["podManagementPolicy"]) {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    validate_strategy(spec.get("updateStrategy"), &path.child("updateStrategy"), errors);
    for member in ["replicas", "minReadySeconds"] {
        not_negative(spec.get(member), &path.child(member), errors);
    }
    not_negative(spec.at(&["ordinals", "start"]), &path.child("ordinals.start"), errors);
    let service = spec.str_at(&["serviceName"]);
    if !service.is_empty() {
        errors.invalid_each(&path.child("serviceName"), service, names::dns1123_label(service));
    }
    template::validate_workload(&with_claims(spec), "statefulset", &path, errors);
    let policy = spec.at(&["template", "spec", "restartPolicy"]);
    if policy.as_str() != Some("Always") {
        errors.not_supported(&path.child("template.spec.restartPolicy"), policy, &["Always"]);
    }
    if !spec.at(&["template", "spec", "activeDeadlineSeconds"]).is_null() {
        let detail = "activeDeadlineSeconds in StatefulSet is not Supported";
        errors.forbidden(&path.child("template.spec.activeDeadlineSeconds"), detail);
    }
}

/// The spec with a volume for each claim template, as the controller will mount them.
fn with_claims(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims: Vec<String> = spec
        .list_at(&["volumeClaimTemplates"])
        .iter()
        .map(|claim| claim.str_at(&["metadata", "name"]).to_owned())
        .collect();
    for member in ["hostname", "subdomain"] {
        spec.remove(&["template", "spec", member]);
    }
    if claims.is_empty() {
        return spec;
    }
    let volumes = spec.ensure(&["template", "spec", "volumes"]);
    let mut all: Vec<Value> = claims
        .iter()
        .map(|name| {
            let mut volume = tree(r#"{"persistentVolumeClaim":{"claimName":"claim"}}"#);
            volume.set(&["name"], name.as_str());
            volume
        })
        .collect();
    let given = volumes.as_list().unwrap_or_default();
    all.extend(given.iter().filter(|volume| !claims.iter().any(|name| name == volume.str_at(&["name"]))).cloned());
    *volumes = Value::List(all);
    spec
}

fn validate_strategy(strategy: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    let rolling_path = path.child("rollingUpdate");
    match strategy.str_at(&["type"]) {
        "" => errors.required(path, ""),
        "OnDelete" if !rolling.is_null() => {
            errors.invalid(&rolling_path, rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            not_negative(rolling.get("partition"), &rolling_path.child("partition"), errors);
            let unavailable = rolling.get("maxUnavailable");
            let unavailable_path = rolling_path.child("maxUnavailable");
            validate_amount(unavailable, &unavailable_path, errors);
            validate_at_most_whole(unavailable, &unavailable_path, errors);
            if unavailable.as_int() == Some(0) {
                errors.invalid(&unavailable_path, unavailable, "cannot be 0");
            }
        }
        _ => errors.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let frozen = |object: &Value| {
        let mut spec = object.get("spec").clone();
        for member in CHANGEABLE {
            spec.remove(&[member]);
        }
        spec
    };
    if !same(&frozen(new), &frozen(old)) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        errors.forbidden(&Path::new("spec"), detail);
    }
}
