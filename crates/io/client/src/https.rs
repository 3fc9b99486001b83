//! HTTP to an API server over sockets: HTTP/2 streams share connections, HTTP/1.1 connections are kept for the next
//! request. A bearer token that lies in a file is read again as it is rotated.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_rt::Scope;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig::{Kubeconfig, KubeconfigError};
use crate::{Body, BodyError, Transport, tls};

/// Streams on one HTTP/2 connection before another is opened; servers allow 100 and more.
const STREAMS_MAX: usize = 80;
/// Idle HTTP/1.1 connections that are kept.
const IDLE_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a token file's content is taken to hold, as client-go does.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(60);

type Payload = Full<Bytes>;

pub struct HttpsTransport {
    endpoint: Endpoint,
    token: Token,
    scope: Scope,
    streams: Mutex<Vec<Shared>>,
    idle: Arc<Mutex<Vec<http1::SendRequest<Payload>>>>,
}

struct Endpoint {
    base: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Payload>,
    streams: Arc<AtomicUsize>,
}

enum Fresh {
    Http1(http1::SendRequest<Payload>),
    Http2(Shared),
}

impl HttpsTransport {
    /// To the current context of a kubeconfig. Connections are tasks of `scope`.
    pub fn from_kubeconfig(scope: &Scope, config: &Kubeconfig) -> Result<HttpsTransport, KubeconfigError> {
        let (cluster, user) = config.current()?;
        if user.exec.is_some() {
            return Err(KubeconfigError::Invalid { field: "exec", why: "credential plugins are not supported".into() });
        }
        let invalid = |why: String| KubeconfigError::Invalid { field: "server", why };
        let base: Uri = cluster.server.parse().map_err(|why: http::uri::InvalidUri| invalid(why.to_string()))?;
        let host = base.host().ok_or_else(|| invalid("no host".into()))?.trim_matches(['[', ']']).to_owned();
        let secure = base.scheme() != Some(&Scheme::HTTP);
        let port = base.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let name = cluster.tls_server_name.clone().unwrap_or_else(|| host.clone());
        let tls = match secure {
            true => {
                let name = ServerName::try_from(name).map_err(|why| invalid(why.to_string()))?;
                Some((TlsConnector::from(Arc::new(tls::client_config(config, cluster, user)?)), name))
            }
            false => None,
        };
        let token = match (&user.token_file, &user.token) {
            (Some(path), _) => Token::File { path: config.resolve(path), last: Mutex::new(None) },
            (None, Some(token)) => Token::Fixed(token.clone()),
            (None, None) => Token::None,
        };
        Ok(HttpsTransport {
            endpoint: Endpoint { base, host, port, tls },
            token,
            scope: scope.clone(),
            streams: Mutex::default(),
            idle: Arc::default(),
        })
    }

    /// A connection with room, HTTP/2 before HTTP/1.1.
    fn pooled(&self) -> Option<Fresh> {
        let mut streams = self.streams.lock();
        streams.retain(|shared| !shared.sender.is_closed());
        if let Some(shared) = streams.iter().find(|shared| shared.streams.load(Ordering::Relaxed) < STREAMS_MAX) {
            return Some(Fresh::Http2(shared.clone()));
        }
        let mut idle = self.idle.lock();
        idle.retain(|sender| !sender.is_closed());
        idle.pop().map(Fresh::Http1)
    }

    /// A connection that takes a request now. A kept one that died in the meantime is replaced.
    async fn ready(&self) -> Result<Fresh, BodyError> {
        if let Some(mut pooled) = self.pooled() {
            let ready = match &mut pooled {
                Fresh::Http1(sender) => sender.ready().await,
                Fresh::Http2(shared) => shared.sender.ready().await,
            };
            if ready.is_ok() {
                return Ok(pooled);
            }
        }
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await?
    }

