//! Ways through the server to a node: the kubelet's exec, attach, port-forward and logs, and plain HTTP to pods,
//! services and nodes. Upgraded connections are passed on byte by byte: what protocol they speak is between the ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use coracle_client::{Body, BodyError};
use coracle_meta::{Resource, Status, Value};
use coracle_reconcile::View;
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, LOCATION, UPGRADE};
use http::{HeaderMap, Method, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::Response;
use crate::call::Call;
use crate::links::Links;
use crate::log_socket;
use crate::serve::Upgrade;
use crate::server::Server;
use crate::store::{Target, failed, tree};

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long the one end may take to leave once the other has left.
const LEAVE_MAX: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 8 << 10;
/// Hop by hop (RFC 9110, 7.6.1), and what proved the caller to us and is no business of the other end.
const NOT_PASSED_ON: [&str; 9] = [
    "authorization",
    "host",
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "proxy-connection",
    "expect",
];

/// What pages of pods may not tell a browser of this server.
const CROSS_ORIGIN: [&str; 6] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// Where a request goes on to.
pub(crate) struct Place {
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// With its query.
    pub path: String,
    way: Way,
}

/// What is done with the answer on its way back.
enum Way {
    /// It is passed on as it is.
    Plain,
    /// It is a log that the client wants over a WebSocket.
    LogSocket,
    /// It may be a page, whose links are led through the proxy; this is the path up to where the other end's begins.
    Pages(String),
}

/// `exec`, `attach`, `portforward` and `log`: to the kubelet of the pod's node.
pub async fn pod(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let cache = server.resource(target.served.kind).await?;
    let found = cache.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
    let pod = tree(&*found.ok_or_else(|| target.not_found())?)?;
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", target.name)));
    }
    let (door, container) = match target.subresource.as_str() {
        "portforward" => ("portForward", None),
        "log" => ("containerLogs", Some(container(target, call, &pod)?)),
        other => (other, Some(container(target, call, &pod)?)),
    };
    let mut path = format!("/{door}/{}/{}", target.namespace, target.name);
    if let Some(container) = container {
        path = format!("{path}/{container}");
    }
    let query = kubelet_query(call, &target.subresource);
    if !query.is_empty() {
        path = format!("{path}?{query}");
    }
    let mut place = kubelet(server, node, path)?;
    if target.subresource == "log" && log_socket::is_wanted(&call.head.headers) {
        place.way = Way::LogSocket;
    }
    forward(server, call, place).await
}

/// The container asked for, or the only one, or the one an annotation names.
fn container(target: &Target, call: &Call, pod: &Value) -> Result<String, Status> {
    let keys = ["containers", "initContainers", "ephemeralContainers"];
    let names =
        |key: &str| pod.list_at(&["spec", key]).iter().map(|one| one.str_at(&["name"]).to_owned()).collect::<Vec<_>>();
    let all: Vec<String> = keys.iter().flat_map(|key| names(key)).collect();
    if let Some(wanted) = call.query.get("container") {
        return match all.iter().any(|name| name == wanted) {
            true => Ok(wanted.to_owned()),
            false => Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", target.name))),
        };
    }
    let chosen = pod.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
    match names("containers").as_slice() {
        _ if all.iter().any(|name| name == chosen) => Ok(chosen.to_owned()),
        [only] => Ok(only.clone()),
        several => {
            let list = several.join(" ");
            let name = &target.name;
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{list}]"
            )))
        }
    }
}

/// The kubelet's own words for what the API calls `stdin`, `stdout`, `stderr`.
fn kubelet_query(call: &Call, part: &str) -> String {
    let raw = call.head.uri.query().unwrap_or_default();
    let pairs = raw.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if part == "log" || part == "portforward" {
            return (key != "container").then(|| pair.to_owned());
        }
        let is_on = value != "false" && value != "0";
        match key {
            "stdin" if is_on => Some("input=1".to_owned()),
            "stdout" if is_on => Some("output=1".to_owned()),
            "stderr" if is_on => Some("error=1".to_owned()),
            "tty" if is_on => Some("tty=1".to_owned()),
            "command" => Some(pair.to_owned()),
            _ => None,
        }
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// The kubelet of a node, as the node's object tells where it is.
pub(crate) fn kubelet(server: &Server, node: &str, path: String) -> Result<Place, Status> {
    let resource = Resource::new("", "nodes");
    let found = server.view.get(&resource, "", node).ok_or_else(|| Status::not_found(&resource, node))?;
    let node_object = tree(&found)?;
    let addresses = node_object.list_at(&["status", "addresses"]);
    let of =
        |kind: &str| addresses.iter().find(|one| one.str_at(&["type"]) == kind).map(|one| one.str_at(&["address"]));
    let host = ["InternalIP", "Hostname", "ExternalIP"].into_iter().find_map(of);
    let host = host
        .ok_or_else(|| Status::internal(format!("no preferred addresses found; known addresses: [] (node {node})")))?;
    let port = node_object.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).unwrap_or(10250);
    let tls =
        server.kubelet_tls.clone().ok_or_else(|| Status::internal("this server has no certificate for kubelets"))?;
    Ok(Place { host: host.to_owned(), port: port as u16, tls: Some(tls), path, way: Way::Plain })
}

