//! Runs a lifecycle hook of a container.

use std::time::Duration;

use coracle_proto::cri;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::net::TcpStream;

use crate::act::Work;
use crate::http_call::{Call, resolve_port};

const HTTP_LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(work: &Work, container: &Container, id: &str, hook: &LifecycleHandler) -> Result<(), String> {
    let pod_ip = work.pod_ips.first().map(String::as_str).unwrap_or_default();
    if let Some(action) = &hook.exec {
        let cmd = action.command.clone().unwrap_or_default();
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: cmd.clone(), timeout: 0 };
        let answer = work.node.runtime.exec_sync(request).await.map_err(|status| status.message().to_owned())?;
        return match answer.exit_code {
            0 => Ok(()),
            code => Err(format!("command '{}' exited with {code}", cmd.join(" "))),
        };
    }
    if let Some(action) = &hook.http_get {
        let answer = Call::of(action, container, pod_ip, "kube-lifecycle/1.36")?.send(HTTP_LIMIT).await?;
        return match answer.status {
            200..=399 => Ok(()),
            status => Err(format!("HTTP hook answered with status {status}")),
        };
    }
    if let Some(action) = &hook.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
        let port = resolve_port(&action.port, container)?;
        return TcpStream::connect((host, port)).await.map(drop).map_err(|error| error.to_string());
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler".to_owned())
}
