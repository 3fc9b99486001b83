//! Service accounts' tokens as JSON web tokens: signed with ES256 or RS256, verified with every key the server knows,
//! published as a key set. Sources: RFC 7515, RFC 7517, RFC 7518.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_meta::Value;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use sha2::{Digest, Sha256};

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the service-account key is no PEM private key")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("the service-account key is neither a P-256 nor an RSA key")]
    Algorithm,
}

/// The keys of service accounts' tokens: the first signs, all verify.
pub struct Keys {
    keys: Vec<Key>,
}

struct Key {
    id: String,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Keys {
    /// Private keys in PEM (PKCS 8, SEC 1 or PKCS 1), the signing one first.
    pub fn new(pems: &[String]) -> Result<Keys, KeyError> {
        let keys = pems.iter().map(|pem| Key::read(pem)).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::Algorithm) } else { Ok(Keys { keys }) }
    }

    /// A signed token; `None` where signing itself fails.
    pub fn sign(&self, claims: &Value) -> Option<String> {
        let key = self.keys.first()?;
        let header = json!({"alg": key.algorithm(), "kid": key.id}).to_string();
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_json()));
        let signature = key.sign(input.as_bytes())?;
        Some(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that one of the keys signed. Times and audiences are the caller's to check.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let (input, signature) = token.rsplit_once('.')?;
        let (header, claims) = input.split_once('.')?;
        let header = Value::from_json(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let (algorithm, id) = (header.str_at(&["alg"]), header.str_at(&["kid"]));
        let mut candidates =
            self.keys.iter().filter(|key| key.algorithm() == algorithm && (id.is_empty() || key.id == id));
        candidates.find(|key| key.verify(input.as_bytes(), &signature))?;
        Value::from_json(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The public keys as a JSON web key set.
    pub fn key_set(&self) -> serde_json::Value {
        json!({"keys": self.keys.iter().filter_map(Key::public).collect::<Vec<_>>()})
    }

    pub fn algorithms(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.keys.iter().map(Key::algorithm).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Key {
    fn read(pem: &str) -> Result<Key, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(KeyError::Pem)?;
        let bytes = der.secret_der();
        let ec = match &der {
            PrivateKeyDer::Pkcs8(_) => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes),
            _ => EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes),
        };
        if let Ok(pair) = ec {
            let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key());
            let public = public.map_err(|_| KeyError::Algorithm)?;
            return Ok(Key { id: key_id(public.as_ref()), pair: Pair::Ec(pair) });
        }
        let rsa = RsaKeyPair::from_pkcs8(bytes).or_else(|_| RsaKeyPair::from_der(bytes));
        let pair = rsa.map_err(|_| KeyError::Algorithm)?;
        let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key());
        let public = public.map_err(|_| KeyError::Algorithm)?;
        Ok(Key { id: key_id(public.as_ref()), pair: Pair::Rsa(Box::new(pair)) })
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    fn sign(&self, input: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair) => Some(pair.sign(&random, input).ok()?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).ok()?;
                Some(signature)
            }
        }
    }

    fn verify(&self, input: &[u8], signature: &[u8]) -> bool {
        match &self.pair {
            Pair::Ec(pair) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key()).verify(input, signature).is_ok()
            }
            Pair::Rsa(pair) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key()).verify(input, signature).is_ok()
            }
        }
    }

    fn public(&self) -> Option<serde_json::Value> {
        let (id, algorithm) = (&self.id, self.algorithm());
        match &self.pair {
            Pair::Ec(pair) => {
                // Uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref();
                let (x, y) = (URL_SAFE_NO_PAD.encode(point.get(1..33)?), URL_SAFE_NO_PAD.encode(point.get(33..65)?));
                Some(json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": algorithm, "x": x, "y": y}))
            }
            Pair::Rsa(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref())?;
                let (n, e) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode(exponent));
                Some(json!({"use": "sig", "kty": "RSA", "kid": id, "alg": algorithm, "n": n, "e": e}))
            }
        }
    }
}

/// As kube-apiserver names keys: the digest of the public key's PKIX form.
fn key_id(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(public))
}

/// Modulus and exponent of a DER `RSAPublicKey`, without leading zeros.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, _) = der_element(der, 0x30)?;
    let (modulus, rest) = der_element(body, 0x02)?;
    let (exponent, _) = der_element(rest, 0x02)?;
    Some((strip_zero(modulus), strip_zero(exponent)))
}

fn strip_zero(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

fn der_element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().try_fold(0usize, |sum, digit| sum.checked_mul(256)?.checked_add(usize::from(*digit)))?, rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Keys::new(&[pair.serialize_pem()]).unwrap()
    }

    #[test]
    fn a_token_is_read_by_its_own_key_only() {
        let keys = keys();
        let mut claims = Value::map();
        claims.set(&["sub"], "x");
        let token = keys.sign(&claims).unwrap();
        assert_eq!(keys.verify(&token), Some(claims));
        assert_eq!(self::keys().verify(&token), None);
        assert_eq!(keys.verify(&token.replace('.', ".A")), None);
        assert_eq!(keys.verify("a.b"), None);
    }

    #[test]
    fn the_key_set_holds_no_secret() {
        let set = keys().key_set();
        assert_eq!(set["keys"][0]["kty"], "EC");
        assert!(set["keys"][0].get("d").is_none());
    }
}