/// `proxy` of pods, services and nodes.
pub async fn proxy(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let query = call.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let (prefix, rest) = split_path(call.head.uri.path(), &target.name);
    if rest.is_empty() && matches!(call.head.method, Method::GET | Method::HEAD) {
        return redirect(&format!("{prefix}/{query}"));
    }
    let path = format!("{}{query}", if rest.is_empty() { "/" } else { rest });
    // `scheme:name:port`, `name:port` or `name`.
    let parts: Vec<&str> = target.name.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => {
            return Err(Status::bad_request(format!(
                "invalid {} request {:?}",
                target.served.kind.plural, target.name
            )));
        }
    };
    let tls = (scheme == "https").then(coracle_client::unverified::config);
    let mut place = match target.served.kind.plural {
        "nodes" => kubelet(server, name, path)?,
        "pods" => {
            let found = server.view.get(&target.resource(), &target.namespace, name);
            let pod = tree(&*found.ok_or_else(|| target.not_found())?)?;
            let ip = pod.str_at(&["status", "podIP"]).to_owned();
            if ip.is_empty() {
                return Err(Status::bad_request(format!("address not allowed: pod {name} has no IP")));
            }
            let first = pod.list_at(&["spec", "containers"]).iter().flat_map(|one| one.list_at(&["ports"]));
            let first = first.filter_map(|port| port.int_at(&["containerPort"])).next().unwrap_or(80);
            let port = if port.is_empty() { first as u16 } else { number(port)? };
            Place { host: ip, port, tls, path, way: Way::Plain }
        }
        _ => {
            let (host, port) = endpoint(server, target, name, port)?;
            Place { host, port, tls, path, way: Way::Plain }
        }
    };
    place.way = Way::Pages(prefix.to_owned());
    forward(server, call, place).await
}

/// The path up to `NAME/proxy`, and the other end's own path, which may be empty.
fn split_path<'a>(path: &'a str, name: &str) -> (&'a str, &'a str) {
    let mut end = 0;
    let mut before = "";
    for part in path.split('/') {
        end += part.len();
        let decoded = crate::query::percent_decode(before, crate::query::Plus::Literal);
        if part == "proxy" && decoded == name {
            return path.split_at(end);
        }
        before = part;
        end += 1;
    }
    (path, "")
}

/// Pages at the root need a path that ends so, or their relative links lead astray.
fn redirect(to: &str) -> Result<Response, Status> {
    let mut response = http::Response::new(crate::serve::empty());
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, to.parse().map_err(|_| Status::bad_request("invalid path"))?);
    Ok(response)
}

fn number(port: &str) -> Result<u16, Status> {
    port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))
}

