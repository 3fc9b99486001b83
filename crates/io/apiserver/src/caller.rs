//! Where a request comes in: a socket, whose proofs are still to be judged, or a component of this process, whose
//! identity was settled when it was wired. No socket can produce the second.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{Body, BodyError, Transport};
use coracle_meta::User;

use crate::server::Server;

#[derive(Clone, Debug)]
pub enum Caller {
    /// `certificate` is the user that a verified client certificate names, read once per connection.
    Socket {
        certificate: Option<Arc<User>>,
        address: IpAddr,
    },
    Local(Identity),
}

/// The identity of an in-process component: the one it would prove if it ran alone.
#[derive(Clone, Debug)]
pub struct Identity(Arc<User>);

impl Identity {
    pub fn new(user: User) -> Identity {
        Identity(Arc::new(user))
    }

    /// A controller's service account in `kube-system`.
    pub fn controller(name: &str) -> Identity {
        Identity::new(User::service_account("kube-system", name))
    }

    pub fn controller_manager() -> Identity {
        Identity::new(User::new("system:kube-controller-manager", &[]))
    }

    pub fn scheduler() -> Identity {
        Identity::new(User::new("system:kube-scheduler", &[]))
    }

    pub fn node(name: &str) -> Identity {
        Identity::new(User::node(name))
    }

    pub fn admin() -> Identity {
        Identity::new(User::admin())
    }

    pub fn user(&self) -> &Arc<User> {
        &self.0
    }
}

/// Reaches the server without a socket. It skips TLS and nothing else.
pub struct LocalTransport {
    pub server: Arc<Server>,
    pub identity: Identity,
}

#[async_trait]
impl Transport for LocalTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        Ok(self.server.call(Caller::Local(self.identity.clone()), request).await)
    }
}
