//! Signs certificate requests with the cluster's authority, as kube-controller-manager's signer does: subject and names
//! come from the request, usages and life from the order; and the tokens of service accounts that Secrets hold. Source:
//! Kubernetes `pkg/controller/certificates/authority/policies.go`.

use coracle_apiserver::Keys;
use coracle_controld::Signer;
use coracle_meta::Value;
use coracle_reconcile::SigningOrder;
use coracle_rt::Dice;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::pki::KeyPairPem;

/// Certificates are valid from a little before now, for machines whose clocks disagree.
const BACKDATE: Duration = Duration::minutes(5);
/// Certificates of a shorter life get it in full.
const SHORT: Duration = Duration::hours(8);

/// The keys that sign; without one of them, what needs it is refused.
pub struct Authority {
    pub certificates: Option<KeyPairPem>,
    /// Signs the tokens of service accounts, PEM.
    pub tokens: Option<String>,
}

impl Signer for Authority {
    fn sign(&self, order: &SigningOrder) -> Result<String, String> {
        let told = |error: rcgen::Error| error.to_string();
        let Some(KeyPairPem { certificate, key }) = &self.certificates else {
            return Err("this process has no signing authority".into());
        };
        let mut request = CertificateSigningRequestParams::from_pem(&order.request).map_err(told)?;
        refuse_repeated_names(&order.request)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key).map_err(told)?).map_err(told)?;
        let (key_usages, extended) = usages(&order.usages)?;
        let params = &mut request.params;
        (params.key_usages, params.extended_key_usages) = (key_usages, extended);
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(serial());
        let (from, to) = life(order.seconds, OffsetDateTime::now_utc(), end_of(certificate)?)?;
        (params.not_before, params.not_after) = (from, to);
        Ok(request.signed_by(&issuer).map_err(told)?.pem())
    }

    fn token(&self, claims: &serde_json::Value) -> Result<String, String> {
        let Some(key) = &self.tokens else { return Err("this process has no key for service accounts' tokens".into()) };
        let keys = Keys::new(std::slice::from_ref(key)).map_err(|error| error.to_string())?;
        let claims = Value::from_json(claims.to_string().as_bytes()).map_err(|error| error.to_string())?;
        keys.sign(&claims).ok_or_else(|| "the token could not be signed".into())
    }
}

/// The encoder keeps one value of each kind in a subject; losing a group silently would be worse than refusing.
fn refuse_repeated_names(pem: &str) -> Result<(), String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    let mut seen = Vec::new();
    for attribute in request.certification_request_info.subject.iter_attributes() {
        let kind = attribute.attr_type().to_id_string();
        if seen.contains(&kind) {
            return Err("a subject that names an attribute twice cannot be signed here".into());
        }
        seen.push(kind);
    }
    Ok(())
}

fn serial() -> SerialNumber {
    let digits = Dice::system().uuid().replace('-', "");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or(1);
    let mut bytes: Vec<u8> = (0..digits.len() / 2).map(|at| byte(at * 2)).collect();
    // Positive, whatever the dice said.
    bytes[0] = bytes[0] & 0x7f | 0x01;
    SerialNumber::from(bytes)
}

fn end_of(certificate: &str) -> Result<OffsetDateTime, String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|error| error.to_string())?;
    let parsed = block.parse_x509().map_err(|error| error.to_string())?;
    Ok(parsed.validity().not_after.to_datetime())
}

fn life(
    seconds: u64,
    now: OffsetDateTime,
    authority_ends: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), String> {
    if now >= authority_ends {
        return Err(format!("refusing to sign a certificate that expired in the past: NotAfter={authority_ends}"));
    }
    let life = Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
    let end = if life < SHORT { now + life } else { now + life - BACKDATE };
    Ok((now - BACKDATE, end.min(authority_ends)))
}

type Usages = (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>);

fn usages(names: &[String]) -> Result<Usages, String> {
    let (mut plain, mut extended, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match (usage(name), extended_usage(name)) {
            (Some(usage), _) if !plain.contains(&usage) => plain.push(usage),
            (None, Some(usage)) if !extended.contains(&usage) => extended.push(usage),
            (None, None) => unknown.push(name),
            _ => {}
        }
    }
    if unknown.is_empty() { Ok((plain, extended)) } else { Err(format!("unrecognized usage values: {unknown:?}")) }
}

fn usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    let pkix = |last| ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, last]);
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "ipsec end system" => pkix(5),
        "ipsec tunnel" => pkix(6),
        "ipsec user" => pkix(7),
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        "microsoft sgc" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => ExtendedKeyUsagePurpose::Other(vec![2, 16, 840, 1, 113730, 4, 1]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Names, Pki};
    use rcgen::{CertificateParams, DnType};

    #[test]
    fn a_request_is_signed_as_ordered_and_no_longer_than_the_authority_lives() {
        let folder = std::env::temp_dir().join(format!("coracle-signing-{}", std::process::id()));
        let pki = Pki::ensure(&folder, &Names { node_name: "n", addresses: Vec::new() }).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jane");
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let order = |usages: &[&str]| SigningOrder {
            request: request.clone(),
            usages: usages.iter().map(|&usage| usage.to_owned()).collect(),
            seconds: 3600,
        };
        let authority = Authority { certificates: Some(pki.authority()), tokens: None };
        let pem = authority.sign(&order(&["client auth", "digital signature"])).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=jane");
        let validity = certificate.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3900);
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(authority.sign(&order(&["flying"])).unwrap_err().contains("unrecognized usage values"));
    }
}
