//! `/exec` and `/attach`: the streams of a process, carried to the client over WebSocket or SPDY.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::request::{Query, find_pod, running};
use super::spdy;
use super::upgrade::{Changed, agree, hang_up, see_off};
use super::{Answer, text};
use crate::node_context::NodeContext;
use crate::runtime::{ExecRequest, Streams};

const WEBSOCKET: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
const SPDY: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
const QUEUE_MAX: usize = 32;
/// The channels of a WebSocket that come from the client; the last closes another.
const STDIN: u8 = 0;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const CHUNK_BYTES: usize = 32 << 10;
const STREAMS_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The channels of a WebSocket that lead to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Channel {
    Stdout = 1,
    Stderr = 2,
    Error = 3,
}

/// Which process, by its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Exec,
    Attach,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    last_word: LastWord,
}

/// How a client reads how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWord {
    /// A `Status` object, success too: from the fourth version of the protocol.
    Object,
    /// The message of a failure, and nothing after a success.
    Text,
}

/// What comes from the client.
enum FromClient {
    Stdin(Bytes),
    StdinClosed,
    Resize(u16, u16),
}

/// What goes to it.
enum ToClient {
    Data(Channel, Bytes),
    /// The last word, then the end.
    Status(String),
}

pub(super) async fn open(
    node: &Arc<NodeContext>,
    (way, namespace, pod, container): (Way, &str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    match start(node, (way, namespace, pod, container), query, request).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn start(
    node: &Arc<NodeContext>,
    (way, namespace, pod, container): (Way, &str, &str, &str),
    query: &Query,
    mut request: Request<Incoming>,
) -> Result<Answer, Answer> {
    let mut wanted = Wanted {
        stdin: query.is_set(["stdin", "input"]),
        stdout: query.is_set(["stdout", "output"]),
        stderr: query.is_set(["stderr", "error"]) && !query.is_set(["tty", "tty"]),
        tty: query.is_set(["tty", "tty"]),
        last_word: LastWord::Object,
    };
    let cmd = query.all("command");
    if way == Way::Exec && cmd.is_empty() {
        return Err(text(StatusCode::BAD_REQUEST, "you must specify at least one command for the container"));
    }
    let pod = find_pod(node, namespace, pod)?;
    let instance = running(node, &pod, container).await?;
    let agreed = agree(&mut request, &WEBSOCKET, &SPDY)?;
    let streams = match way {
        Way::Exec => {
            let request = ExecRequest { container_id: instance.id, cmd, tty: wanted.tty, stdin: wanted.stdin };
            node.runtime.exec(request).await
        }
        Way::Attach => node.runtime.attach(&instance.id).await,
    };
    // The client learns of a failure over the changed protocol: it reads a status there, not the body of an answer.
    let streams = streams.map_err(|status| status.message().to_owned());
    let mut agreed = agreed;
    let answer = std::mem::replace(&mut agreed.answer, text(StatusCode::OK, ""));
    let protocol = agreed.protocol.clone();
    if !protocol.starts_with("v4.") && !protocol.starts_with("v5.") {
        wanted.last_word = LastWord::Text;
    }
    node.scope.spawn_until_cancelled("streams", async move {
        match agreed.connection().await {
            Ok(Changed::WebSocket(socket)) => over_websocket(*socket, &protocol, wanted, streams).await,
            Ok(Changed::Spdy(connection)) => over_spdy(connection, wanted, streams).await,
            Err(error) => tracing::debug!(%error, "a connection did not change its protocol"),
        }
    });
    Ok(answer)
}

async fn over_websocket<S>(
    socket: tokio_tungstenite::WebSocketStream<S>,
    protocol: &str,
    wanted: Wanted,
    streams: Result<Streams, String>,
) where
    S: AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let (to_process, from_client) = mpsc::channel(QUEUE_MAX);
    let (to_client, mut from_process) = mpsc::channel(QUEUE_MAX);
    let can_close = protocol.starts_with("v5.");
    let first = if wanted.stdout { Channel::Stdout } else { Channel::Error };
    let reading = async {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(data) = message else {
                if matches!(message, Message::Close(_)) { break } else { continue }
            };
            let Some((channel, payload)) = data.split_first() else { continue };
            let told = match *channel {
                STDIN => FromClient::Stdin(data.slice(1..)),
                RESIZE => match resize_of(payload) {
                    Some((columns, rows)) => FromClient::Resize(columns, rows),
                    None => continue,
                },
                CLOSE if can_close && payload.first() == Some(&STDIN) => FromClient::StdinClosed,
                _ => continue,
            };
            if to_process.send(told).await.is_err() {
                // The process is over; what its client still says is read away until it closes.
                continue;
            }
        }
        drop(to_process);
    };
    let writing = async {
        let empty = Message::Binary(Bytes::from(vec![first as u8]));
        if sink.send(empty).await.is_err() {
            return;
        }
        while let Some(told) = from_process.recv().await {
            let (channel, bytes) = match told {
                ToClient::Data(channel, bytes) => (channel, bytes),
                ToClient::Status(status) => (Channel::Error, Bytes::from(status)),
            };
            let mut frame = Vec::with_capacity(bytes.len() + 1);
            frame.push(channel as u8);
            frame.extend_from_slice(&bytes);
            if sink.send(Message::Binary(frame.into())).await.is_err() {
                return;
            }
        }
        let _ = sink.send(super::upgrade::farewell()).await;
        let _ = sink.close().await;
    };
    let running = run(streams, wanted, from_client, to_client);
    {
        tokio::pin!(reading);
        let work = async { tokio::join!(writing, running) };
        tokio::pin!(work);
        tokio::select! {
            _ = &mut work => see_off(reading).await,
            () = &mut reading => {
                // The client went away. The process hears it from its streams.
                work.await;
            }
        }
    }
    hang_up(sink, source).await;
}

