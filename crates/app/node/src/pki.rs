//! The cluster's certificates and keys: made at the first start, renewed at a start past two thirds of their life.
//! P-256 throughout. Subjects follow kubeadm, because clients and roles know them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};

use crate::files::{private_dir, write_private};

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;

/// A certificate chain and its key, as PEM.
#[derive(Clone)]
pub struct KeyPairPem {
    pub certificate: String,
    pub key: String,
}

/// Everything a cluster on one machine presents or trusts.
#[derive(Clone)]
pub struct Pki {
    /// The cluster's certificate authority, PEM.
    pub ca: String,
    ca_key: String,
    /// What the API server presents.
    pub api_server: KeyPairPem,
    /// What the API server shows kubelets.
    pub api_server_kubelet_client: KeyPairPem,
    /// What the kubelet presents.
    pub kubelet: KeyPairPem,
    /// The administrator, in `system:masters`.
    pub admin: KeyPairPem,
    /// Signs service-account tokens: a P-256 key in PKCS#8.
    pub service_account_key: String,
}

/// Whom the serving certificates are for.
pub struct Names<'a> {
    pub node_name: &'a str,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("making certificate {name}")]
    Make {
        name: &'static str,
        #[source]
        source: rcgen::Error,
    },
}

impl Pki {
    /// Reads what is in `folder` and makes what is missing, stale or for other names.
    pub fn ensure(folder: &Path, names: &Names<'_>) -> Result<Pki, PkiError> {
        private_dir(folder).map_err(|source| PkiError::File { path: folder.into(), source })?;
        let mint = Mint { folder, ca: ensure_ca(folder)? };
        let server_names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            names.node_name,
        ];
        let kubelet_user = format!("system:node:{}", names.node_name);
        Ok(Pki {
            api_server: mint.leaf("apiserver", &Subject::server("kube-apiserver", &server_names, &names.addresses))?,
            api_server_kubelet_client: mint.leaf(
                "apiserver-kubelet-client",
                &Subject::client("kube-apiserver-kubelet-client", "system:masters"),
            )?,
            kubelet: mint.leaf(
                "kubelet",
                &Subject {
                    organization: Some("system:nodes"),
                    ..Subject::server(&kubelet_user, &[names.node_name], &names.addresses)
                },
            )?,
            admin: mint.leaf("admin", &Subject::client("kubernetes-admin", "system:masters"))?,
            service_account_key: ensure_key(&folder.join("sa.key"))?,
            ca: mint.ca.certificate,
            ca_key: mint.ca.key,
        })
    }

    /// Reads what [`Pki::ensure`] left in a folder and makes nothing.
    pub fn read(folder: &Path) -> Result<Pki, PkiError> {
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| PkiError::File { path, source })
        };
        let pair = |name: &str| {
            Ok(KeyPairPem { certificate: text(&format!("{name}.crt"))?, key: text(&format!("{name}.key"))? })
        };
        let ca = pair("ca")?;
        Ok(Pki {
            api_server: pair("apiserver")?,
            api_server_kubelet_client: pair("apiserver-kubelet-client")?,
            kubelet: pair("kubelet")?,
            admin: pair("admin")?,
            service_account_key: text("sa.key")?,
            ca: ca.certificate,
            ca_key: ca.key,
        })
    }

    /// A client's certificate, kept in `folder` under `name`: the user it is for and the group, if any.
    pub fn client(
        &self,
        folder: &Path,
        name: &'static str,
        user: &str,
        group: Option<&str>,
    ) -> Result<KeyPairPem, PkiError> {
        let subject = Subject { organization: group, ..Subject::client(user, "") };
        Mint { folder, ca: self.authority() }.leaf(name, &subject)
    }

    /// The authority itself, for what signs certificate requests.
    pub fn authority(&self) -> KeyPairPem {
        KeyPairPem { certificate: self.ca.clone(), key: self.ca_key.clone() }
    }
}

struct Subject<'a> {
    common_name: &'a str,
    organization: Option<&'a str>,
    dns_names: Vec<&'a str>,
    addresses: Vec<IpAddr>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl<'a> Subject<'a> {
    fn client(common_name: &'a str, organization: &'a str) -> Subject<'a> {
        Subject {
            common_name,
            organization: Some(organization),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    fn server(common_name: &'a str, dns_names: &[&'a str], addresses: &[IpAddr]) -> Subject<'a> {
        Subject {
            common_name,
            organization: None,
            dns_names: dns_names.to_vec(),
            addresses: addresses.to_vec(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }

    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        if let Some(organization) = self.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        for name in &self.dns_names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        params.subject_alt_names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = self.usages.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        set_life(&mut params, LEAF_DAYS);
        Ok(params)
    }
}

struct Mint<'a> {
    folder: &'a Path,
    ca: KeyPairPem,
}

