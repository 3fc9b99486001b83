//! `projected`: several sources in one directory, service account tokens among them.

use coracle_client::ObjectPath;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection};
use serde_json::json;

use super::atomic::{File, Payload};
use super::payload::{Selection, clean, config_map_named, downward_api, secret_named};
use crate::act::Work;
use crate::node_context::{name_of, namespace_of, uid_of};

const EXPIRATION_SECONDS_DEFAULT: i64 = 3600;
/// A token is renewed when this part of its life is over, in percent.
const RENEW_PERCENT: i64 = 80;
/// And no later than this after it was made.
const RENEW_SECONDS_MAX: i64 = 24 * 3600;

pub(super) async fn collect(
    work: &Work,
    source: &ProjectedVolumeSource,
) -> Result<(Payload, Option<Timestamp>), String> {
    let (mut payload, mut refresh_at) = (Payload::new(), None::<Timestamp>);
    for source_of in source.sources.iter().flatten() {
        let selection = |items, optional| Selection { items, default_mode: source.default_mode, optional };
        if let Some(part) = &source_of.config_map {
            let selection = selection(part.items.as_deref(), part.optional == Some(true));
            payload.extend(config_map_named(&work.node, &work.pod, &part.name, &selection)?);
        }
        if let Some(part) = &source_of.secret {
            let selection = selection(part.items.as_deref(), part.optional == Some(true));
            payload.extend(secret_named(&work.node, &work.pod, &part.name, &selection)?);
        }
        if let Some(part) = &source_of.downward_api {
            payload.extend(downward_api(work, part.items.as_deref().unwrap_or_default(), source.default_mode)?);
        }
        if let Some(part) = &source_of.service_account_token {
            let (token, renew_at) = token(work, part).await?;
            payload.insert(clean(&part.path), token_file(work, token, source.default_mode));
            refresh_at = Some(refresh_at.map_or(renew_at, |before| before.min(renew_at)));
        }
        if source_of.cluster_trust_bundle.is_some() {
            return Err("clusterTrustBundle sources are not supported".to_owned());
        }
        if source_of.pod_certificate.is_some() {
            return Err("podCertificate sources are not supported".to_owned());
        }
    }
    Ok((payload, refresh_at))
}

/// A token of the pod's service account, bound to the pod, and when to ask for the next.
async fn token(work: &Work, part: &ServiceAccountTokenProjection) -> Result<(Vec<u8>, Timestamp), String> {
    let pod = &work.pod;
    let account =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".into());
    let path = ObjectPath::of::<ServiceAccount>(namespace_of(pod), &account).subresource("token");
    let audiences: Vec<&str> = part.audience.as_deref().filter(|audience| !audience.is_empty()).into_iter().collect();
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": part.expiration_seconds.unwrap_or(EXPIRATION_SECONDS_DEFAULT),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "uid": uid_of(pod)},
        },
    });
    let answer = work.node.client.create_sub(&path, &request).await;
    let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
    let token = answer["status"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err("failed to fetch token: the answer holds none".to_owned());
    }
    let now = work.node.clock.now();
    let expiry = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let life = expiry.map_or(EXPIRATION_SECONDS_DEFAULT, |expiry| expiry.duration_since(now).as_secs());
    let renew = (life * RENEW_PERCENT / 100).clamp(1, RENEW_SECONDS_MAX);
    Ok((token.as_bytes().to_vec(), now + SignedDuration::from_secs(renew)))
}

/// Tokens are readable by their pod alone: by the group of its volumes, or by the one user that all containers run as.
fn token_file(work: &Work, content: Vec<u8>, default_mode: Option<i32>) -> File {
    let mode = default_mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
    if super::ownership::fs_group(&work.pod).is_some() {
        return File { content, mode: 0o600, owner: None };
    }
    match only_user(&work.pod) {
        Some(owner) => File { content, mode: 0o600, owner: Some(owner) },
        None => File { content, mode, owner: None },
    }
}

fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref()?.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = coracle_podlife::each_container(pod)
        .into_iter()
        .map(|(_, container)| container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    if users.all(|user| user == Some(first)) { u32::try_from(first).ok() } else { None }
}
