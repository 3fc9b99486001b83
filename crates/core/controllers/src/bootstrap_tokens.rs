//! What the controllers of bootstrap tokens share: the tokens as Secrets of `kube-system`, and the signature that a
//! token puts under public information. Sources: RFC 7515, RFC 2104.

use coracle_meta::Resource;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::certificate_request::{base64, to_base64};
use crate::shape::Item;

pub const SECRETS: Resource = Resource::new("", "secrets");
pub const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const BLOCK_BYTES: usize = 64;

pub fn is_token(secret: &Item) -> bool {
    secret.namespace() == NAMESPACE && secret.text("/type") == TYPE
}

/// One entry of a secret's data as text.
pub fn entry(secret: &Item, key: &str) -> String {
    let bytes = secret.at("/data").get(key).and_then(|value| base64(value.as_str()?)).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// When a token expires; an expiration that is no time is over already.
pub fn expires(secret: &Item) -> Option<Timestamp> {
    let text = entry(secret, "expiration");
    (!text.is_empty()).then(|| text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A detached JSON web signature of `content`, keyed by a token's secret.
pub fn signature(content: &str, token_id: &str, token_secret: &str) -> String {
    let header = url_safe(format!("{{\"alg\":\"HS256\",\"kid\":\"{token_id}\"}}").as_bytes());
    let signed = format!("{header}.{}", url_safe(content.as_bytes()));
    format!("{header}..{}", url_safe(&hmac(token_secret.as_bytes(), signed.as_bytes())))
}

fn url_safe(bytes: &[u8]) -> String {
    to_base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubeadm compares with. Source: Kubernetes `cluster-bootstrap/token/jws`.
    #[test]
    fn signatures_are_those_that_kubeadm_makes() {
        let content = "Hello from the other side. I must have called a thousand times.";
        let cases = [
            (content, "my voice is my passcode", "VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"),
            ("", "my voice is my passcode", "7Ui1ALizW4jXphVUB7xUqC9vLYLL9RZeOFfVLoB7Tgk"),
            (content, "", "UfkqvDGiIFxrMnFseDj9LYJOLNrvjW8aHhF71mvvAs8"),
        ];
        for (content, secret, code) in cases {
            let wanted = format!("eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..{code}");
            assert_eq!(signature(content, "joshua", secret), wanted, "{content:?} {secret:?}");
        }
    }

    #[test]
    fn the_code_is_that_of_rfc_4231() {
        let hex: String =
            hmac(b"Jefe", b"what do ya want for nothing?").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