    async fn connect(&self) -> Result<Fresh, BodyError> {
        let tcp = TcpStream::connect((self.endpoint.host.as_str(), self.endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        let Some((connector, name)) = &self.endpoint.tls else {
            return self.handshake_http1(tcp).await;
        };
        let stream = connector.connect(name.clone(), tcp).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.handshake_http2(stream).await,
            _ => self.handshake_http1(stream).await,
        }
    }

    async fn handshake_http1<S>(&self, stream: S) -> Result<Fresh, BodyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.scope.spawn_until_cancelled("http1-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Fresh::Http1(sender))
    }

    async fn handshake_http2<S>(&self, stream: S) -> Result<Fresh, BodyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        self.scope.spawn_until_cancelled("http2-connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        let shared = Shared { sender, streams: Arc::default() };
        self.streams.lock().push(shared.clone());
        Ok(Fresh::Http2(shared))
    }

    /// Absolute for HTTP/2's pseudo-headers, a path with a host header for HTTP/1.1.
    fn address(&self, request: Request<Bytes>, http2: bool) -> Result<Request<Payload>, BodyError> {
        let (mut parts, body) = request.into_parts();
        let base = self.endpoint.base.path().trim_end_matches('/');
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path: PathAndQuery = format!("{base}{path}").parse()?;
        let authority = self.endpoint.base.authority().ok_or("the server has no authority")?;
        if http2 {
            let uri = Uri::builder().scheme("https").authority(authority.clone()).path_and_query(path);
            parts.uri = uri.build()?;
        } else {
            parts.uri = Uri::from(path);
            parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
        }
        if let Some(token) = self.token.current()? {
            parts.headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        }
        if !parts.headers.contains_key(header::USER_AGENT) {
            parts.headers.insert(header::USER_AGENT, HeaderValue::from_static("coracle"));
        }
        Ok(Request::from_parts(parts, Full::new(body)))
    }
}

#[async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, BodyError> {
        match self.ready().await? {
            Fresh::Http2(mut shared) => {
                let request = self.address(request, true)?;
                let lease = StreamLease::take(shared.streams.clone());
                let answer = shared.sender.send_request(request).await?;
                Ok(answer.map(|body| leased(body, move || drop(lease))))
            }
            Fresh::Http1(mut sender) => {
                let request = self.address(request, false)?;
                let answer = sender.send_request(request).await?;
                if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(answer.map(|body| leased(body, || ())));
                }
                let idle = self.idle.clone();
                Ok(answer.map(|body| leased(body, move || give_back(&idle, sender))))
            }
        }
    }
}

/// A connection whose answer was read to the end serves the next request.
fn give_back(idle: &Mutex<Vec<http1::SendRequest<Payload>>>, sender: http1::SendRequest<Payload>) {
    let mut idle = idle.lock();
    if !sender.is_closed() && idle.len() < IDLE_MAX {
        idle.push(sender);
    }
}

/// Calls `done` when the body was read to its end or is dropped.
fn leased(body: Incoming, done: impl FnOnce() + Send + 'static) -> Body {
    let guard = OnDrop(Some(done));
    body.map_frame(move |frame| {
        let _held = &guard;
        frame
    })
    .map_err(Into::into)
    .boxed_unsync()
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

struct StreamLease(Arc<AtomicUsize>);

impl StreamLease {
    fn take(streams: Arc<AtomicUsize>) -> StreamLease {
        streams.fetch_add(1, Ordering::Relaxed);
        StreamLease(streams)
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Token {
    None,
    Fixed(String),
    File { path: PathBuf, last: Mutex<Option<ReadToken>> },
}

struct ReadToken {
    token: String,
    at: Instant,
    modified: Option<SystemTime>,
}

impl Token {
    fn current(&self) -> Result<Option<String>, std::io::Error> {
        let (path, last) = match self {
            Token::None => return Ok(None),
            Token::Fixed(token) => return Ok(Some(token.clone())),
            Token::File { path, last } => (path, last),
        };
        let mut last = last.lock();
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if let Some(read) = last.as_ref().filter(|read| read.at.elapsed() < TOKEN_AGE_MAX && read.modified == modified)
        {
            return Ok(Some(read.token.clone()));
        }
        let token = std::fs::read_to_string(path)?.trim().to_owned();
        *last = Some(ReadToken { token: token.clone(), at: Instant::now(), modified });
        Ok(Some(token))
    }
}
