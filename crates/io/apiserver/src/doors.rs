//! Paths that are about the server and no resource: health, version, discovery, documents, metrics, token issuer.

pub mod discovery;

use std::sync::Arc;

use coracle_meta::Status;
use http::Method;
use serde_json::json;

use crate::answer::{self, Response};
use crate::call::Call;
use crate::server::{ISSUER, Server};

/// The Kubernetes release whose API this is.
pub const VERSION: &str = "v1.36.2";

pub async fn route(server: &Arc<Server>, call: &Call) -> Result<Response, Status> {
    if !matches!(call.head.method, Method::GET | Method::HEAD) {
        return Err(answer::method_not_allowed());
    }
    let path = call.info.path.trim_end_matches('/');
    match path {
        "" => Ok(answer::json(200, &json!({"paths": PATHS}))),
        "/version" => Ok(version()),
        "/api" | "/apis" => discovery::groups(server, call),
        "/metrics" => Ok(answer::bytes(200, "text/plain; version=0.0.4; charset=utf-8", server.metrics.text())),
        "/openid/v1/jwks" => {
            let body = server.keys.key_set().to_string();
            Ok(answer::bytes(200, "application/jwk-set+json", body))
        }
        "/.well-known/openid-configuration" => Ok(issuer(server)),
        _ if path.starts_with("/openapi/") => docs(server, call),
        _ if path.starts_with("/api/") || path.starts_with("/apis/") => discovery::one(server, call),
        _ => match path.split('/').nth(1) {
            Some("healthz" | "livez" | "readyz") => health(server, call, path).await,
            Some("version") => Err(answer::not_found()),
            _ => Ok(answer::no_page()),
        },
    }
}

const PATHS: [&str; 12] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

fn version() -> Response {
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    answer::json(
        200,
        &json!({
            "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
            "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
            "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none", "compiler": "rustc", "platform": platform,
        }),
    )
}

fn issuer(server: &Server) -> Response {
    let (address, port) = server.advertise;
    answer::json(
        200,
        &json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{}/openid/v1/jwks", std::net::SocketAddr::new(address, port)),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": server.keys.algorithms(),
        }),
    )
}

fn docs(server: &Server, call: &Call) -> Result<Response, Status> {
    let whole = call.head.uri.path_and_query().map_or(call.info.path.as_str(), |path| path.as_str());
    let found = server.docs.as_ref().and_then(|docs| docs(whole, &call.head.headers));
    Ok(found.ok_or_else(answer::not_found)?.map(answer::full))
}

async fn health(server: &Server, call: &Call, path: &str) -> Result<Response, Status> {
    let name = path.split('/').nth(1).unwrap_or_default();
    let store = server.cache.store.revision().await.is_ok();
    let mut checks = vec![("ping", true), ("log", true), ("etcd", store)];
    if name != "livez" {
        checks.push(("informer-sync", server.is_ready()));
        checks.push(("poststarthook/rbac/bootstrap-roles", server.is_ready()));
        checks.push(("poststarthook/scheduling/bootstrap-system-priority-classes", server.is_ready()));
    }
    if name == "readyz" {
        checks.push(("shutdown", true));
    }
    let below = path.strip_prefix(&format!("/{name}")).unwrap_or_default().trim_start_matches('/');
    if !below.is_empty() {
        let Some((_, is_well)) = checks.iter().find(|(check, _)| *check == below) else { return Ok(answer::no_page()) };
        let body = if *is_well { "ok" } else { "internal server error: check failed: reason withheld\n" };
        return Ok(answer::text(if *is_well { 200 } else { 500 }, body));
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    checks.retain(|(check, _)| !excluded.contains(check));
    let is_well = checks.iter().all(|(_, is_well)| *is_well);
    let lines = checks.iter().map(|(check, is_well)| match is_well {
        true => format!("[+]{check} ok\n"),
        false => format!("[-]{check} failed: reason withheld\n"),
    });
    let lines: String = lines.collect();
    Ok(match (is_well, call.query.flag("verbose")) {
        (true, false) => answer::text(200, "ok"),
        (true, true) => answer::text(200, format!("{lines}{name} check passed\n")),
        (false, _) => answer::text(500, format!("{lines}{name} check failed\n")),
    })
}
