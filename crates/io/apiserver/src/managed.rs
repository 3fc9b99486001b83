//! Who set which field: the bookkeeping of every create, update and patch in `metadata.managedFields`, and server-side
//! apply, for the kinds of the table. Source: Kubernetes `apiserver/pkg/endpoints/handlers`, and the reset fields of
//! `pkg/registry`.

use coracle_kinds::Kind;
use coracle_merge::apply::{ApplyError, Conflict, Force, Set, Subject, Writer, path_text};
use coracle_meta::status::{Cause, Details};
use coracle_meta::{ErrorList, Path, Status, Value, time};
use coracle_schema::Schema;

use crate::call::{Call, Served};
use crate::server::Server;
use crate::store::Target;
use crate::verbs::patch::in_served_version;

const MANAGED: [&str; 2] = ["metadata", "managedFields"];
const MANAGER_BYTES_MAX: usize = 128;
const FIELD_VALIDATIONS: [&str; 4] = ["", "Ignore", "Strict", "Warn"];
pub const APPLY: &str = "application/apply-patch+yaml";

/// Whether the request is an apply, which brings its own record.
pub fn is_apply(call: &Call) -> bool {
    call.info.verb == "patch" && call.header("content-type").split(';').next().unwrap_or_default().trim() == APPLY
}

/// Refuses a manager's name that cannot be one. Source: `apimachinery/pkg/apis/meta/v1/validation`.
pub fn check_options(call: &Call) -> Result<(), Status> {
    let manager = call.query.get("fieldManager").unwrap_or_default();
    let mut errors = ErrorList::default();
    let path = Path::new("fieldManager");
    let is_patch = call.info.verb == "patch";
    if is_apply(call) && manager.is_empty() {
        errors.required(&path, "is required for apply patch");
    }
    if is_patch && !is_apply(call) && call.query.get("force").is_some() {
        errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
    }
    if manager.len() > MANAGER_BYTES_MAX {
        errors.too_long(&path, MANAGER_BYTES_MAX);
    }
    for (position, character) in manager.char_indices().filter(|(_, character)| character.is_control()) {
        let code = u32::from(character);
        errors.invalid(&path, manager, format!("invalid character U+{code:04X} (at position {position})"));
    }
    check_dry_run(&call.query.all("dryRun").collect::<Vec<_>>(), &mut errors);
    let validation = call.query.get("fieldValidation").unwrap_or_default();
    if !FIELD_VALIDATIONS.contains(&validation) {
        errors.not_supported(&Path::new("fieldValidation"), validation, &FIELD_VALIDATIONS);
    }
    let kind = match call.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        _ => "PatchOptions",
    };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", &errors)) }
}

/// Refuses a dry run of anything but everything.
pub fn check_dry_run(wanted: &[&str], errors: &mut ErrorList) {
    if !wanted.is_empty() && *wanted != ["All"] {
        let list = Value::List(wanted.iter().map(|value| Value::string(*value)).collect());
        errors.not_supported(&Path::new("dryRun"), list, &["All"]);
    }
}

/// Records a new object's fields; it is in the version of its URL.
pub fn created(server: &Server, call: &Call, target: &Target, object: &mut Value) {
    if !is_apply(call) {
        with(server, call, target.served, |subject, writer| subject.update(&Value::Null, object, writer));
    }
}

/// Records what `new` changes of `old`, both in storage form.
pub fn updated(server: &Server, call: &Call, target: &Target, old: &Value, new: &mut Value) {
    if is_apply(call) || matches!(target.subresource.as_str(), "eviction" | "token") {
        return;
    }
    if target.served.is_storage_form() {
        return with(server, call, target.served, |subject, writer| subject.update(old, new, writer));
    }
    let (shown_old, mut shown) = (in_served_version(target, old), in_served_version(target, new).into_owned());
    with(server, call, target.served, |subject, writer| subject.update(&shown_old, &mut shown, writer));
    match shown.remove(&MANAGED) {
        Some(entries) => new.set(&MANAGED, entries),
        None => drop(new.remove(&MANAGED)),
    }
}

/// Merges a configuration into what stands, both in the version of the URL; `live` is null where nothing stands.
pub fn apply(server: &Server, call: &Call, served: Served, live: &Value, config: &Value) -> Result<Value, Status> {
    let force = if call.query.flag("force") { Force::Yes } else { Force::No };
    with(server, call, served, |subject, writer| subject.apply(live, config, writer, force)).map_err(refused)
}

