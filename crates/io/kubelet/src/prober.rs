//! Makes one probe of a container and says how it went.

use std::time::Duration;

use bytes::Bytes;
use coracle_podlife::{ProbeAnswer, ProbeKind, Severity, find_container};
use coracle_proto::cri;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::net::TcpStream;

use crate::act::Work;
use crate::http_call::{Call, plain, resolve_port};

const OUTPUT_BYTES_MAX: usize = 10 << 10;
const AGENT: &str = "kube-probe/1.36";

enum Finding {
    Success,
    Failure(String),
    /// It could not be made.
    Error(String),
}

pub(crate) async fn probe(work: &Work, id: &str, name: &str, kind: ProbeKind) -> ProbeAnswer {
    let Some((_, container)) = find_container(&work.pod, name) else { return ProbeAnswer::Unknown };
    let spec = match kind {
        ProbeKind::Startup => container.startup_probe.clone(),
        ProbeKind::Liveness => container.liveness_probe.clone(),
        ProbeKind::Readiness => container.readiness_probe.clone(),
    };
    let Some(spec) = spec else { return ProbeAnswer::Unknown };
    match make(work, id, &container, &spec).await {
        Finding::Success => ProbeAnswer::Success,
        Finding::Failure(output) => {
            let message = format!("{} probe failed: {output}", kind.word());
            work.recorder.note(Severity::Warning, "Unhealthy", &message, Some(name));
            ProbeAnswer::Failure
        }
        Finding::Error(error) => {
            let message = format!("{} probe errored and resulted in unknown state: {error}", kind.word());
            work.recorder.note(Severity::Warning, "Unhealthy", &message, Some(name));
            ProbeAnswer::Unknown
        }
    }
}

async fn make(work: &Work, id: &str, container: &Container, spec: &Probe) -> Finding {
    let seconds = spec.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(1);
    let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    let pod_ip = work.pod_ips.first().map(String::as_str).unwrap_or_default();
    if let Some(action) = &spec.exec {
        return exec(work, id, action.command.clone().unwrap_or_default(), seconds).await;
    }
    if let Some(action) = &spec.http_get {
        return match Call::of(action, container, pod_ip, AGENT) {
            Ok(call) => http_get(call, limit).await,
            Err(error) => Finding::Error(error),
        };
    }
    if let Some(action) = &spec.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
        return match resolve_port(&action.port, container) {
            Ok(port) => tcp(host, port, limit).await,
            Err(error) => Finding::Error(error),
        };
    }
    if let Some(action) = &spec.grpc {
        let Ok(port) = u16::try_from(action.port) else { return Finding::Error("invalid port".to_owned()) };
        return grpc(pod_ip, port, action.service.as_deref().unwrap_or_default(), limit).await;
    }
    Finding::Error(format!("missing probe handler for {}", container.name))
}

async fn exec(work: &Work, id: &str, cmd: Vec<String>, seconds: i32) -> Finding {
    let shown = cmd.join(" ");
    let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: i64::from(seconds) };
    match work.node.runtime.exec_sync(request).await {
        Ok(answer) if answer.exit_code == 0 => Finding::Success,
        Ok(answer) => {
            let mut output = answer.stdout.to_vec();
            output.extend_from_slice(&answer.stderr);
            output.truncate(OUTPUT_BYTES_MAX);
            Finding::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
            Finding::Failure(format!("command timed out: \"{shown}\" timed out after {seconds}s"))
        }
        Err(status) => Finding::Error(status.message().to_owned()),
    }
}

async fn http_get(call: Call, limit: Duration) -> Finding {
    match call.send(limit).await {
        Ok(answer) if (200..400).contains(&answer.status) => Finding::Success,
        Ok(answer) => {
            tracing::trace!(body = answer.body, "an http probe fails");
            Finding::Failure(format!("HTTP probe failed with statuscode: {}", answer.status))
        }
        Err(error) => Finding::Failure(error),
    }
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Finding {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Finding::Success,
        Ok(Err(error)) => Finding::Failure(format!("dial tcp {shown}: connect: {}", plain(&error))),
        Err(_) => Finding::Failure(format!("dial tcp {shown}: i/o timeout")),
    }
}

async fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Finding {
    match tokio::time::timeout(limit, grpc_health(host, port, service)).await {
        Ok(finding) => finding,
        Err(_) => Finding::Failure(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {limit:?}: context deadline exceeded"
        )),
    }
}

/// `grpc.health.v1.Health/Check`, written by hand: one field each way.
async fn grpc_health(host: &str, port: u16, service: &str) -> Finding {
    let failed = |error: String| Finding::Failure(format!("error: {error}"));
    let stream = match TcpStream::connect((host, port)).await {
        Ok(stream) => stream,
        Err(error) => return failed(format!("dial tcp {host}:{port}: connect: {}", plain(&error))),
    };
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = match handshake {
        Ok(pair) => pair,
        Err(error) => return failed(error.to_string()),
    };
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, AGENT)
        .body(Full::new(health_request(service)));
    let Ok(request) = request else { return failed("invalid request".to_owned()) };
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let early = answer.headers().get("grpc-status").cloned();
        let collected = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        let late = collected.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        let code = early.or(late).and_then(|value| value.to_str().ok()?.parse::<u32>().ok()).unwrap_or(2);
        Ok::<_, String>((code, collected.to_bytes()))
    };
    let answer = tokio::select! {
        answer = exchange => answer,
        _ = connection => Err("connection closed".to_owned()),
    };
    match answer {
        Ok((0, body)) if body.get(5..7) == Some(&[8, 1]) => Finding::Success,
        Ok((0, _)) => Finding::Failure("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Ok((12, _)) => {
            failed("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
        }
        Ok((code, _)) => failed(format!("health rpc probe failed with code {code}")),
        Err(error) => failed(error),
    }
}

/// A gRPC frame around `HealthCheckRequest { service = 1 }`.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}
