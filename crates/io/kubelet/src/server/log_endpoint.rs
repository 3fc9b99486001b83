//! `/containerLogs/NAMESPACE/POD/CONTAINER`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use coracle_podlife::find_container;
use coracle_proto::cri;
use futures_util::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::request::{Query, find_pod, instances};
use super::{Answer, text};
use crate::logs::{LogRequest, stream};
use crate::node_context::NodeContext;

const QUEUE_MAX: usize = 16;

pub(super) async fn logs(
    node: &Arc<NodeContext>,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Answer {
    match open(node, (namespace, pod, container), query).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn open(
    node: &Arc<NodeContext>,
    (namespace, pod_name, container): (&str, &str, &str),
    query: &Query,
) -> Result<Answer, Answer> {
    let request = log_request(query, node.clock.now())?;
    let pod = find_pod(node, namespace, pod_name)?;
    let bad = |message: String| text(StatusCode::BAD_REQUEST, &message);
    if find_container(&pod, container).is_none() {
        return Err(bad(format!("container \"{container}\" not found in pod \"{pod_name}\"")));
    }
    let previous = query.get("previous") == Some("true");
    let lives = instances(node, &pod, container).await?;
    let life = lives.get(usize::from(previous));
    let Some(life) = life else {
        return Err(bad(match previous {
            true => format!("previous terminated container \"{container}\" in pod \"{pod_name}\" not found"),
            false => {
                let reason = waiting_reason(&pod, container);
                format!("container \"{container}\" in pod \"{pod_name}\" is waiting to start: {reason}")
            }
        }));
    };
    let status = node.runtime.container_status(&life.id).await;
    let status = status.map_err(|status| text(StatusCode::INTERNAL_SERVER_ERROR, status.message()))?;
    let path = match status.log_path.as_str() {
        "" => node.log_dir(&pod).join(container).join(format!("{}.log", life.attempt)),
        path => PathBuf::from(path),
    };
    Ok(answer(node, path, request, life.id.clone()))
}

fn answer(node: &Arc<NodeContext>, path: PathBuf, request: LogRequest, id: String) -> Answer {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE_MAX);
    let runtime = node.runtime.clone();
    node.scope.spawn_until_cancelled("log", async move {
        let is_alive = || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move {
                let status = runtime.container_status(&id).await;
                status.is_ok_and(|status| status.state == cri::ContainerState::ContainerRunning as i32)
            }
        };
        stream(path, request, sender, is_alive).await;
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    });
    let body = StreamBody::new(frames.map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes))));
    let mut answer = Response::new(BodyExt::boxed_unsync(body));
    let plain = http::HeaderValue::from_static("text/plain");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}

fn log_request(query: &Query, now: Timestamp) -> Result<LogRequest, Answer> {
    let size = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
    let since_seconds = query.number("sinceSeconds")?.map(|seconds| now - SignedDuration::from_secs(seconds));
    let since_time = match query.get("sinceTime") {
        Some(time) => {
            let parsed =
                time.parse().map_err(|_| text(StatusCode::BAD_REQUEST, &format!("invalid sinceTime: {time}\n")))?;
            Some(parsed)
        }
        None => None,
    };
    Ok(LogRequest {
        follow: query.get("follow") == Some("true"),
        timestamps: query.get("timestamps") == Some("true"),
        tail_lines: size(query.number("tailLines")?),
        since: since_time.or(since_seconds),
        limit_bytes: size(query.number("limitBytes")?),
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            _ => None,
        },
    })
}

fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> String {
    let Some(status) = &pod.status else { return "ContainerCreating".to_owned() };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let waiting = all
        .into_iter()
        .find(|status| status.name == container)
        .and_then(|status| status.state.as_ref()?.waiting.clone());
    waiting.and_then(|waiting| waiting.reason).unwrap_or_else(|| "ContainerCreating".to_owned())
}
