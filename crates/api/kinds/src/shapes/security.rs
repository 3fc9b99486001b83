//! Security contexts of pods and containers.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

const ID_MAX: i64 = i32::MAX as i64;

/// `securityContext` of a pod.
pub fn validate_pod(context: &Value, spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for id in ["fsGroup", "runAsUser", "runAsGroup"] {
        validate_id(context.get(id), &path.child(id), errors);
    }
    let groups_path = path.child("supplementalGroups");
    for (index, group) in context.list_at(&["supplementalGroups"]).iter().enumerate() {
        validate_id(group, &groups_path.index(index), errors);
    }
    if spec.bool_at(&["shareProcessNamespace"]) && spec.bool_at(&["hostPID"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    validate_sysctls(context, spec, &path.child("sysctls"), errors);
    let change = context.get("fsGroupChangePolicy");
    if !change.is_null() && !["Always", "OnRootMismatch"].contains(&change.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("fsGroupChangePolicy"), change, &["Always", "OnRootMismatch"]);
    }
    validate_profiles(context, path, errors);
    let groups = context.get("supplementalGroupsPolicy");
    if !groups.is_null() && !["Merge", "Strict"].contains(&groups.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("supplementalGroupsPolicy"), groups, &["Merge", "Strict"]);
    }
}

/// `securityContext` of a container.
pub fn validate_container(context: &Value, host_users: bool, path: &Path<'_>, errors: &mut ErrorList) {
    if context.is_null() {
        return;
    }
    for id in ["runAsUser", "runAsGroup"] {
        validate_id(context.get(id), &path.child(id), errors);
    }
    match context.str_at(&["procMount"]) {
        "" | "Default" => {}
        "Unmasked" if host_users => {
            errors.invalid(&path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
        }
        "Unmasked" => {}
        other => errors.not_supported(&path.child("procMount"), other, &["Default", "Unmasked"]),
    }
    validate_profiles(context, path, errors);
    if context.get("allowPrivilegeEscalation").as_bool() == Some(false) {
        if context.bool_at(&["privileged"]) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, detail);
        }
        let added = context.list_at(&["capabilities", "add"]);
        if added.iter().any(|capability| capability.as_str() == Some("CAP_SYS_ADMIN")) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, detail);
        }
    }
}

fn validate_id(id: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(id) = id.as_int().filter(|id| !(0..=ID_MAX).contains(id)) {
        errors.invalid(path, id, names::range_error(0, ID_MAX));
    }
}

fn validate_profiles(context: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for name in ["seccompProfile", "appArmorProfile"] {
        let (profile, path) = (context.get(name), path.child(name));
        if profile.is_null() {
            continue;
        }
        let local = profile.get("localhostProfile");
        match profile.str_at(&["type"]) {
            "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
            "Localhost" if local.is_null() => {
                let detail = "must be set when seccomp type is Localhost";
                errors.required(&path.child("localhostProfile"), detail);
            }
            "Localhost" => super::volume::validate_descending(
                local.as_str().unwrap_or_default(),
                &path.child("localhostProfile"),
                errors,
            ),
            "RuntimeDefault" | "Unconfined" if !local.is_null() => {
                let detail = "can only be set when seccomp type is Localhost";
                errors.invalid(&path.child("localhostProfile"), local, detail);
            }
            "RuntimeDefault" | "Unconfined" => {}
            other => {
                errors.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
            }
        }
    }
}

fn validate_sysctls(context: &Value, spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, sysctl) in context.list_at(&["sysctls"]).iter().enumerate() {
        let path = path.index(index);
        let name = sysctl.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !is_sysctl(name) {
            let form = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            let detail = format!("must have at most 253 characters and match regex {form}");
            errors.invalid(&path.child("name"), name, detail);
        } else if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        let (has_host_net, has_host_ipc) = (spec.bool_at(&["hostNetwork"]), spec.bool_at(&["hostIPC"]));
        let is_net = name.starts_with("net.") || name.starts_with("net/");
        let is_ipc = name.starts_with("kernel.shm") || name.starts_with("kernel.msg") || name.starts_with("fs.mqueue.");
        if is_net && has_host_net {
            errors.invalid(&path.child("name"), name, "may not be specified when 'hostNetwork' is true");
        } else if is_ipc && has_host_ipc {
            errors.invalid(&path.child("name"), name, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let is_part = |part: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !part.is_empty()
            && part.bytes().all(|byte| good(byte) || b"-_".contains(&byte))
            && part.bytes().next().is_some_and(good)
            && part.bytes().last().is_some_and(good)
    };
    name.len() <= 253 && name.split(['.', '/']).all(is_part)
}
