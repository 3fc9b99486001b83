//! Containers of a pod.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::network::validate_protocol;
use super::{environment, probe, quantities, security, volume};

/// What containers need to know of their pod.
pub struct Surroundings<'p> {
    /// The volumes that may be mounted.
    pub volumes: &'p [&'p Value],
    pub grace_seconds: Option<i64>,
    pub uses_host_users: bool,
}

/// `containers`.
pub fn validate_main(containers: &[Value], pod: &Surroundings<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        validate_any(container, pod, &path, errors);
        let name = container.str_at(&["name"]);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        validate_watched(container, pod, &path, errors);
    }
    validate_host_ports(containers, path, errors);
}

/// `initContainers`; one that restarts always is a sidecar and may be probed.
pub fn validate_init(spec: &Value, pod: &Surroundings<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = spec.list_at(&["containers"]).iter().map(|other| other.str_at(&["name"])).collect();
    for (index, container) in spec.list_at(&["initContainers"]).iter().enumerate() {
        let path = path.index(index);
        validate_any(container, pod, &path, errors);
        let name = container.str_at(&["name"]);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else if !name.is_empty() {
            seen.push(name);
        }
        match container.str_at(&["restartPolicy"]) {
            "Always" => validate_watched(container, pod, &path, errors),
            _ => {
                for member in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                    if !container.get(member).is_null() {
                        let detail = "may not be set for init containers without restartPolicy=Always";
                        errors.forbidden(&path.child(member), detail);
                    }
                }
            }
        }
    }
}

/// `ephemeralContainers`: no ports, probes or resources of their own.
pub fn validate_ephemeral(spec: &Value, pod: &Surroundings<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let others = ["containers", "initContainers"].into_iter().flat_map(|member| spec.list_at(&[member]));
    let mut seen: Vec<&str> = others.map(|other| other.str_at(&["name"])).collect();
    for (index, container) in spec.list_at(&["ephemeralContainers"]).iter().enumerate() {
        let path = path.index(index);
        validate_any(container, pod, &path, errors);
        let name = container.str_at(&["name"]);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        let forbidden =
            ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy"];
        for member in forbidden.into_iter().filter(|member| !container.get(member).is_empty()) {
            errors.forbidden(&path.child(member), "cannot be set for an Ephemeral Container");
        }
    }
}

fn validate_watched(container: &Value, pod: &Surroundings<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let lifecycle = container.get("lifecycle");
    probe::validate_lifecycle(lifecycle, pod.grace_seconds, &path.child("lifecycle"), errors);
    probe::validate_probes(container, path, errors);
}

fn validate_any(container: &Value, pod: &Surroundings<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    match container.str_at(&["name"]) {
        "" => errors.required(&path.child("name"), ""),
        name => errors.invalid_each(&path.child("name"), name, names::dns1123_label(name)),
    }
    if container.str_at(&["image"]).is_empty() {
        errors.required(&path.child("image"), "");
    }
    let messages = &["File", "FallbackToLogsOnError"];
    validate_choice(
        container.get("terminationMessagePolicy"),
        messages,
        &path.child("terminationMessagePolicy"),
        errors,
    );
    validate_ports(container.list_at(&["ports"]), &path.child("ports"), errors);
    environment::validate(container.list_at(&["env"]), &path.child("env"), errors);
    environment::validate_from(container.list_at(&["envFrom"]), &path.child("envFrom"), errors);
    validate_mounts(container, pod.volumes, &path.child("volumeMounts"), errors);
    validate_devices(container, pod.volumes, &path.child("volumeDevices"), errors);
    let policies = &["Always", "IfNotPresent", "Never"];
    validate_choice(container.get("imagePullPolicy"), policies, &path.child("imagePullPolicy"), errors);
    quantities::validate_requirements(container.get("resources"), &path.child("resources"), errors);
    let context = container.get("securityContext");
    security::validate_container(context, pod.uses_host_users, &path.child("securityContext"), errors);
}

/// A required word out of a few.
pub fn validate_choice(value: &Value, choices: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    match value.as_str().unwrap_or_default() {
        "" => errors.required(path, ""),
        word if choices.contains(&word) => {}
        word => errors.not_supported(path, word, choices),
    }
}

