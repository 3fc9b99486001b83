//! A client of the Kubernetes API: the same verbs in-process and over HTTPS. It knows no kind; what differs between
//! the two is the transport.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_meta::Status;
use http_body_util::combinators::UnsyncBoxBody;

/// Bodies of answers: whole, or frames of a watch or a log as they come.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered, with a failure.
    #[error(transparent)]
    Status(#[from] Status),
    #[error("sending request to {uri}")]
    Transport { uri: String, #[source] source: BodyError },
    #[error("decoding the answer of {uri}")]
    Decode { uri: String, #[source] source: serde_json::Error },
}

/// Carries one request to an API server and its answer back, headers first.
#[async_trait]
pub trait Transport: Send + Sync {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError>;
}

/// Verbs over a transport. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub transport: Arc<dyn Transport>,
}
