//! Where objects rest: `<prefix>/[namespace/]name`, as kube-apiserver lays its keys out. Within a resource an object
//! is found by the part behind the prefix, its path.

use bytes::Bytes;

/// The keys of one resource: the prefix with its closing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// `/registry/pods`, with or without a slash at its end.
    pub fn new(prefix: &str) -> Prefix {
        Prefix(format!("{}/", prefix.trim_end_matches('/')))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn start(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }

    /// The first key behind all that start with the prefix.
    pub fn end(&self) -> Bytes {
        end_of(self.0.as_bytes())
    }

    /// The key of an object in the store.
    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        Bytes::from(format!("{}{}", self.0, path(namespace, name)))
    }

    /// The path of a key below this prefix.
    pub fn path_of<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.strip_prefix(self.0.as_bytes())?).ok()
    }
}

/// `namespace/name`, or `name` where the namespace is empty.
pub fn path(namespace: &str, name: &str) -> String {
    match namespace {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// The end of the range of all keys that start with `prefix`, as etcd's clients compute it.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    match kept {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
        // Every key there is: etcd's word for "to the end".
        None => Bytes::from_static(b"\0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_the_api_server_does() {
        let prefix = Prefix::new("/registry/pods");
        assert_eq!(prefix.key("default", "a"), "/registry/pods/default/a");
        assert_eq!(Prefix::new("/registry/minions/").key("", "n"), "/registry/minions/n");
        assert_eq!(prefix.path_of(b"/registry/pods/default/a"), Some("default/a"));
        assert_eq!(prefix.path_of(b"/registry/podsx"), None);
        assert_eq!(prefix.end(), "/registry/pods0");
    }
}