fn validate_ports(ports: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.str_at(&["name"]);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && seen.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_each(&path.child("name"), name, messages);
            seen.push(name);
        }
        match port.int_at(&["containerPort"]).unwrap_or_default() {
            0 => errors.required(&path.child("containerPort"), ""),
            number => errors.invalid_each(&path.child("containerPort"), number, names::port_number(number)),
        }
        let host = port.int_at(&["hostPort"]).unwrap_or_default();
        if host != 0 {
            errors.invalid_each(&path.child("hostPort"), host, names::port_number(host));
        }
        validate_protocol(port.get("protocol"), &path.child("protocol"), errors);
    }
}

/// No two containers may want the same port of the node.
fn validate_host_ports(containers: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        let path = path.child("ports");
        for (index, port) in container.list_at(&["ports"]).iter().enumerate() {
            let host = port.int_at(&["hostPort"]).unwrap_or_default();
            if host == 0 {
                continue;
            }
            let wanted = format!("{}/{}/{host}", port.str_at(&["protocol"]), port.str_at(&["hostIP"]));
            if seen.contains(&wanted) {
                errors.duplicate(&path.index(index).child("hostPort"), wanted.as_str());
            }
            seen.push(wanted);
        }
    }
}

fn validate_mounts(container: &Value, volumes: &[&Value], path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    let devices = container.list_at(&["volumeDevices"]);
    for (index, mount) in container.list_at(&["volumeMounts"]).iter().enumerate() {
        let item = path.index(index);
        let (name, place) = (mount.str_at(&["name"]), mount.str_at(&["mountPath"]));
        if name.is_empty() {
            errors.required(&item.child("name"), "");
        }
        if !volumes.iter().any(|volume| volume.str_at(&["name"]) == name) {
            errors.not_found(&item.child("name"), name);
        }
        if place.is_empty() {
            errors.required(&item.child("mountPath"), "");
        }
        if seen.contains(&place) {
            errors.invalid(&item.child("mountPath"), place, "must be unique");
        }
        seen.push(place);
        if devices.iter().any(|device| device.str_at(&["name"]) == name) {
            errors.invalid(&item.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.str_at(&["devicePath"]) == place) {
            errors.invalid(&item.child("mountPath"), place, "must not already exist as a path in volumeDevices");
        }
        validate_sub_path(mount, path, &item, errors);
        validate_propagation(mount, container, path, errors);
    }
}

fn validate_sub_path(mount: &Value, list: &Path<'_>, item: &Path<'_>, errors: &mut ErrorList) {
    let (plain, expression) = (mount.str_at(&["subPath"]), mount.str_at(&["subPathExpr"]));
    if !plain.is_empty() {
        volume::validate_descending(plain, &list.child("subPath"), errors);
    }
    if !expression.is_empty() {
        if !plain.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&item.child("subPathExpr"), expression, detail);
        }
        volume::validate_descending(expression, &list.child("subPathExpr"), errors);
    }
}

fn validate_propagation(mount: &Value, container: &Value, list: &Path<'_>, errors: &mut ErrorList) {
    let path = list.child("mountPropagation");
    match mount.str_at(&["mountPropagation"]) {
        "" | "None" | "HostToContainer" => {}
        "Bidirectional" if container.bool_at(&["securityContext", "privileged"]) => {}
        "Bidirectional" => {
            errors.forbidden(&path, "Bidirectional mount propagation is available only to privileged containers");
        }
        other => errors.not_supported(&path, other, &["Bidirectional", "HostToContainer", "None"]),
    }
}

fn validate_devices(container: &Value, volumes: &[&Value], path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, device) in container.list_at(&["volumeDevices"]).iter().enumerate() {
        let path = path.index(index);
        let (name, place) = (device.str_at(&["name"]), device.str_at(&["devicePath"]));
        let found = volumes.iter().find(|volume| volume.str_at(&["name"]) == name);
        match found {
            _ if name.is_empty() => errors.required(&path.child("name"), ""),
            None => errors.not_found(&path.child("name"), name),
            Some(volume) if volume.get("persistentVolumeClaim").is_null() && volume.get("ephemeral").is_null() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), name, detail);
            }
            Some(_) => {}
        }
        if place.is_empty() {
            errors.required(&path.child("devicePath"), "");
        } else if seen.contains(&place) {
            errors.invalid(&path.child("devicePath"), place, "must be unique");
        }
        seen.push(place);
    }
}