/// Whether two objects differ in nothing but the times of their records.
pub fn differ_in_times_alone(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| -> Vec<Value> {
        let mut entries = object.list_at(&MANAGED).to_vec();
        entries.iter_mut().for_each(|entry| drop(entry.remove(&["time"])));
        entries
    };
    if new.at(&MANAGED) == old.at(&MANAGED) || bare(new) != bare(old) {
        return false;
    }
    let mut new = new.clone();
    new.set(&MANAGED, old.at(&MANAGED).clone());
    new == *old
}

fn with<T>(server: &Server, call: &Call, served: Served, run: impl FnOnce(Subject<'_>, Writer<'_>) -> T) -> T {
    let kind = served.kind;
    let convert = |value: &Value, from: &str, to: &str| {
        let is_known = kind.versions.iter().any(|version| kind.api_version(version.name) == to);
        is_known.then(|| kind.convert(value.clone(), from, to))
    };
    let (api_version, reset) = (served.api_version(), reset(kind, &call.info.subresource));
    let subject = Subject {
        schema: Schema::builtin(),
        api_version: &api_version,
        kind: kind.kind,
        convert: &convert,
        reset: &reset,
    };
    // Kubernetes records no time for who scaled.
    let now = if call.info.subresource == "scale" { String::new() } else { time::seconds(server.clock.now()) };
    let manager = manager(call);
    run(subject, Writer { manager: &manager, subresource: &call.info.subresource, time: &now })
}

/// The name a client gives itself, or what its user agent begins with.
fn manager(call: &Call) -> String {
    if let Some(given) = call.query.get("fieldManager") {
        return given.to_owned();
    }
    let mut name = String::new();
    if call.header("user-agent").is_empty() {
        return component(&call.user.name);
    }
    let agent = call.header("user-agent").split('/').next().unwrap_or_default();
    for character in agent.chars().filter(|character| !character.is_control()) {
        if name.len() + character.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(character);
    }
    name
}

/// Callers within the process have no user agent: they are named as their binary would be.
fn component(user: &str) -> String {
    match user.split(':').collect::<Vec<_>>().as_slice() {
        ["system", "serviceaccount", "kube-system", _] => "kube-controller-manager".into(),
        ["system", "node", _] => "kubelet".into(),
        ["system", name] => (*name).to_owned(),
        _ => "unknown".into(),
    }
}

/// The fields that a write of this part of a kind cannot set.
fn reset(kind: &Kind, subresource: &str) -> Set {
    let named = (kind.group, kind.plural, subresource);
    match named {
        ("certificates.k8s.io", "certificatesigningrequests", "") => Set::of_fields(&[&["spec"], &["status"]]),
        ("certificates.k8s.io", "certificatesigningrequests", "status") => {
            Set::of_fields(&[&["spec"], &["status", "conditions"]])
        }
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            Set::of_fields(&[&["spec"], &["status", "certificate"]])
        }
        ("certificates.k8s.io", _, "") => Set::default(),
        ("", "pods", "status") => {
            Set::of_fields(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("apps", "deployments", "status") => Set::of_fields(&[&["spec"], &["metadata", "labels"]]),
        (
            "admissionregistration.k8s.io"
            | "internal.apiserver.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io"
            | "scheduling.k8s.io"
            | "storagemigration.k8s.io",
            _,
            "status",
        )
        | ("storage.k8s.io", "volumeattachments", "status")
        | ("networking.k8s.io", "servicecidrs", "status") => Set::of_fields(&[&["spec"], &["metadata"]]),
        (_, _, "status") => Set::of_fields(&[&["spec"]]),
        _ if kind.has_status() => Set::of_fields(&[&["status"]]),
        _ => Set::default(),
    }
}

fn refused(error: ApplyError) -> Status {
    let message = error.to_string();
    match error {
        ApplyError::Request(_) => Status::bad_request(message),
        ApplyError::Unfit(_) => Status::new(500, "", message),
        ApplyError::Conflicts(conflicts) => {
            let mut status = Status::new(409, "Conflict", message);
            let causes = conflicts.iter().map(cause).collect();
            status.details = Some(Box::new(Details { causes, ..Details::default() }));
            status
        }
    }
}

fn cause(conflict: &Conflict) -> Cause {
    Cause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {}", conflict.manager.text()),
        field: path_text(&conflict.path),
    }
}
