//! A log over a WebSocket: the bytes of the kubelet's answer as messages, binary or in base64. What the client says is
//! not listened to. Source: Kubernetes `httpstream/wsstream/stream.go`.

use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use coracle_client::Body;
use coracle_meta::Status;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::answer::Response;
use crate::call::Call;
use crate::serve::{Upgrade, empty};
use crate::server::Server;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

pub fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Changes the call's connection to a WebSocket and sends the answer's body over it. An answer that is a failure is
/// given as it is.
pub fn carry(server: &Arc<Server>, call: &Call, answer: Response) -> Result<Response, Status> {
    if !answer.status().is_success() {
        return Ok(answer);
    }
    let protocol = agreed(&call.head.headers)?;
    let upgrade = call.head.extensions.get::<Upgrade>().and_then(Upgrade::take);
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let key = call.head.headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut switching = http::Response::new(empty());
    *switching.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let headers = switching.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", derive_accept_key(key).parse().map_err(Status::internal)?);
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let body = answer.into_body();
    server.scope.spawn_until_cancelled("log-socket", async move {
        match upgrade.await {
            Ok(connection) => send(TokioIo::new(connection), body, protocol).await,
            Err(error) => tracing::debug!(component = "apiserver", %error, "a connection did not change its protocol"),
        }
    });
    Ok(switching)
}

/// The first of the client's protocols that is ours; a client without any gets none.
fn agreed(headers: &HeaderMap) -> Result<Option<&'static str>, Status> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    if offered.is_empty() {
        return Ok(None);
    }
    let ours = offered.iter().find_map(|name| [BINARY, BASE64].into_iter().find(|own| own == name));
    ours.map(Some).ok_or_else(|| {
        Status::new(
            403,
            "Forbidden",
            format!("requested protocol(s) are not supported: {offered:?}; supports [ {BINARY} {BASE64}]"),
        )
    })
}

async fn send<S>(connection: S, mut body: Body, protocol: Option<&'static str>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let message = |bytes: Bytes| match protocol {
        Some(BASE64) => Message::Text(base64::engine::general_purpose::STANDARD.encode(bytes).into()),
        _ => Message::Binary(bytes),
    };
    let telling = async {
        // The first message is empty: it tells that the log is there, before its first line.
        sink.send(message(Bytes::new())).await?;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                sink.send(message(data)).await?;
            }
        }
        sink.close().await
    };
    let hearing = async { while let Some(Ok(_)) = source.next().await {} };
    tokio::select! {
        told = telling => if let Err(error) = told {
            tracing::debug!(component = "apiserver", %error, "a log's listener went away");
        },
        () = hearing => {}
    }
}