/// A ready address behind a Service's port, given by name, by number or not at all.
fn endpoint(server: &Server, target: &Target, name: &str, wanted: &str) -> Result<(String, u16), Status> {
    let resource = target.resource();
    let found =
        server.view.get(&resource, &target.namespace, name).ok_or_else(|| Status::not_found(&resource, name))?;
    let service = tree(&found)?;
    let ports = service.list_at(&["spec", "ports"]);
    let is_meant = |port: &&Value| {
        let number = port.int_at(&["port"]).unwrap_or_default().to_string();
        match wanted {
            "" => ports.len() == 1,
            wanted => port.str_at(&["name"]) == wanted || number == wanted,
        }
    };
    let port = ports.iter().find(is_meant);
    let port = port.ok_or_else(|| unavailable(&format!("no service port {wanted:?} found for service {name:?}")))?;
    let slices = server.view.list(&Resource::new("discovery.k8s.io", "endpointslices"), Some(&target.namespace));
    for slice in slices.iter().filter(|slice| slice.meta.label("kubernetes.io/service-name") == Some(name)) {
        let slice = tree(slice)?;
        let same = |one: &&Value| one.str_at(&["name"]) == port.str_at(&["name"]);
        let Some(number) = slice.list_at(&["ports"]).iter().find(same).and_then(|one| one.int_at(&["port"])) else {
            continue;
        };
        let is_ready = |one: &&Value| one.at(&["conditions", "ready"]).as_bool() != Some(false);
        let ready: Vec<&str> = slice
            .list_at(&["endpoints"])
            .iter()
            .filter(is_ready)
            .filter_map(|one| one.list_at(&["addresses"]).first()?.as_str())
            .collect();
        if !ready.is_empty() {
            let chosen = ready[server.dice.below(ready.len() as u64) as usize];
            return Ok((chosen.to_owned(), number as u16));
        }
    }
    Err(unavailable(&format!("no endpoints available for service {name:?}")))
}

fn unavailable(why: &str) -> Status {
    Status::new(503, "ServiceUnavailable", why)
}

async fn forward(server: &Arc<Server>, call: &Call, place: Place) -> Result<Response, Status> {
    let broken = |error: &dyn std::fmt::Display| {
        let (host, port) = (&place.host, place.port);
        Status::internal(format!("error trying to reach {host}:{port}: {error}"))
    };
    let dial = TcpStream::connect((place.host.as_str(), place.port));
    let stream = match tokio::time::timeout(CONNECT_MAX, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(broken(&error)),
        Err(error) => return Err(broken(&error)),
    };
    let _ = stream.set_nodelay(true);
    match &place.tls {
        None => through(server, call, &place, stream).await,
        Some(tls) => {
            let name = ServerName::try_from(place.host.clone()).map_err(|error| broken(&error))?;
            let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await;
            through(server, call, &place, stream.map_err(|error| broken(&error))?).await
        }
    }
}

/// One request over a fresh connection, which lives as long as the answer or the upgrade.
async fn through<S>(server: &Arc<Server>, call: &Call, place: &Place, stream: S) -> Result<Response, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &dyn std::fmt::Display| Status::internal(format!("error dialing backend: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // It ends with the stream it drives: when the answer's body is dropped, or both ends of an upgrade have closed.
    server.scope.spawn_until_cancelled("tunnel", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(component = "apiserver", %error, "tunnel ended");
        }
    });
    let request = request(call, place)?;
    let mut response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        let ours = call.head.extensions.get::<Upgrade>().and_then(Upgrade::take);
        let ours = ours.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        server.scope.spawn_until_cancelled("tunnel-bytes", join(ours, theirs));
        return Ok(response.map(|_| crate::serve::empty()));
    }
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    let body: Body = body.map_err(|error| Box::new(error) as BodyError).boxed_unsync();
    // The sender keeps the connection open until the body has been read.
    let body = Guarded { body, _sender: sender }.boxed_unsync();
    match &place.way {
        Way::Plain => Ok(http::Response::from_parts(head, body)),
        Way::LogSocket => log_socket::carry(server, call, http::Response::from_parts(head, body)),
        Way::Pages(prefix) => Ok(page(call, place, prefix, (head, body))),
    }
}

/// Leads a redirection and the links of a page through the proxy.
fn page(call: &Call, place: &Place, prefix: &str, (mut head, body): (http::response::Parts, Body)) -> Response {
    let text = |value: Option<&http::HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let authority = call.head.uri.authority().map(ToString::to_string);
    let links = Links {
        source: format!("{}:{}", place.host, place.port),
        scheme: "https",
        host: authority.or_else(|| text(call.head.headers.get(HOST))).unwrap_or_default(),
        prefix: prefix.to_owned(),
    };
    for name in CROSS_ORIGIN {
        head.headers.remove(name);
    }
    if let Some(value) = text(head.headers.get(LOCATION)).and_then(|to| links.rewritten(&to)?.parse().ok()) {
        head.headers.insert(LOCATION, value);
    }
    let kind = text(head.headers.get(CONTENT_TYPE)).unwrap_or_default();
    let is_page = kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html");
    let is_packed = head.headers.contains_key(CONTENT_ENCODING);
    let body = if is_page && !is_packed { links.rewrite(body) } else { body };
    http::Response::from_parts(head, body)
}

