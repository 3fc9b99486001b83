//! Tokens whose signature held: it is checked once for each token and not with every request. What a token says of
//! times and live objects is not remembered, it is looked at every time.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_meta::Value;
use parking_lot::Mutex;

use super::{bound, legacy};

/// Of each generation. When the young one is full it becomes the old one, and what the old one held and nobody used
/// meanwhile is forgotten.
const TOKENS_MAX: usize = 1024;

/// What a token says, by who issued it.
pub enum Claims {
    Bound(Box<bound::Claims>),
    Legacy(Value),
}

#[derive(Default)]
pub struct Genuine(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, Arc<Claims>>,
    old: HashMap<Box<str>, Arc<Claims>>,
}

impl Genuine {
    /// The claims of a token that was signed here, read by `read` where it was not seen before.
    pub fn get(&self, token: &str, read: impl FnOnce() -> Option<Claims>) -> Option<Arc<Claims>> {
        if let Some(claims) = self.0.lock().find(token) {
            return Some(claims);
        }
        let claims = Arc::new(read()?);
        self.0.lock().put(token.into(), claims.clone());
        Some(claims)
    }
}

impl Claims {
    /// `None` for claims that no token of a service account has.
    pub fn read(claims: Value) -> Option<Claims> {
        match claims.str_at(&["iss"]) == legacy::ISSUER {
            true => Some(Claims::Legacy(claims)),
            false => bound::Claims::read(&claims).map(Box::new).map(Claims::Bound),
        }
    }
}

impl Generations {
    fn find(&mut self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.young.get(token) {
            return Some(claims.clone());
        }
        let (token, claims) = self.old.remove_entry(token)?;
        self.put(token, claims.clone());
        Some(claims)
    }

    fn put(&mut self, token: Box<str>, claims: Arc<Claims>) {
        if self.young.len() >= TOKENS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, claims);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Option<Claims> {
        let text = br#"{"exp":1,"iss":"x","aud":["x"],"kubernetes.io":{"namespace":"a"}}"#;
        Claims::read(Value::from_json(text).unwrap())
    }

    #[test]
    fn a_token_in_use_is_read_once_and_the_number_kept_is_bounded() {
        let genuine = Genuine::default();
        assert!(genuine.get("forged", || None).is_none());
        assert!(genuine.get("mine", claims).is_some());
        for number in 0..10 * TOKENS_MAX {
            assert!(genuine.get("mine", || panic!("read twice")).is_some());
            genuine.get(&number.to_string(), claims);
        }
        let kept = genuine.0.lock();
        assert!(kept.young.len() <= TOKENS_MAX && kept.old.len() <= TOKENS_MAX);
    }
}
