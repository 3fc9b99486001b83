//! Names of images, as Docker's reference grammar has them: `nginx` means `docker.io/library/nginx:latest`.

use std::fmt;

use crate::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:…`
    pub digest: Option<String>,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference> {
        let fail = |reason| Error::Reference { reference: text.to_owned(), reason };
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(fail("invalid reference format"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(fail("invalid digest"));
        }
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("invalid tag"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(fail("repository name must be lowercase"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if name.is_empty() || repository.split('/').any(str::is_empty) || !repository.chars().all(plain) {
            return Err(fail("invalid reference format"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest: digest.map(str::to_owned) })
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "{}@{digest}", self.name()),
            (None, Some(tag)) => write!(f, "{}:{tag}", self.name()),
            (None, None) => f.write_str(&self.name()),
        }
    }
}

pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_tag(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && text.len() <= 128 && text.chars().all(plain) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_what_docker_means() {
        let full = |text: &str| Reference::parse(text).unwrap().to_string();
        assert_eq!(full("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(full("rancher/k3s:v1"), "docker.io/rancher/k3s:v1");
        assert_eq!(full("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(full("coracle.local/demo:latest"), "coracle.local/demo:latest");
        let digest = format!("x.io/a@sha256:{}", "0".repeat(64));
        assert_eq!(full(&digest), digest);
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["", "UPPER/case", "a b", "a:b:c:", "a@sha256:12", "a//b", ":tag"] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
