//! The accept loop: TLS with optional client certificates, HTTP/1.1 and HTTP/2, upgrades. A connection's certificate is
//! read once; a peer that sends rubbish loses its connection and nothing else.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_client::Body;
use coracle_meta::User;
use coracle_rt::Scope;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::answer;
use crate::caller::Caller;
use crate::server::Server;

/// The longest request body, as upstream has it.
pub const BODY_BYTES_MAX: usize = 3 << 20;

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Serves until the scope ends.
pub async fn serve(server: Arc<Server>, listener: TcpListener, tls: Arc<rustls::ServerConfig>, scope: Scope) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = scope.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                scope.spawn_until_cancelled("connection", async move {
                    connection(server, acceptor, stream, address.ip()).await;
                });
            }
            // Out of file descriptors: others may close theirs.
            Err(error) => {
                tracing::warn!(component = "apiserver", %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream, address: IpAddr) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| user_of(chain.first()?));
    let caller = Caller::Socket { certificate: certificate.map(Arc::new), address };
    let service = service_fn(move |request| {
        let (server, caller) = (server.clone(), caller.clone());
        async move { Ok::<_, Infallible>(one(&server, caller, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(250).initial_stream_window_size(256 << 10);
    builder.http1().half_close(true);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(component = "apiserver", %error, "connection ended");
    }
}

async fn one(server: &Arc<Server>, caller: Caller, mut request: hyper::Request<Incoming>) -> http::Response<Body> {
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    if let Some(upgrade) = upgrade {
        head.extensions.insert(Upgrade::new(upgrade));
    }
    let is_head = head.method == http::Method::HEAD;
    let body = match body.is_end_stream() {
        true => Ok(Bytes::new()),
        false => Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes()),
    };
    let answer = match body {
        Ok(body) => server.call(caller, http::Request::from_parts(head, body)).await,
        Err(error) if error.is::<LengthLimitError>() => answer::status(&answer::too_large(BODY_BYTES_MAX)),
        Err(error) => {
            let status = coracle_meta::Status::bad_request(format!("error reading body: {error}"));
            answer::status(&status)
        }
    };
    // HTTP/2 has no other way to tell that a head is all.
    if is_head { answer.map(|_| empty()) } else { answer }
}

/// The way to a connection's bytes once the answer has switched protocols. It is taken once.
#[derive(Clone)]
pub struct Upgrade(Arc<parking_lot::Mutex<Option<hyper::upgrade::OnUpgrade>>>);

impl Upgrade {
    fn new(upgrade: hyper::upgrade::OnUpgrade) -> Upgrade {
        Upgrade(Arc::new(parking_lot::Mutex::new(Some(upgrade))))
    }

    pub fn take(&self) -> Option<hyper::upgrade::OnUpgrade> {
        self.0.lock().take()
    }
}

/// The user that a certificate's subject names: CN and every O.
fn user_of(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    Some(User::new(name, &groups))
}

/// An empty body, for answers that have none.
pub(crate) fn empty() -> Body {
    answer::full(Bytes::new())
}
