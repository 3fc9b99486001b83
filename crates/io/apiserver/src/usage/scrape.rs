//! One reading of a kubelet, by the way and under the certificate that logs and exec take.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_meta::{Resource, Status};
use coracle_reconcile::View;
use http::header::HOST;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::points::Reading;
use super::text;
use crate::server::Server;
use crate::store::tree;
use crate::tunnel::{Place, kubelet};

/// Longer than a kubelet takes, shorter than who asks is willing to wait.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const PAGE_BYTES_MAX: usize = 16 << 20;

pub async fn read(server: &Arc<Server>, node: &str) -> Result<Reading, Status> {
    let place = kubelet(server, node, "/metrics/resource".to_owned())?;
    let page = tokio::time::timeout(ANSWER_MAX, fetch(server, &place)).await;
    let page = page.map_err(|_| Status::internal(format!("{}:{} does not answer", place.host, place.port)))??;
    let page = String::from_utf8_lossy(&page);
    let now = server.clock.now().as_millisecond();
    text::read(&page, now).ok_or_else(|| Status::internal("the kubelet tells nothing of its node"))
}

/// Whether a node has a kubelet that can be asked: one that is only simulated tells no port.
pub fn can_answer(server: &Server, node: &str) -> bool {
    let found = server.view.get(&Resource::new("", "nodes"), "", node);
    let value = found.and_then(|node| tree(&node).ok());
    let port = value.and_then(|node| node.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]));
    port.is_some_and(|port| port > 0)
}

async fn fetch(server: &Arc<Server>, place: &Place) -> Result<Bytes, Status> {
    let broken = |error: &dyn std::fmt::Display| {
        Status::internal(format!("error trying to reach {}:{}: {error}", place.host, place.port))
    };
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(|error| broken(&error))?;
    let tls = place.tls.clone().ok_or_else(|| broken(&"no TLS"))?;
    let name = ServerName::try_from(place.host.clone()).map_err(|error| broken(&error))?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.map_err(|error| broken(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    server.scope.spawn_until_cancelled("usage-connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(component = "apiserver", %error, "a connection to a kubelet ended");
        }
    });
    let request = http::Request::get(&place.path).header(HOST, format!("{}:{}", place.host, place.port));
    let request = request.body(Full::<Bytes>::default()).map_err(|error| broken(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    if !answer.status().is_success() {
        return Err(broken(&answer.status()));
    }
    let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| broken(&error))?.to_bytes())
}
