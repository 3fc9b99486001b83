//! A client of the Kubernetes API: the same verbs in-process and over HTTPS. It knows no kind; what differs between
//! the two is the transport.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_meta::Status;
use http_body_util::combinators::UnsyncBoxBody;

pub mod discovery;
pub mod https;
pub mod kubeconfig;
pub mod path;
pub mod remote;
pub mod tls;
pub mod typed;
pub mod unverified;
pub mod verbs;
pub mod watch;

pub use discovery::Discovered;
pub use https::HttpsTransport;
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use path::{ObjectPath, ResourceRef};
pub use remote::{Follow, RemoteView};
pub use verbs::{DeleteOptions, ListOptions, Listed, Made, Patch, WriteOptions};
pub use watch::{WatchEvent, WatchOptions, WatchStream};

/// Bodies of answers: whole, or frames of a watch or a log as they come.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered, with a failure.
    #[error(transparent)]
    Status(#[from] Status),
    #[error("sending request to {uri}")]
    Transport {
        uri: String,
        #[source]
        source: BodyError,
    },
    #[error("decoding the answer of {uri}")]
    Decode {
        uri: String,
        #[source]
        source: BodyError,
    },
}

impl ClientError {
    /// The server's answer; for what went wrong on the way, a status that says so.
    pub fn into_status(self) -> Status {
        match self {
            ClientError::Status(status) => status,
            other => {
                let source = std::error::Error::source(&other).map(ToString::to_string).unwrap_or_default();
                Status::new(503, "ServiceUnavailable", format!("{other}: {source}"))
            }
        }
    }
}

/// Carries one request to an API server and its answer back, headers first. The request's URI is a path with a query.
#[async_trait]
pub trait Transport: Send + Sync {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError>;
}

/// Verbs over a transport. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub transport: Arc<dyn Transport>,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>) -> Client {
        Client { transport }
    }

    /// Over HTTPS to the current context of a kubeconfig. Its connections live in `scope`.
    pub fn from_kubeconfig(scope: &coracle_rt::Scope, kubeconfig: &Kubeconfig) -> Result<Client, KubeconfigError> {
        Ok(Client::new(Arc::new(HttpsTransport::from_kubeconfig(scope, kubeconfig)?)))
    }
}