fn request(call: &Call, place: &Place) -> Result<http::Request<Full<Bytes>>, Status> {
    let uri: Uri = place.path.parse().map_err(|_| Status::bad_request("invalid path"))?;
    let is_upgrade = call.head.headers.contains_key(UPGRADE) && !matches!(place.way, Way::LogSocket);
    let mut builder = http::Request::builder().method(call.head.method.clone()).uri(uri);
    if let Some(headers) = builder.headers_mut() {
        for (name, value) in &call.head.headers {
            let is_hop = !is_upgrade && (name == CONNECTION || name == UPGRADE);
            // The links of a page that comes packed could not be found.
            let is_hop = is_hop || (name == ACCEPT_ENCODING && matches!(place.way, Way::Pages(_)));
            if !NOT_PASSED_ON.contains(&name.as_str()) && !is_hop && !name.as_str().starts_with("impersonate-") {
                headers.append(name, value.clone());
            }
        }
        let host = format!("{}:{}", place.host, place.port);
        if let Ok(value) = host.parse() {
            headers.insert(HOST, value);
        }
        if let Ok(value) = call.address.to_string().parse() {
            headers.append(HeaderName::from_static("x-forwarded-for"), value);
        }
    }
    builder.body(Full::new(call.body.clone())).map_err(Status::internal)
}

fn strip(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"] {
        headers.remove(name);
    }
}

async fn join(ours: hyper::upgrade::OnUpgrade, theirs: hyper::upgrade::OnUpgrade) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
    carry_both(TokioIo::new(ours), TokioIo::new(theirs)).await;
}

/// How one direction of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing more comes, but the other direction may go on.
    Said,
    /// One of the ends has left without saying so, as these connections mostly are left.
    Left,
}

/// Carries bytes both ways until both have ended.
async fn carry_both(ours: impl AsyncRead + AsyncWrite + Send, theirs: impl AsyncRead + AsyncWrite + Send) {
    let ((from_us, to_us), (from_them, to_them)) = (tokio::io::split(ours), tokio::io::split(theirs));
    let (inward, outward) = (carry(from_us, to_them), carry(from_them, to_us));
    tokio::pin!(inward, outward);
    let (end, other): (End, Pin<&mut (dyn Future<Output = End> + Send)>) = tokio::select! {
        end = &mut inward => (end, outward),
        end = &mut outward => (end, inward),
    };
    match end {
        End::Said => drop(other.await),
        End::Left => drop(tokio::time::timeout(LEAVE_MAX, other).await),
    }
}

/// Carries one direction to its end and tells the end on. Whatever was read is delivered first, however the reading ended.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> End {
    let mut buffer = vec![0; CHUNK_BYTES];
    let end = loop {
        match from.read(&mut buffer).await {
            Ok(0) => break End::Said,
            Ok(length) if to.write_all(&buffer[..length]).await.is_ok() && to.flush().await.is_ok() => {}
            _ => break End::Left,
        }
    };
    let _ = to.shutdown().await;
    end
}

/// A body that holds its connection open.
struct Guarded {
    body: Body,
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, ReadBuf, duplex};

    /// An end whose connection breaks off after its last word, as TLS without a farewell does.
    struct BreaksOff(DuplexStream);

    impl AsyncRead for BreaksOff {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let before = buffer.filled().len();
            match Pin::new(&mut self.0).poll_read(context, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                    Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()))
                }
                other => other,
            }
        }
    }

    impl AsyncWrite for BreaksOff {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_hears_all_that_an_end_said_before_it_broke_off() {
        let ((mut client, ours), (mut node, theirs)) = (duplex(16), duplex(1 << 20));
        let said: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = said.clone();
        let talk = async move {
            // Both ways at once: what the client says meanwhile must not matter.
            let _ = node.write_all(&said).await;
        };
        let hear = async move {
            client.write_all(b"typed").await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (heard, (), ()) = tokio::join!(hear, talk, carry_both(ours, BreaksOff(theirs)));
        assert!(heard == expected, "{} of {} bytes", heard.len(), expected.len());
    }

    #[test]
    fn the_other_ends_path_begins_after_the_proxy() {
        let base = "/api/v1/namespaces/proxy/pods/http:proxy:80/proxy";
        for rest in ["", "/", "/a//b/", "/http:proxy:80/proxy"] {
            assert_eq!(split_path(&format!("{base}{rest}"), "http:proxy:80"), (base, rest));
        }
    }
}
