//! `/portForward`: connections to ports of a pod, several over one connection, in SPDY; SPDY itself is spoken plainly or
//! in the messages of a WebSocket.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::request::find_pod;
use super::spdy::{self, Stream};
use super::upgrade::{Changed, agree, hang_up, see_off};
use super::{Answer, text};
use crate::node_context::{NodeContext, uid_of};
use crate::observe::observe;

const WEBSOCKET: [&str; 1] = ["SPDY/3.1+portforward.k8s.io"];
const SPDY: [&str; 1] = ["portforward.k8s.io"];
const STREAMS_MAX: usize = 64;
const TUNNEL_BYTES: usize = 256 << 10;
const CHUNK_BYTES: usize = 32 << 10;

pub(super) async fn open(
    node: &Arc<NodeContext>,
    (namespace, pod): (&str, &str),
    request: Request<Incoming>,
) -> Answer {
    match start(node, (namespace, pod), request).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn start(
    node: &Arc<NodeContext>,
    (namespace, name): (&str, &str),
    mut request: Request<Incoming>,
) -> Result<Answer, Answer> {
    let pod = find_pod(node, namespace, name)?;
    let observed = observe(node.runtime.as_ref(), &node.options.runtime_name, uid_of(&pod)).await;
    let observed = observed.map_err(|status| text(StatusCode::INTERNAL_SERVER_ERROR, status.message()))?;
    let sandbox = observed.sandboxes.first().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone());
    let sandbox = sandbox.ok_or_else(|| text(StatusCode::NOT_FOUND, &format!("pod \"{name}\" has no sandbox\n")))?;
    let mut agreed = agree(&mut request, &WEBSOCKET, &SPDY)?;
    let answer = std::mem::replace(&mut agreed.answer, text(StatusCode::OK, ""));
    let node = node.clone();
    node.scope.clone().spawn_until_cancelled("port-forward", async move {
        match agreed.connection().await {
            Ok(Changed::Spdy(connection)) => forward(node, sandbox, connection).await,
            Ok(Changed::WebSocket(socket)) => {
                let (ours, theirs) = tokio::io::duplex(TUNNEL_BYTES);
                tokio::join!(forward(node, sandbox, ours), tunnel(*socket, theirs));
            }
            Err(error) => tracing::debug!(%error, "a connection did not change its protocol"),
        }
    });
    Ok(answer)
}

/// Carries bytes in the binary messages of a WebSocket.
async fn tunnel<S>(socket: WebSocketStream<S>, bytes: tokio::io::DuplexStream)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(bytes);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) if writer.write_all(&data).await.is_err() => return,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(size) = reader.read(&mut buffer).await {
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..size]));
            if size == 0 || sink.send(message).await.is_err() {
                break;
            }
        }
        let _ = sink.send(super::upgrade::farewell()).await;
        let _ = sink.close().await;
    };
    {
        tokio::pin!(inward);
        tokio::select! {
            () = &mut inward => {}
            () = outward => see_off(inward).await,
        }
    }
    hang_up(sink, source).await;
}

/// Pairs the streams of a request, one for data and one for errors, and connects each pair.
async fn forward<S>(node: Arc<NodeContext>, sandbox: String, connection: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send,
{
    let (sender, mut opened) = mpsc::channel::<Stream>(STREAMS_MAX);
    let pairing = async {
        let mut errors: BTreeMap<String, Stream> = BTreeMap::new();
        let mut data: BTreeMap<String, Stream> = BTreeMap::new();
        while let Some(stream) = opened.recv().await {
            let request = stream.headers.get("requestid").cloned().unwrap_or_default();
            match stream.headers.get("streamtype").map(String::as_str) {
                Some("error") => drop(errors.insert(request.clone(), stream)),
                Some("data") => drop(data.insert(request.clone(), stream)),
                _ => stream.outgoing.reset().await,
            }
            if errors.contains_key(&request)
                && let Some(data) = data.remove(&request)
                && let Some(error) = errors.remove(&request)
            {
                let (node_of, sandbox) = (node.clone(), sandbox.clone());
                node.scope.spawn_until_cancelled("port", async move { connect(&node_of, &sandbox, data, error).await });
            }
            if errors.len() + data.len() > STREAMS_MAX {
                return;
            }
        }
    };
    tokio::select! {
        served = spdy::serve(connection, sender) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a port-forward connection ended");
            }
        }
        () = pairing => {}
    }
}

async fn connect(node: &NodeContext, sandbox: &str, mut data: Stream, error: Stream) {
    let port = data.headers.get("port").and_then(|port| port.parse::<u16>().ok());
    let connection = match port {
        Some(port) => node
            .runtime
            .port_forward(sandbox, port)
            .await
            .map_err(|status| format!("error forwarding port {port} to pod {sandbox}, uid : {}", status.message())),
        None => Err("\"port\" header must be between 1 and 65535".to_owned()),
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(message) => {
            error.outgoing.send(message.into()).await;
            error.outgoing.finish().await;
            return data.outgoing.finish().await;
        }
    };
    let (mut reader, mut writer) = tokio::io::split(connection);
    let inward = async {
        while let Some(bytes) = data.incoming.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(size) = reader.read(&mut buffer).await {
            if size == 0 || !data.outgoing.send(Bytes::copy_from_slice(&buffer[..size])).await {
                break;
            }
        }
        data.outgoing.finish().await;
    };
    // What the pod says is heard to its end, also when the client has nothing more to say.
    tokio::join!(inward, outward);
    error.outgoing.finish().await;
}
