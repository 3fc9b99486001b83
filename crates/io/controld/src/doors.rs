//! The small HTTPS server of a scheduler or controller manager that runs alone: health for everybody, metrics for whom
//! the API server says may read them. It is the doors of kube-scheduler and kube-controller-manager, with tokens as the
//! only credentials.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_client::{Client, ClientError, ResourceRef, WriteOptions};
use coracle_meta::Status;
use coracle_rt::Scope;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const TOKEN_REVIEWS: ResourceRef = ResourceRef::new("authentication.k8s.io", "v1", "tokenreviews");
const ACCESS_REVIEWS: ResourceRef = ResourceRef::new("authorization.k8s.io", "v1", "subjectaccessreviews");
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Answer = Response<Full<Bytes>>;

pub struct Doors {
    /// Reviews tokens and access.
    pub client: Client,
    /// The text form of Prometheus.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

impl Doors {
    /// Serves until the scope ends.
    pub fn serve(self, scope: &Scope, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let (doors, acceptor, inner) = (Arc::new(self), TlsAcceptor::from(tls), scope.clone());
        scope.spawn_until_cancelled("doors", async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let serving = serve(doors.clone(), acceptor.clone(), stream);
                        inner.spawn_until_cancelled("doors-connection", serving);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "accepting a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    }

    /// Answers a request by its method, path and bearer token.
    pub async fn answer(&self, method: &Method, path: &str, token: Option<&str>) -> Answer {
        let is_read = [Method::GET, Method::HEAD].contains(method);
        if is_read && ["/healthz", "/livez", "/readyz"].contains(&path) {
            return text(StatusCode::OK, "ok".into());
        }
        if let Err(status) = self.admit(method, path, token).await {
            return refusal(&status);
        }
        match path {
            "/metrics" if is_read => text(StatusCode::OK, (self.metrics)()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
        }
    }

    async fn admit(&self, method: &Method, path: &str, token: Option<&str>) -> Result<(), Status> {
        let user = match token {
            Some(token) => self.identify(token).await?,
            None => json!({"username": "system:anonymous", "groups": ["system:unauthenticated"]}),
        };
        let verb = method.as_str().to_lowercase();
        let spec = json!({
            "user": user["username"], "uid": user["uid"], "groups": user["groups"], "extra": user["extra"],
            "nonResourceAttributes": {"path": path, "verb": verb},
        });
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let told = self.review(&ACCESS_REVIEWS, &review).await.map_err(ClientError::into_status)?;
        if told["status"]["allowed"] == true {
            return Ok(());
        }
        let name = user["username"].as_str().unwrap_or_default();
        Err(Status::new(403, "Forbidden", format!("forbidden: User {name:?} cannot {verb} path {path:?}")))
    }

    async fn identify(&self, token: &str) -> Result<Value, Status> {
        let spec = json!({"token": token});
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let mut told = self.review(&TOKEN_REVIEWS, &review).await.map_err(ClientError::into_status)?;
        match told["status"]["authenticated"] == true {
            true => Ok(told["status"]["user"].take()),
            false => Err(Status::new(401, "Unauthorized", "Unauthorized".to_owned())),
        }
    }

    async fn review(&self, resource: &ResourceRef, review: &Value) -> Result<Value, ClientError> {
        self.client.create(resource, "", review, &WriteOptions::default()).await
    }
}

async fn serve(doors: Arc<Doors>, acceptor: TlsAcceptor, stream: TcpStream) {
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let doors = doors.clone();
        async move {
            let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
            Ok::<_, std::convert::Infallible>(doors.answer(request.method(), request.uri().path(), token).await)
        }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "a connection ended");
    }
}

fn refusal(status: &Status) -> Answer {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": status.message, "reason": status.reason, "code": status.code,
    });
    answer(code, "application/json", body.to_string())
}

fn text(code: StatusCode, body: String) -> Answer {
    answer(code, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn answer(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
