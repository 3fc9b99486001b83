//! TLS towards an API server: whom we trust and what certificate we show.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::kubeconfig::{Cluster, Kubeconfig, KubeconfigError, User};
use crate::unverified::Anybody;

/// Where Linux distributions keep the certificate authorities that a machine trusts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The TLS settings of a kubeconfig's cluster and user.
pub fn client_config(config: &Kubeconfig, cluster: &Cluster, user: &User) -> Result<ClientConfig, KubeconfigError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if cluster.insecure_skip_tls_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(authorities(config, cluster)?)
    };
    let certificate = config.load(
        "client-certificate",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key = config.load("client-key", user.client_key_data.as_deref(), user.client_key.as_deref())?;
    let mut tls = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("client-certificate", &certificate)?;
            builder.with_client_auth_cert(chain, private_key(&key)?)?
        }
        _ => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn authorities(config: &Kubeconfig, cluster: &Cluster) -> Result<RootCertStore, KubeconfigError> {
    let (data, file) = (cluster.certificate_authority_data.as_deref(), cluster.certificate_authority.as_deref());
    let pem = match config.load("certificate-authority", data, file)? {
        Some(pem) => pem,
        None => SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default(),
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("certificate-authority", &pem)?);
    Ok(roots)
}

fn certificates(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, KubeconfigError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    parsed.map_err(|why| KubeconfigError::Invalid { field, why: why.to_string() })
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KubeconfigError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|why| KubeconfigError::Invalid { field: "client-key", why: why.to_string() })
}
