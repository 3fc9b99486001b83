//! One HTTP request of a probe or a hook: no redirects to other hosts are followed, no certificate is checked, as
//! Kubernetes does it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const BODY_BYTES_MAX: usize = 10 << 10;
const REDIRECTS_MAX: usize = 10;

/// The status and the beginning of the body of an answer.
pub(crate) struct Answer {
    pub status: u16,
    pub body: String,
}

/// Where a request goes, with its headers.
#[derive(Clone)]
pub(crate) struct Call {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Call {
    pub fn of(action: &HTTPGetAction, container: &Container, pod_ip: &str, agent: &str) -> Result<Call, String> {
        let port = resolve_port(&action.port, container)?;
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let mut headers: Vec<(String, String)> =
            action.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
        for (name, value) in [("User-Agent", agent), ("Accept", "*/*")] {
            if !headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        let path = action.path.clone().unwrap_or_default();
        Ok(Call {
            secure: action.scheme.as_deref() == Some("HTTPS"),
            host,
            port,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers,
        })
    }

    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}{}", self.port, self.path)
    }

    /// Asks, and asks again where the answer points elsewhere on the same host.
    pub async fn send(mut self, limit: Duration) -> Result<Answer, String> {
        let url = self.url();
        let work = async {
            for _ in 0..REDIRECTS_MAX {
                let received = self.once().await?;
                match self.redirected(&received) {
                    Some(next) => self = next,
                    None => return Ok(received.answer),
                }
            }
            Err("stopped after 10 redirects".to_owned())
        };
        let late =
            || format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(|error| format!("Get \"{url}\": {error}")),
            Err(_) => Err(late()),
        }
    }

    async fn once(&self) -> Result<Received, String> {
        let address = (self.host.as_str(), self.port);
        let shown = if self.host.contains(':') {
            format!("[{}]:{}", address.0, address.1)
        } else {
            format!("{}:{}", address.0, address.1)
        };
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("dial tcp {shown}: connect: {}", plain(&error)))?;
        if !self.secure {
            return self.over(stream).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(coracle_client::unverified::config());
        self.over(connector.connect(name, stream).await.map_err(|error| error.to_string())?).await
    }

    async fn over<S>(&self, stream: S) -> Result<Received, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let mut request = Request::builder().uri(&self.path);
        let own_host = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = own_host.map_or_else(|| format!("{}:{}", self.host, self.port), |(_, value)| value.clone());
        request = request.header("Host", host).header("Connection", "close");
        for (name, value) in self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            Ok::<Received, String>(read(answer).await)
        };
        // The connection is driven only as long as its answer is read.
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            received = &mut exchange => received,
            ended = &mut connection => {
                ended.map_err(|error| error.to_string())?;
                exchange.await
            }
        }
    }

    fn redirected(&self, received: &Received) -> Option<Call> {
        if !matches!(received.answer.status, 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = received.location.as_ref()?;
        let host = location.host().map_or_else(|| self.host.clone(), str::to_owned);
        if host != self.host {
            return None;
        }
        let secure = location.scheme_str().map_or(self.secure, |scheme| scheme == "https");
        let port = location.port_u16().unwrap_or(if location.host().is_none() {
            self.port
        } else if secure {
            443
        } else {
            80
        });
        let path = location.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Call { secure, host, port, path, headers: self.headers.clone() })
    }
}

struct Received {
    answer: Answer,
    location: Option<Uri>,
}

async fn read(answer: Response<hyper::body::Incoming>) -> Received {
    let status = answer.status().as_u16();
    let location = answer.headers().get("location").and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    Received { answer: Answer { status, body }, location }
}

/// A number, or the name of one of the container's ports.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|known| known.name.as_deref() == Some(name));
            named.map(|known| known.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("couldn't find port: {port:?}"))
}

/// As Go words it: without the number of the error.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}
