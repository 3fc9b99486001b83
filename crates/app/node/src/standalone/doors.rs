//! Where a scheduler or controller manager that runs alone shows its health and metrics: the ports, flags and files of
//! kube-scheduler and kube-controller-manager.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_client::Client;
use coracle_controld::Doors;
use coracle_rt::Scope;
use tokio::net::TcpListener;

use super::{StandaloneError, read};
use crate::pki::{self, KeyPairPem};
use crate::tls;
use crate::up::StartError;

/// Where to listen, and with which certificate.
#[derive(Clone, Debug)]
pub struct DoorOptions {
    pub address: IpAddr,
    /// 0 for nowhere; without one, the component's own port if it is free.
    pub port: Option<u16>,
    /// Certificate and key; without them one is made that nobody has signed.
    pub files: Option<(PathBuf, PathBuf)>,
}

impl DoorOptions {
    /// Serves until the scope ends. `port` is the component's own.
    pub(super) async fn open(
        &self,
        scope: &Scope,
        port: u16,
        client: Client,
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<Option<String>, StandaloneError> {
        let chosen = self.port.unwrap_or(port);
        if chosen == 0 {
            return Ok(None);
        }
        let listener = match TcpListener::bind((self.address, chosen)).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse && self.port.is_none() => {
                return Ok(Some(format!("port {port} is taken: no metrics are shown (--secure-port chooses another)")));
            }
            Err(source) => return Err(StartError::Listen { port: chosen, source }.into()),
        };
        let identity = match &self.files {
            Some((certificate, key)) => KeyPairPem { certificate: read(certificate)?, key: read(key)? },
            None => pki::unsigned("localhost", self.address)?,
        };
        let doors = Doors { client, metrics: Box::new(metrics) };
        doors.serve(&scope.child("doors"), listener, tls::server_of_anyone(&identity)?);
        Ok(None)
    }
}

/// Metrics that are there once a component has begun.
#[derive(Default)]
pub(super) struct Later<T>(Arc<std::sync::OnceLock<Arc<T>>>);

impl<T> Later<T> {
    pub fn set(&self, metrics: Arc<T>) {
        let _ = self.0.set(metrics);
    }

    pub fn text(&self, text: fn(&T) -> String) -> impl Fn() -> String + use<T> {
        let place = self.0.clone();
        move || place.get().map(|metrics| text(metrics)).unwrap_or_default()
    }
}