async fn over_spdy<S>(connection: S, wanted: Wanted, streams: Result<Streams, String>)
where
    S: AsyncRead + tokio::io::AsyncWrite + Send,
{
    let (sender, mut opened) = mpsc::channel(QUEUE_MAX);
    let serving = spdy::serve(connection, sender);
    let talking = async {
        let needed = 1
            + usize::from(wanted.stdin)
            + usize::from(wanted.stdout)
            + usize::from(wanted.stderr)
            + usize::from(wanted.tty);
        let mut by_type = std::collections::BTreeMap::new();
        let collect = async {
            while by_type.len() < needed {
                let Some(stream) = opened.recv().await else { return };
                let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
                by_type.insert(kind, stream);
            }
        };
        if tokio::time::timeout(STREAMS_LIMIT, collect).await.is_err() {
            return tracing::debug!("a client did not open its streams in time");
        }
        let (to_process, from_client) = mpsc::channel(QUEUE_MAX);
        let (to_client, mut from_process) = mpsc::channel(QUEUE_MAX);
        let stdin = by_type.get_mut("stdin").map(|stream| std::mem::replace(&mut stream.incoming, mpsc::channel(1).1));
        let resize =
            by_type.get_mut("resize").map(|stream| std::mem::replace(&mut stream.incoming, mpsc::channel(1).1));
        let feed_stdin = feed(stdin, to_process.clone());
        let feed_resize = resizes(resize, to_process);
        let out = |name: &str| by_type.get(name).map(|stream| stream.outgoing.clone());
        let (stdout, stderr, error) = (out("stdout"), out("stderr"), out("error"));
        let writing = async {
            while let Some(told) = from_process.recv().await {
                match told {
                    ToClient::Data(Channel::Stdout, bytes) => send(&stdout, bytes).await,
                    ToClient::Data(_, bytes) => send(&stderr, bytes).await,
                    ToClient::Status(status) => send(&error, status.into()).await,
                }
            }
            for one in [&stdout, &stderr, &error].into_iter().flatten() {
                one.finish().await;
            }
            if let Some(error) = &error {
                error.close_connection().await;
            }
        };
        let feeding = async { tokio::join!(feed_stdin, feed_resize) };
        let running = async { tokio::join!(writing, run(streams, wanted, from_client, to_client)) };
        tokio::pin!(feeding, running);
        tokio::select! {
            _ = &mut running => {}
            _ = &mut feeding => drop(running.await),
        }
    };
    let (served, ()) = tokio::join!(serving, talking);
    if let Err(error) = served {
        tracing::debug!(%error, "a SPDY connection ended");
    }
}

async fn send(to: &Option<spdy::Outgoing>, bytes: Bytes) {
    if let Some(to) = to {
        to.send(bytes).await;
    }
}

async fn feed(source: Option<mpsc::Receiver<Bytes>>, into: mpsc::Sender<FromClient>) {
    let Some(mut source) = source else { return };
    while let Some(bytes) = source.recv().await {
        if into.send(FromClient::Stdin(bytes)).await.is_err() {
            return;
        }
    }
    let _ = into.send(FromClient::StdinClosed).await;
}

