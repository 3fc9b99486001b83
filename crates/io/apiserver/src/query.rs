//! The query of a URL: pairs in their order, decoded once.

#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && is_escaped_well(pair)).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, Plus::Space), percent_decode(value, Plus::Space))
        });
        Query { pairs: pairs.collect() }
    }

    /// The first value of `key`; `None` where it is missing or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        let value = self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// As Kubernetes reads a boolean: present and neither `false` nor `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.pairs.iter().any(|(name, value)| name == key && value != "false" && value != "0")
    }

    pub fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }
}

/// Pairs with broken escapes are passed over, as Go passes over them.
fn is_escaped_well(pair: &str) -> bool {
    let mut rest = pair.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        if !matches!(rest.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit)) {
            return false;
        }
        rest = &rest[at + 3..];
    }
    true
}

/// What `+` stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    Space,
    Literal,
}

/// Malformed escapes stand as they are; bytes that are no UTF-8 are replaced.
pub fn percent_decode(text: &str, plus: Plus) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = bytes.get(index + 1..index + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[index], escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                index += 3;
                continue;
            }
            (b'+', _) if plus == Plus::Space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        index += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_broken_ones_passed_over() {
        let query = Query::parse("a=x%3Dy+z&b=%zz&watch=true&c");
        assert_eq!(query.get("a"), Some("x=y z"));
        assert_eq!(query.get("b"), None);
        assert!(query.flag("watch") && query.flag("c") && !query.flag("d"));
    }
}
