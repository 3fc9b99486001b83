//! Cluster DNS: answers the cluster's names from what a view tells, and passes other names on to the machine's
//! resolvers. What a name means is decided in `coracle_zones`; here are sockets and the wire format.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::view::resource_of;
use coracle_reconcile::{Sink, View};
use coracle_rt::Scope;
use coracle_zones::{Zone, project_service, project_slice};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

mod respond;
mod upstream;

use respond::{Next, encode_udp, question_for, refuse, respond};
use upstream::{Transport, forward, read_framed, write_framed};

/// Requests in hand at once; past that datagrams are dropped, as a full socket buffer would, and streams wait.
const REQUESTS_MAX: usize = 1024;
const REQUEST_BYTES_MAX: usize = 4096;
/// How long a stream may stand idle between two requests.
const STREAM_IDLE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen, by UDP and TCP; port 0 takes any that is free for both.
    pub bind: Vec<SocketAddr>,
    /// `cluster.local`
    pub cluster_domain: String,
    /// Who is asked for other names, in this order; without any the answer is SERVFAIL.
    pub upstreams: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listening for DNS on {address}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// A running server.
#[derive(Clone, Debug)]
pub struct Dns {
    addresses: Vec<SocketAddr>,
}

struct Shared {
    zone: RwLock<Zone>,
    view: Arc<dyn View>,
    upstreams: Vec<SocketAddr>,
    room: Arc<Semaphore>,
}

impl Dns {
    /// Listens, follows the view and answers until the scope is cancelled.
    pub async fn start(scope: &Scope, view: Arc<dyn View>, options: Options) -> Result<Dns, Error> {
        let shared = Arc::new(Shared {
            zone: RwLock::new(Zone::new(&options.cluster_domain)),
            view: view.clone(),
            upstreams: options.upstreams.iter().copied().filter(|one| !options.bind.contains(one)).collect(),
            room: Arc::new(Semaphore::new(REQUESTS_MAX)),
        });
        let mut addresses = Vec::new();
        for wanted in options.bind {
            let bound = listen(wanted).await.map_err(|source| Error::Bind { address: wanted, source })?;
            let (udp, tcp, address) = bound;
            addresses.push(address);
            scope.spawn_until_cancelled("dns-udp", serve_udp(scope.clone(), Arc::new(udp), shared.clone()));
            scope.spawn_until_cancelled("dns-tcp", serve_tcp(scope.clone(), tcp, shared.clone()));
        }
        for resource in [services(), slices()] {
            view.subscribe(&resource, sink(shared.clone()));
        }
        Ok(Dns { addresses })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// The resolvers this machine itself uses; none when there is no /etc/resolv.conf.
pub fn host_upstreams() -> Vec<SocketAddr> {
    std::fs::read_to_string("/etc/resolv.conf").map(|text| upstream::resolvers(&text)).unwrap_or_default()
}

fn services() -> Resource {
    resource_of::<Service>()
}

fn slices() -> Resource {
    resource_of::<EndpointSlice>()
}

fn sink(shared: Arc<Shared>) -> Sink {
    Arc::new(move |resource, change| {
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let name = (object.meta.namespace.clone(), object.meta.name.clone());
        if *resource == services() {
            let service = decoded::<Service>(change.new.as_ref()).and_then(|service| project_service(&service));
            shared.zone.write().set_service(name, service);
        } else {
            let slice = decoded::<EndpointSlice>(change.new.as_ref()).and_then(|slice| project_slice(&slice));
            shared.zone.write().set_slice(name, slice);
        }
    })
}

fn decoded<T: serde::de::DeserializeOwned + Send + Sync + 'static>(object: Option<&Arc<Object>>) -> Option<Arc<T>> {
    let object = object?;
    object.decode().inspect_err(|error| tracing::warn!(?object, %error, "DNS cannot read this object")).ok()
}

/// Both transports on one port.
async fn listen(wanted: SocketAddr) -> io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let tcp = TcpListener::bind(wanted).await?;
    let address = tcp.local_addr()?;
    Ok((UdpSocket::bind(address).await?, tcp, address))
}

async fn serve_udp(scope: Scope, socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // The error of an earlier send, told here by the kernel.
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(permit) = shared.room.clone().try_acquire_owned() else { continue };
        let request = buffer[..length].to_vec();
        let (socket, shared) = (socket.clone(), shared.clone());
        scope.spawn_until_cancelled("dns-request", async move {
            let _permit: OwnedSemaphorePermit = permit;
            if let Some(answer) = shared.answer(&request, Transport::Udp).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%from, %error, "an answer could not be sent");
            }
        });
    }
}

async fn serve_tcp(scope: Scope, listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok(permit) = shared.room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                scope.spawn_until_cancelled("dns-stream", async move {
                    let _permit: OwnedSemaphorePermit = permit;
                    if let Err(error) = serve_stream(stream, &shared).await {
                        tracing::debug!(%error, "a DNS stream broke");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no DNS stream can be accepted for a moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    while let Ok(request) = tokio::time::timeout(STREAM_IDLE, read_framed(&mut stream)).await {
        let Some(request) = request? else { return Ok(()) };
        let Some(answer) = shared.answer(&request, Transport::Tcp).await else { return Ok(()) };
        write_framed(&mut stream, &answer).await?;
    }
    Ok(())
}

impl Shared {
    /// `None` for what is no request.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let request = match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Query => request,
            Ok(_) => return None,
            Err(_) => return malformed(bytes),
        };
        let next = respond(&self.zone.read(), &request);
        let message = match next {
            Next::Send(message) if self.is_synced() => message,
            // What is not known yet must not be denied.
            Next::Send(_) => refuse(&request, ResponseCode::ServFail),
            Next::Forward => match forward(bytes, transport, &self.upstreams).await {
                Some(answer) => return Some(answer),
                None => refuse(&request, ResponseCode::ServFail),
            },
            Next::Follow { message, target } => {
                self.follow(message, &target, &request).await.unwrap_or(refuse(&request, ResponseCode::ServFail))
            }
        };
        match transport {
            Transport::Udp => encode_udp(&message, &request),
            Transport::Tcp => message.to_vec().ok(),
        }
    }

    async fn follow(&self, mut message: Message, target: &str, request: &Message) -> Option<Message> {
        let question = question_for(target, request)?.to_vec().ok()?;
        let answer = forward(&question, Transport::Udp, &self.upstreams).await?;
        let outside = Message::from_vec(&answer).ok()?;
        message.answers.extend(outside.answers);
        message.metadata.response_code = outside.metadata.response_code;
        Some(message)
    }

    fn is_synced(&self) -> bool {
        self.view.is_synced(&services()) && self.view.is_synced(&slices())
    }
}

/// FORMERR, with the number of the request where one can be seen.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let number = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    let is_answer = bytes.get(2)? & 0x80 != 0;
    let message = Message::error_msg(number, hickory_proto::op::OpCode::Query, ResponseCode::FormErr);
    if is_answer { None } else { message.to_vec().ok() }
}

#[cfg(test)]
mod tests;
