//! Whether an image must be pulled, with which credentials, and what to tell about it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_podlife::{Failure, FailureKind, Severity};
use coracle_proto::cri;
use coracle_reconcile::ViewExt;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use crate::events::Recorder;
use crate::node_context::NodeContext;

/// An image that a container needs.
struct Want<'a> {
    name: &'a str,
    policy: &'a str,
    container: &'a str,
}

/// The image of a container as the runtime knows it, pulled if the policy asks for it.
pub(crate) async fn ensure_image(
    node: &NodeContext,
    pod: &Pod,
    container: &Container,
    recorder: &Recorder,
) -> Result<cri::Image, Failure> {
    let want = Want {
        name: container.image.as_deref().unwrap_or_default(),
        policy: container.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        container: &container.name,
    };
    ensure(node, pod, &want, recorder).await
}

/// The ids of the images that a container mounts, by the name of their volume.
pub(crate) async fn ensure_volumes(
    node: &NodeContext,
    pod: &Pod,
    container: &Container,
    recorder: &Recorder,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let mounts = || container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
        let Some(source) = volume.image.as_ref().filter(|_| mounts()) else { continue };
        let want = Want {
            name: source.reference.as_deref().unwrap_or_default(),
            policy: source.pull_policy.as_deref().unwrap_or("IfNotPresent"),
            container: &container.name,
        };
        found.insert(volume.name.clone(), ensure(node, pod, &want, recorder).await?.id);
    }
    Ok(found)
}

async fn ensure(node: &NodeContext, pod: &Pod, want: &Want<'_>, recorder: &Recorder) -> Result<cri::Image, Failure> {
    let (name, told) = (want.name, Some(want.container));
    let spec = image_spec(name);
    let present = node.runtime.image_status(spec.clone()).await.map_err(|status| {
        let (reason, message) = match status.code() {
            tonic::Code::InvalidArgument => {
                ("InvalidImageName", format!("Failed to apply default image tag \"{name}\": {}", status.message()))
            }
            _ => ("ImageInspectError", format!("Failed to inspect image \"{name}\": {}", status.message())),
        };
        recorder.note(Severity::Warning, "InspectFailed", &message, told);
        failure(reason, message)
    })?;
    match (present, want.policy) {
        (Some(image), "IfNotPresent" | "Never") => {
            let message =
                format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
            recorder.note(Severity::Normal, "Pulled", &message, told);
            Ok(image)
        }
        (None, "Never") => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            recorder.note(Severity::Warning, "ErrImageNeverPull", &message, told);
            Err(failure("ErrImageNeverPull", message))
        }
        _ => pull(node, pod, want, recorder).await,
    }
}

async fn pull(node: &NodeContext, pod: &Pod, want: &Want<'_>, recorder: &Recorder) -> Result<cri::Image, Failure> {
    let (name, told) = (want.name, Some(want.container));
    let spec = image_spec(name);
    recorder.note(Severity::Normal, "Pulling", &format!("Pulling image \"{name}\""), told);
    let begun = Instant::now();
    let mut last = None;
    for auth in credentials(node, pod, name) {
        let request = cri::PullImageRequest { image: Some(spec.clone()), auth, sandbox_config: None };
        match node.runtime.pull_image(request).await {
            Ok(reference) => {
                let pulled = cri::ImageSpec { image: reference.clone(), ..spec.clone() };
                let image = node.runtime.image_status(pulled).await.ok().flatten();
                let image = image.unwrap_or(cri::Image { id: reference, ..Default::default() });
                let took = shown(begun.elapsed());
                let message = format!(
                    "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    image.size
                );
                recorder.note(Severity::Normal, "Pulled", &message, told);
                return Ok(image);
            }
            Err(status) => last = Some(status.message().to_owned()),
        }
    }
    let cause = last.unwrap_or_default();
    let message = format!("Failed to pull image \"{name}\": {cause}");
    recorder.note(Severity::Warning, "Failed", &message, told);
    Err(failure("ErrImagePull", cause))
}

fn failure(reason: &str, message: String) -> Failure {
    Failure { kind: FailureKind::Pull, reason: reason.to_owned(), message }
}

/// With the tag that is meant where none is written.
pub(crate) fn image_spec(name: &str) -> cri::ImageSpec {
    let last = name.rsplit('/').next().unwrap_or(name);
    let image = if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") };
    cri::ImageSpec { image, user_specified_image: name.to_owned(), ..Default::default() }
}

/// The credentials to try in turn: those of the pod's secrets that fit the registry, or none.
fn credentials(node: &NodeContext, pod: &Pod, image: &str) -> Vec<Option<cri::AuthConfig>> {
    let registry = registry_of(image);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let secrets = names.filter_map(|reference| node.view.get_as::<Secret>(namespace, &reference.name));
    let mut found: Vec<Option<cri::AuthConfig>> =
        secrets.flat_map(|secret| of_secret(&secret, &registry)).map(Some).collect();
    if found.is_empty() {
        found.push(None);
    }
    found
}

fn of_secret(secret: &Secret, registry: &str) -> Vec<cri::AuthConfig> {
    let data = secret.data.clone().unwrap_or_default();
    let parse = |key: &str| data.get(key).and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes.0).ok());
    let auths = parse(".dockerconfigjson").map(|config| config["auths"].clone()).or_else(|| parse(".dockercfg"));
    let Some(serde_json::Value::Object(auths)) = auths else { return Vec::new() };
    let fits = auths.into_iter().filter(|(host, _)| host_of(host) == registry);
    fits.map(|(host, auth)| {
        let text = |key: &str| auth[key].as_str().unwrap_or_default().to_owned();
        let (username, password) = match (text("username"), text("auth")) {
            (username, encoded) if username.is_empty() && !encoded.is_empty() => decode_pair(&encoded),
            (username, _) => (username, text("password")),
        };
        cri::AuthConfig {
            username,
            password,
            auth: text("auth"),
            server_address: host,
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
        }
    })
    .collect()
}

fn decode_pair(encoded: &str) -> (String, String) {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (username, password) = text.split_once(':').unwrap_or((&text, ""));
    (username.to_owned(), password.to_owned())
}

fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains('.') || first.contains(':') || first == "localhost" => first.to_owned(),
        _ => "docker.io".to_owned(),
    }
}

fn host_of(server: &str) -> String {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = server.split('/').next().unwrap_or(server);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io".to_owned() } else { host.to_owned() }
}

fn shown(elapsed: Duration) -> String {
    match elapsed.as_millis() {
        millis if millis < 1000 => format!("{millis}ms"),
        millis => format!("{}.{:03}s", millis / 1000, millis % 1000),
    }
}
