//! The kubelet's HTTPS API: logs, exec, attach, port-forward and what the node runs. Whoever calls shows a certificate
//! of the CA that the options name; nothing is answered without.

#![expect(clippy::result_large_err, reason = "an error here is the answer itself, made once and sent")]

mod log_endpoint;
mod node_logs;
mod port_forward;
mod reports;
mod request;
mod spdy;
mod streaming;
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
    let node = node.clone();
    node.scope.clone().spawn_until_cancelled("kubelet-api", accept(node, listener, TlsAcceptor::from(tls)));
    Ok(())
}

async fn accept(node: Arc<NodeContext>, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (node, acceptor) = (node.clone(), acceptor.clone());
                node.scope.clone().spawn_until_cancelled("kubelet-connection", serve(node, acceptor, stream));
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(node: Arc<NodeContext>, acceptor: TlsAcceptor, stream: TcpStream) {
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    let name = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
    let clients = &node.options.clients;
    let may = clients.is_empty() || name.is_some_and(|name| clients.contains(&name));
    let service = service_fn(move |request| {
        let node = node.clone();
        async move { Ok::<_, std::convert::Infallible>(if may { route(&node, request).await } else { forbidden() }) }
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
        (&Method::GET, ["stats", "summary"]) => reports::summary(node).await,
        (&Method::GET, ["metrics", "resource"]) => reports::resource_metrics(node).await,
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

fn forbidden() -> Answer {
    text(StatusCode::FORBIDDEN, "Forbidden\n")
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

fn common_name(certificate: &rustls::pki_types::CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some(name)
}
