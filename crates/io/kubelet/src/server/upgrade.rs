//! Which protocol a client wants to change to, and the answer that agrees.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::{Answer, text};

/// How long a client may take to leave after it was told that all is said.
const LEAVE_MAX: Duration = Duration::from_secs(5);

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// A connection after its change of protocol.
pub(crate) enum Changed {
    Spdy(TokioIo<Upgraded>),
    WebSocket(Box<WebSocketStream<TokioIo<Upgraded>>>),
}

/// The change agreed on: the answer to send, the name of the protocol, and the connection to come.
pub(crate) struct Agreed {
    pub answer: Answer,
    pub protocol: String,
    is_websocket: bool,
    upgrade: hyper::upgrade::OnUpgrade,
}

impl Agreed {
    pub async fn connection(self) -> Result<Changed, hyper::Error> {
        let connection = TokioIo::new(self.upgrade.await?);
        Ok(match self.is_websocket {
            false => Changed::Spdy(connection),
            true => {
                Changed::WebSocket(Box::new(WebSocketStream::from_raw_socket(connection, Role::Server, None).await))
            }
        })
    }
}

/// The first of the client's protocols that is among ours; `ours` come first the best.
pub(crate) fn agree(request: &mut Request<Incoming>, websocket: &[&str], spdy: &[&str]) -> Result<Agreed, Answer> {
    let headers = request.headers().clone();
    let wanted = words(&headers, header::UPGRADE.as_str()).pop().unwrap_or_default();
    if wanted.eq_ignore_ascii_case("websocket") {
        let protocol = choose(&words(&headers, header::SEC_WEBSOCKET_PROTOCOL.as_str()), websocket)?;
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key);
        let answer =
            switching("websocket", &[("sec-websocket-accept", &accept), ("sec-websocket-protocol", &protocol)]);
        return Ok(Agreed { answer, protocol, is_websocket: true, upgrade: hyper::upgrade::on(request) });
    }
    if wanted.eq_ignore_ascii_case(SPDY) {
        let protocol = choose(&words(&headers, STREAM_PROTOCOL), spdy)?;
        let answer = switching(SPDY, &[(STREAM_PROTOCOL, &protocol)]);
        return Ok(Agreed { answer, protocol, is_websocket: false, upgrade: hyper::upgrade::on(request) });
    }
    Err(text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request"))
}

fn choose(offered: &[String], ours: &[&str]) -> Result<String, Answer> {
    let chosen = ours.iter().find(|ours| offered.iter().any(|offered| offered == *ours));
    let refused = || {
        format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}")
    };
    chosen.map(|chosen| (*chosen).to_owned()).ok_or_else(|| text(StatusCode::FORBIDDEN, &refused()))
}

fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn switching(to: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut answer = Response::new(Empty::<Bytes>::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let all = [("connection", "Upgrade"), ("upgrade", to)];
    for (name, value) in all.iter().chain(headers) {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(*name, value);
        }
    }
    answer
}

/// The frame that ends a WebSocket in good order; clients take an end without a code for a failure.
pub fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Listens to a client that was told the end until it has left. A connection that is closed with words of the client
/// unread breaks off, and what is still on its way to the client is lost with it.
pub async fn see_off(heard: impl Future) {
    let _ = tokio::time::timeout(LEAVE_MAX, heard).await;
}

/// Closes what lies below a WebSocket, so that the other end does not take its end for a failure.
pub async fn hang_up<S>(sink: SplitSink<WebSocketStream<S>, Message>, source: SplitStream<WebSocketStream<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Ok(mut socket) = sink.reunite(source) {
        see_off(socket.get_mut().shutdown()).await;
    }
}
