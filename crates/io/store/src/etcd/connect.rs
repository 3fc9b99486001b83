//! The way to etcd: one HTTP/2 connection, over TLS where the address says https.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_proto::etcd::StatusRequest;
use coracle_proto::etcd::maintenance_client::MaintenanceClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{EtcdError, EtcdOptions};

const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A channel to the first endpoint that answers, and its etcd's version.
pub async fn connect(options: &EtcdOptions) -> Result<(Channel, String), EtcdError> {
    let tls = tls_config(options)?;
    let mut why = String::from("no address is given");
    for address in &options.endpoints {
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|_| EtcdError::Address(address.clone()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(false);
        let tls = tls.clone();
        let connector = tower::service_fn(move |uri: Uri| dial(uri, tls.clone()));
        match endpoint.connect_with_connector(connector).await {
            Err(error) => why = chain(&error),
            Ok(channel) => match MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await {
                Ok(status) => return Ok((channel, status.into_inner().version)),
                Err(status) => why = status.message().to_owned(),
            },
        }
    }
    Err(EtcdError::Unreachable { endpoints: options.endpoints.join(","), why })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn dial(uri: Uri, tls: Arc<ClientConfig>) -> std::io::Result<TokioIo<Box<dyn Stream>>> {
    let host = uri.host().ok_or_else(|| std::io::Error::other("the address has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(2379))).await?;
    stream.set_nodelay(true)?;
    if uri.scheme_str() != Some("https") {
        return Ok(TokioIo::new(Box::new(stream)));
    }
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    Ok(TokioIo::new(Box::new(TlsConnector::from(tls).connect(name, stream).await?)))
}

fn tls_config(options: &EtcdOptions) -> Result<Arc<ClientConfig>, EtcdError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| unusable(file, error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider speaks the default versions").with_root_certificates(roots);
    let mut config = match (&options.cert_file, &options.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let read = std::fs::read(key).map_err(|source| EtcdError::Read { file: key.clone(), source })?;
            let private = PrivateKeyDer::from_pem_slice(&read).map_err(|error| unusable(key, error))?;
            let identity = builder.with_client_auth_cert(certificates(certificate)?, private);
            identity.map_err(|error| unusable(certificate, error))?
        }
        _ => return Err(EtcdError::HalfIdentity),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
    let bytes = std::fs::read(file).map_err(|source| EtcdError::Read { file: file.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found.map_err(|error| unusable(file, error))? {
        none if none.is_empty() => Err(unusable(file, "there is none")),
        found => Ok(found),
    }
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> EtcdError {
    EtcdError::Certificate { file: file.to_owned(), why: why.to_string() }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