impl Mint<'_> {
    fn leaf(&self, name: &'static str, subject: &Subject<'_>) -> Result<KeyPairPem, PkiError> {
        if let Some(found) = read_pair(self.folder, name)
            && is_fresh(&found.certificate)
            && is_for(&found.certificate, subject)
        {
            return Ok(found);
        }
        let made = self.sign(subject).map_err(|source| PkiError::Make { name, source })?;
        write_pair(self.folder, name, &made)?;
        Ok(made)
    }

    fn sign(&self, subject: &Subject<'_>) -> Result<KeyPairPem, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca.certificate, KeyPair::from_pem(&self.ca.key)?)?;
        let key = KeyPair::generate()?;
        let certificate = subject.params()?.signed_by(&key, &issuer)?;
        Ok(KeyPairPem { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn ensure_ca(folder: &Path) -> Result<KeyPairPem, PkiError> {
    if let Some(found) = read_pair(folder, "ca") {
        return Ok(found);
    }
    let make = || -> Result<KeyPairPem, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_life(&mut params, CA_DAYS);
        let certificate = params.self_signed(&key)?;
        Ok(KeyPairPem { certificate: certificate.pem(), key: key.serialize_pem() })
    };
    let made = make().map_err(|source| PkiError::Make { name: "ca", source })?;
    write_pair(folder, "ca", &made)?;
    Ok(made)
}

fn ensure_key(path: &Path) -> Result<String, PkiError> {
    if let Ok(found) = std::fs::read_to_string(path) {
        return Ok(found);
    }
    let key = KeyPair::generate().map_err(|source| PkiError::Make { name: "sa", source })?.serialize_pem();
    write_private(path, key.as_bytes()).map_err(|source| PkiError::File { path: path.into(), source })?;
    Ok(key)
}

/// A certificate for a server that nobody vouches for.
pub fn unsigned(name: &str, address: IpAddr) -> Result<KeyPairPem, PkiError> {
    let make = || -> Result<KeyPairPem, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = Subject::server(name, &[name], &[address]).params()?.self_signed(&key)?;
        Ok(KeyPairPem { certificate: certificate.pem(), key: key.serialize_pem() })
    };
    make().map_err(|source| PkiError::Make { name: "server", source })
}

/// Valid from five minutes ago, for machines whose clocks disagree a little.
fn set_life(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(days);
}

fn read_pair(folder: &Path, name: &str) -> Option<KeyPairPem> {
    let certificate = std::fs::read_to_string(folder.join(format!("{name}.crt"))).ok()?;
    let key = std::fs::read_to_string(folder.join(format!("{name}.key"))).ok()?;
    Some(KeyPairPem { certificate, key })
}

fn write_pair(folder: &Path, name: &str, pair: &KeyPairPem) -> Result<(), PkiError> {
    for (suffix, content) in [("key", &pair.key), ("crt", &pair.certificate)] {
        let path = folder.join(format!("{name}.{suffix}"));
        write_private(&path, content.as_bytes()).map_err(|source| PkiError::File { path, source })?;
    }
    Ok(())
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T) -> Option<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    Some(read(&certificate))
}

/// Whether less than two thirds of the certificate's life are over.
fn is_fresh(pem: &str) -> bool {
    let life = with_certificate(pem, |certificate| {
        let validity = certificate.validity();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    });
    life.is_some_and(|(from, to)| OffsetDateTime::now_utc().unix_timestamp() < from + (to - from) / 3 * 2)
}

/// Whether the certificate names this subject and every name and address it needs.
fn is_for(pem: &str, subject: &Subject<'_>) -> bool {
    with_certificate(pem, |certificate| {
        let mut common_names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let names = certificate.subject_alternative_name().ok().flatten();
        let covers = |wanted: &x509_parser::extensions::GeneralName<'_>| {
            names.as_ref().is_some_and(|names| names.value.general_names.contains(wanted))
        };
        common_names.any(|name| name == subject.common_name)
            && subject.dns_names.iter().all(|name| covers(&x509_parser::extensions::GeneralName::DNSName(name)))
            && subject.addresses.iter().all(|address| match address {
                IpAddr::V4(v4) => covers(&x509_parser::extensions::GeneralName::IPAddress(&v4.octets())),
                IpAddr::V6(v6) => covers(&x509_parser::extensions::GeneralName::IPAddress(&v6.octets())),
            })
    })
    .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_until_their_names_change() {
        let folder = std::env::temp_dir().join(format!("coracle-pki-{}", std::process::id()));
        let names = |address: [u8; 4]| Names { node_name: "n1", addresses: vec![address.into()] };
        let first = Pki::ensure(&folder, &names([127, 0, 0, 1])).unwrap();
        let again = Pki::ensure(&folder, &names([127, 0, 0, 1])).unwrap();
        let moved = Pki::ensure(&folder, &names([10, 0, 0, 1])).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(first.api_server.certificate, again.api_server.certificate);
        assert_ne!(first.api_server.certificate, moved.api_server.certificate);
        assert_eq!(first.admin.certificate, moved.admin.certificate);
    }
}
