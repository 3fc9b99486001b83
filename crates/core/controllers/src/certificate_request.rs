//! What the controllers of CertificateSigningRequests share: the request as X.509 has it, its state, and what the
//! signers of Kubernetes allow. Source of the rules: Kubernetes `pkg/apis/certificates/helpers.go`.

use std::collections::BTreeSet;

use coracle_meta::Resource;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::shape::Item;

pub const REQUESTS: Resource = Resource::new("certificates.k8s.io", "certificatesigningrequests");
/// All of them speak as this.
pub const COMPONENT: &str = "certificate-controller";
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// The parts of a request that decide who may have it.
#[derive(Debug, Default)]
pub struct Asked {
    pub common_name: String,
    organizations: Vec<String>,
    dns_names: usize,
    addresses: usize,
    mails: usize,
    uris: usize,
}

/// PEM, as `spec.request` holds it in base64.
pub fn pem(request: &Item) -> Option<String> {
    String::from_utf8(base64(request.text("/spec/request"))?).ok()
}

/// Standard base64 with padding.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits = text.trim_end_matches('=').bytes().filter(|byte| !byte.is_ascii_whitespace());
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        held = held << 6 | u32::from(value(digit)?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// The counterpart of [`base64`].
pub fn to_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let held = (0..3).fold(0_u32, |held, at| held << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[(held >> (18 - 6 * at) & 0x3f) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

impl Asked {
    /// `None` for what is no request.
    pub fn parse(pem: &str) -> Option<Asked> {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let mut asked = Asked::default();
        asked.common_name.extend(subject.iter_common_name().last().and_then(|name| name.as_str().ok()));
        let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok());
        asked.organizations = organizations.map(str::to_owned).collect();
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => asked.dns_names += 1,
                    GeneralName::IPAddress(_) => asked.addresses += 1,
                    GeneralName::RFC822Name(_) => asked.mails += 1,
                    GeneralName::URI(_) => asked.uris += 1,
                    _ => {}
                }
            }
        }
        Some(asked)
    }

    fn is_of_nodes(&self) -> Result<(), String> {
        if self.organizations == ["system:nodes"] {
            return Ok(());
        }
        Err("subject organization is not system:nodes".into())
    }

    fn names_node(&self) -> Result<(), String> {
        if self.common_name.starts_with("system:node:") {
            return Ok(());
        }
        Err("subject common name does not begin with system:node:".into())
    }

    /// Whether this is how kubelets ask for client certificates.
    pub fn kubelet_client(&self, usages: &[&str]) -> Result<(), String> {
        self.is_of_nodes()?;
        let names = [("DNS", self.dns_names), ("Email", self.mails), ("IP", self.addresses), ("URI", self.uris)];
        if let Some((kind, _)) = names.iter().find(|(_, count)| *count > 0) {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
        self.names_node()?;
        exactly(usages, "client auth")
    }

    fn kubelet_serving(&self, usages: &[&str]) -> Result<(), String> {
        self.is_of_nodes()?;
        if self.dns_names + self.addresses == 0 {
            return Err("DNS or IP subjectAltName is required".into());
        }
        for (kind, count) in [("Email", self.mails), ("URI", self.uris)] {
            if count > 0 {
                return Err(format!("{kind} subjectAltNames are not allowed"));
            }
        }
        exactly(usages, "server auth")?;
        self.names_node()
    }

    /// Whether a signer signs this; the error is told in the request's `Failed` condition.
    pub fn check(&self, signer: &str, usages: &[&str]) -> Result<(), String> {
        match signer {
            KUBELET_CLIENT => self.kubelet_client(usages),
            KUBELET_SERVING => self.kubelet_serving(usages),
            CLIENT => client(usages),
            _ => Ok(()),
        }
    }
}

/// Keys that are no RSA keys need no encipherment.
fn exactly(usages: &[&str], purpose: &str) -> Result<(), String> {
    let asked: BTreeSet<&str> = usages.iter().copied().collect();
    let wanted = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    let fewer = BTreeSet::from(["digital signature", purpose]);
    if asked == wanted || asked == fewer {
        return Ok(());
    }
    let list: Vec<&str> = if purpose < "digital signature" {
        vec![purpose, "digital signature", "key encipherment"]
    } else {
        vec!["digital signature", "key encipherment", purpose]
    };
    Err(format!("usages did not match [{}]", list.join(" ")))
}

fn client(usages: &[&str]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.contains(&"client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".into())
}

pub fn usages(request: &Item) -> Vec<&str> {
    request.list("/spec/usages").iter().filter_map(Value::as_str).collect()
}

/// Whether a condition of this type is there, whatever its status: those of requests are true or absent.
pub fn has(request: &Item, kind: &str) -> bool {
    request.list("/status/conditions").iter().any(|condition| condition["type"] == kind)
}

pub fn is_issued(request: &Item) -> bool {
    !request.text("/status/certificate").is_empty()
}

/// When the issued certificate expires.
pub fn expires(request: &Item) -> Option<Timestamp> {
    let bytes = base64(request.text("/status/certificate"))?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&bytes).ok()?;
    let certificate = block.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_both_ways() {
        for text in ["", "a", "ab", "abc", "abcd\n\u{ff}"] {
            assert_eq!(base64(&to_base64(text.as_bytes())).unwrap(), text.as_bytes());
        }
        assert_eq!(to_base64(b"hello"), "aGVsbG8=");
        assert_eq!(base64("!"), None);
    }

    #[test]
    fn signers_are_strict_about_kubelets() {
        let node = |common_name: &str, dns_names| Asked {
            common_name: common_name.into(),
            organizations: vec!["system:nodes".into()],
            dns_names,
            ..Asked::default()
        };
        let (client, server) = (["client auth", "digital signature"], ["server auth", "digital signature"]);
        let cases = [
            (node("system:node:a", 0), KUBELET_CLIENT, &client, ""),
            (node("system:node:a", 1), KUBELET_CLIENT, &client, "DNS subjectAltNames are not allowed"),
            (node("a", 0), KUBELET_CLIENT, &client, "subject common name does not begin with system:node:"),
            (Asked::default(), KUBELET_CLIENT, &client, "subject organization is not system:nodes"),
            (node("system:node:a", 1), KUBELET_SERVING, &server, ""),
            (node("system:node:a", 0), KUBELET_SERVING, &server, "DNS or IP subjectAltName is required"),
            (Asked::default(), CLIENT, &server, "invalid usage for client certificate: server auth"),
            (Asked::default(), LEGACY_UNKNOWN, &server, ""),
        ];
        for (asked, signer, usages, expected) in cases {
            assert_eq!(asked.check(signer, usages).err().unwrap_or_default(), expected, "{asked:?} {signer}");
        }
    }
}
