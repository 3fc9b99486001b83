//! Kubeconfig files: where a cluster is and who we are there. Unknown keys are left alone, as kubectl leaves them.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("parsing kubeconfig {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the kubeconfig has no {what} named {name:?}")]
    Missing { what: &'static str, name: String },
    #[error("the kubeconfig's {field} is not usable: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("setting up TLS")]
    Tls(#[from] rustls::Error),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Kubeconfig {
    pub clusters: Vec<NamedCluster>,
    pub users: Vec<NamedUser>,
    pub contexts: Vec<NamedContext>,
    pub current_context: String,
    /// Where relative file names start; set by `read`.
    #[serde(skip)]
    pub folder: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedCluster {
    pub name: String,
    pub cluster: Cluster,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedUser {
    pub name: String,
    #[serde(default)]
    pub user: User,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedContext {
    pub name: String,
    pub context: Context,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Cluster {
    pub server: String,
    pub certificate_authority: Option<PathBuf>,
    pub certificate_authority_data: Option<String>,
    pub insecure_skip_tls_verify: bool,
    pub tls_server_name: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct User {
    pub client_certificate: Option<PathBuf>,
    pub client_certificate_data: Option<String>,
    pub client_key: Option<PathBuf>,
    pub client_key_data: Option<String>,
    pub token: Option<String>,
    #[serde(rename = "tokenFile")]
    pub token_file: Option<PathBuf>,
    /// Present where a program would have to be run for credentials, which is not supported.
    #[serde(skip_serializing)]
    pub exec: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    pub cluster: String,
    pub user: String,
    pub namespace: Option<String>,
}

impl Kubeconfig {
    pub fn read(path: impl AsRef<Path>) -> Result<Kubeconfig, KubeconfigError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.into(), source })?;
        let mut config: Kubeconfig = serde_saphyr::from_str(&text)
            .map_err(|source| KubeconfigError::Parse { path: path.into(), source: Box::new(source) })?;
        config.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(config)
    }

    /// The cluster and the user of the current context.
    pub fn current(&self) -> Result<(&Cluster, &User), KubeconfigError> {
        let missing = |what, name: &str| KubeconfigError::Missing { what, name: name.into() };
        let name = &self.current_context;
        let context = self.contexts.iter().find(|entry| entry.name == *name);
        let context = &context.ok_or_else(|| missing("context", name))?.context;
        let cluster = self.clusters.iter().find(|entry| entry.name == context.cluster);
        let user = self.users.iter().find(|entry| entry.name == context.user);
        Ok((
            &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster,
            &user.ok_or_else(|| missing("user", &context.user))?.user,
        ))
    }

    /// A file that the kubeconfig names, relative to where it lies itself.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Inline base64 data, or else the file's content.
    pub(crate) fn load(
        &self,
        field: &'static str,
        data: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Option<Vec<u8>>, KubeconfigError> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let bytes = STANDARD.decode(data.trim());
            return bytes.map(Some).map_err(|why| KubeconfigError::Invalid { field, why: why.to_string() });
        }
        let Some(file) = file else { return Ok(None) };
        let path = self.resolve(file);
        std::fs::read(&path).map(Some).map_err(|source| KubeconfigError::Read { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_leads_to_cluster_and_user() {
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster:\n    server: https://a:1\n\
                    contexts:\n- name: c\n  context: {cluster: k, user: u}\nusers:\n- name: u\n  user:\n    tokenFile: t\n";
        let config: Kubeconfig = serde_saphyr::from_str(text).unwrap();
        let (cluster, user) = config.current().unwrap();
        assert_eq!((cluster.server.as_str(), user.token_file.as_deref()), ("https://a:1", Some(Path::new("t"))));
    }
}