async fn resizes(source: Option<mpsc::Receiver<Bytes>>, into: mpsc::Sender<FromClient>) {
    let Some(mut source) = source else { return };
    while let Some(bytes) = source.recv().await {
        if let Some((columns, rows)) = resize_of(&bytes) {
            let _ = into.send(FromClient::Resize(columns, rows)).await;
        }
    }
}

/// Pumps between the process and the client until the process is over and its output is told.
async fn run(
    streams: Result<Streams, String>,
    wanted: Wanted,
    mut from_client: mpsc::Receiver<FromClient>,
    to_client: mpsc::Sender<ToClient>,
) {
    let streams = match streams {
        Ok(streams) => streams,
        Err(message) => return tell_end(&to_client, wanted.last_word, failure(&message)).await,
    };
    let Streams { mut stdin, stdout, stderr, resize, exit } = streams;
    if !wanted.stdin {
        stdin = None;
    }
    let input = async {
        while let Some(told) = from_client.recv().await {
            match told {
                FromClient::Stdin(bytes) => {
                    if let Some(pipe) = &mut stdin
                        && (pipe.write_all(&bytes).await.is_err() || pipe.flush().await.is_err())
                    {
                        stdin = None;
                    }
                }
                FromClient::StdinClosed => {
                    if let Some(mut pipe) = stdin.take() {
                        let _ = pipe.shutdown().await;
                    }
                }
                FromClient::Resize(columns, rows) => drop(resize.send((columns, rows)).await),
            }
        }
        // The client is gone: the process reads the end of its input.
        drop(stdin.take());
        std::future::pending::<()>().await;
    };
    let output = async {
        let out = pump(stdout.filter(|_| wanted.stdout), Channel::Stdout, &to_client);
        let err = pump(stderr.filter(|_| wanted.stderr), Channel::Stderr, &to_client);
        tokio::join!(out, err);
        exit.await
    };
    let code = tokio::select! {
        code = output => code,
        () = input => return,
    };
    let status = match code {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => exited(code),
        Err(_) => failure("the process was lost"),
    };
    tell_end(&to_client, wanted.last_word, status).await;
}

async fn tell_end(to_client: &mpsc::Sender<ToClient>, last_word: LastWord, status: serde_json::Value) {
    let text = match last_word {
        LastWord::Object => status.to_string(),
        LastWord::Text if status["status"] == "Success" => return,
        LastWord::Text => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    // A client that went away needs no last word.
    let _ = to_client.send(ToClient::Status(text)).await;
}

async fn pump(from: Option<Box<dyn AsyncRead + Send + Unpin>>, channel: Channel, to: &mpsc::Sender<ToClient>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(size) = from.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..size]);
        if size == 0 || to.send(ToClient::Data(channel, bytes)).await.is_err() {
            return;
        }
    }
}

fn exited(code: i32) -> serde_json::Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(message: &str) -> serde_json::Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: error executing command in container: {message}"),
    })
}

fn resize_of(bytes: &[u8]) -> Option<(u16, u16)> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let side = |key: &str| value[key].as_u64().and_then(|side| u16::try_from(side).ok());
    Some((side("Width")?, side("Height")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn a_connection_stands_until_the_client_has_heard_the_last_word_and_left() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let (exit, exited) = oneshot::channel();
        exit.send(3).unwrap();
        let stdout: Box<dyn AsyncRead + Send + Unpin> = Box::new(&b"bye"[..]);
        let resize = mpsc::channel(1).0;
        let streams = Streams { stdin: None, stdout: Some(stdout), stderr: None, resize, exit: exited };
        let wanted = Wanted { stdin: false, stdout: true, stderr: false, tty: true, last_word: LastWord::Object };
        let serving = tokio::spawn(over_websocket(server, "v5.channel.k8s.io", wanted, Ok(streams)));
        let mut heard = Vec::new();
        while let Some(Ok(Message::Binary(data))) = client.next().await {
            heard.push(data);
        }
        assert_eq!(heard[..2], [Bytes::from("\u{1}"), Bytes::from("\u{1}bye")]);
        assert!(String::from_utf8_lossy(&heard[2]).contains("exit code 3"), "{heard:?}");
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!serving.is_finished());
        assert!(client.next().await.is_none());
        serving.await.unwrap();
    }
}
