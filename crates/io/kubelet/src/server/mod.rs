//! The kubelet's HTTPS API: logs, exec, attach, port-forward, what the node runs and what that uses.

#![expect(clippy::result_large_err, reason = "an error here is the answer itself, made once and sent")]

mod access;
mod log_endpoint;
mod node_logs;
mod port_forward;
mod reports;
mod request;
mod resource_metrics;
mod spdy;
mod streaming;
mod summary;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::KubeletError;
use crate::node_context::NodeContext;
use access::Access;
use request::Query;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;
pub(crate) type Answer = Response<Body>;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens, if there is a certificate to serve with.
pub(crate) async fn start(node: &Arc<NodeContext>) -> Result<(), KubeletError> {
    let Some(tls) = node.options.tls.clone() else { return Ok(()) };
    let address = node.options.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    let access = Arc::new(Access::new(node.client.clone(), &node.options.node_name, &node.options.clients));
    let door = Door { node: node.clone(), access, acceptor: TlsAcceptor::from(tls) };
    node.scope.clone().spawn_until_cancelled("kubelet-api", accept(door, listener));
    Ok(())
}

/// What every connection is met with.
#[derive(Clone)]
struct Door {
    node: Arc<NodeContext>,
    access: Arc<Access>,
    acceptor: TlsAcceptor,
}

async fn accept(door: Door, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let scope = door.node.scope.clone();
                scope.spawn_until_cancelled("kubelet-connection", serve(door.clone(), stream));
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(door: Door, stream: TcpStream) {
    let Door { node, access, acceptor } = door;
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| access::of_certificate(chain.first()?));
    let shown = Arc::new(shown);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (node, access, shown) = (node.clone(), access.clone(), shown.clone());
        async move {
            let (head, body) = request.into_parts();
            let checked = access.check(shown.as_ref().as_ref(), &head).await;
            Ok::<_, std::convert::Infallible>(match checked {
                Ok(()) => route(&node, http::Request::from_parts(head, body)).await,
                Err(answer) => answer,
            })
        }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(error, "a connection to the kubelet ended");
    }
}

async fn route(node: &Arc<NodeContext>, request: http::Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::of(request.uri().query().unwrap_or_default());
    match (&request.method().clone(), parts.as_slice()) {
        (&Method::GET, ["healthz" | "livez" | "readyz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["pods"]) => reports::pods(node),
        (&Method::GET, ["stats", "summary"]) => summary::show(node, &query).await,
        (&Method::GET, ["metrics", "resource"]) => resource_metrics::show(node).await,
        (&Method::GET, ["logs", ..]) => node_logs::show(&path),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            log_endpoint::logs(node, (namespace, pod, container), &query).await
        }
        (&Method::GET | &Method::POST, [way @ ("exec" | "attach"), namespace, pod, container]) => {
            let way = if *way == "exec" { streaming::Way::Exec } else { streaming::Way::Attach };
            streaming::open(node, (way, namespace, pod, container), &query, request).await
        }
        (&Method::GET | &Method::POST, ["portForward", namespace, pod]) => {
            port_forward::open(node, (namespace, pod), request).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

pub(crate) fn text(code: StatusCode, message: &str) -> Answer {
    let body = Full::new(Bytes::from(message.to_owned())).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}

pub(crate) fn json(value: &impl serde::Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}
