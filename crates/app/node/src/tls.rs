//! TLS settings of the listeners and of the API server as a client of kubelets, made from the cluster's certificates.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::pki::KeyPairPem;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading a certificate or key")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("setting up TLS")]
    Setup(#[from] rustls::Error),
    #[error("setting up the check of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A listener's settings: it presents `identity` and believes clients' certificates of `ca`, which none need show.
/// HTTP/2 is offered first where it is.
pub fn server(identity: &KeyPairPem, ca: &str, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone());
    let verifier = verifier.allow_unauthenticated();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain(identity)?, key(identity)?)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A listener's settings: it presents `identity` and asks clients for no certificate.
pub fn server_of_anyone(identity: &KeyPairPem) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain(identity)?, key(identity)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client's settings: it shows `identity` and trusts servers of `ca`.
pub fn client(identity: &KeyPairPem, ca: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain(identity)?, key(identity)?)?;
    Ok(Arc::new(config))
}

fn roots(ca: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

fn chain(identity: &KeyPairPem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    Ok(CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>()?)
}

fn key(identity: &KeyPairPem) -> Result<PrivateKeyDer<'static>, TlsError> {
    Ok(PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?)
}
