//! Settings as they are given: each a flag and a key of the file, under the same name.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Read when it exists and no `--config` names another.
pub const DEFAULT_FILE: &str = "/etc/coracle/config.yaml";

/// One struct is both the flags and the file, so that their names cannot part.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Where the cluster keeps everything [default: /var/lib/coracle]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the API server [default: 6443]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Write the admin kubeconfig to this file instead of merging it into your own
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Apply these manifests when the cluster is up, and wait until they are rolled out
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR")]
    pub file: Vec<PathBuf>,
    /// Keep the data in a temporary folder; everything is gone at exit
    #[arg(long)]
    pub ephemeral: bool,
    /// Name of the cluster: of its context and its kernel objects [default: from the data directory]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Keep objects in an etcd cluster: its addresses, separated by commas [default: the embedded store]
    #[arg(long, value_name = "URLS")]
    pub datastore: Option<String>,
    /// Certificates of authorities that vouch for the etcd cluster
    #[arg(long, value_name = "FILE", requires = "datastore")]
    pub datastore_ca: Option<PathBuf>,
    /// Certificate to present to the etcd cluster
    #[arg(long, value_name = "FILE", requires = "datastore_key")]
    pub datastore_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "datastore_cert")]
    pub datastore_key: Option<PathBuf>,
    /// Addresses of pods [default: a range not in use]
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Addresses of Services [default: a range not in use]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<String>,
    /// API groups and versions to switch on or off, as `api/all=true`
    #[arg(long, value_name = "KEY=BOOL,…")]
    pub runtime_config: Option<String>,
    /// Kubernetes' feature gates to switch on, as `GenericWorkload=true,GangScheduling=true`
    #[arg(long, value_name = "KEY=BOOL,…")]
    pub feature_gates: Option<String>,
    /// Simulate this many nodes beside the real one, as `coracle sim` does
    #[arg(long, value_name = "N")]
    pub hollow_nodes: Option<u32>,
    /// Time over which the use of processors is told, and the age of what is told without measuring anew [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub metric_resolution: Option<String>,
    /// How often HorizontalPodAutoscalers look at what their pods use [default: 15s]
    #[arg(long, value_name = "DURATION")]
    pub horizontal_pod_autoscaler_sync_period: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("configuration file {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("configuration file {}", path.display())]
    Scheduler {
        path: PathBuf,
        #[source]
        source: coracle_scheduler::config::ConfigError,
    },
    #[error("feature-gates")]
    Gates(#[source] coracle_meta::GatesError),
    #[error("{setting}: {text:?} is no duration: give one as 15s, 500ms or 1m30s")]
    Duration { setting: &'static str, text: String },
    #[error(
        "{setting}: {name:?} is not usable: take at most {length_max} lower case letters, digits and '-', \
         with a letter or digit at both ends"
    )]
    Name { setting: &'static str, name: String, length_max: usize },
}

impl Settings {
    /// The file's settings. Without `path` the default file counts if it exists.
    pub fn read(path: Option<&Path>) -> Result<Settings, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let path = match path {
            Some(path) => path,
            None if default.exists() => default,
            None => return Ok(Settings::default()),
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Settings::parse(&text).map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
    }

    fn parse(text: &str) -> Result<Settings, serde_saphyr::Error> {
        if text.trim().is_empty() { Ok(Settings::default()) } else { serde_saphyr::from_str(text) }
    }

    /// These settings where given, the others' elsewhere.
    pub fn or(self, other: Settings) -> Settings {
        Settings {
            data_dir: self.data_dir.or(other.data_dir),
            port: self.port.or(other.port),
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            node_name: self.node_name.or(other.node_name),
            file: if self.file.is_empty() { other.file } else { self.file },
            ephemeral: self.ephemeral || other.ephemeral,
            name: self.name.or(other.name),
            datastore: self.datastore.or(other.datastore),
            datastore_ca: self.datastore_ca.or(other.datastore_ca),
            datastore_cert: self.datastore_cert.or(other.datastore_cert),
            datastore_key: self.datastore_key.or(other.datastore_key),
            pod_cidr: self.pod_cidr.or(other.pod_cidr),
            service_cidr: self.service_cidr.or(other.service_cidr),
            runtime_config: self.runtime_config.or(other.runtime_config),
            feature_gates: self.feature_gates.or(other.feature_gates),
            hollow_nodes: self.hollow_nodes.or(other.hollow_nodes),
            metric_resolution: self.metric_resolution.or(other.metric_resolution),
            horizontal_pod_autoscaler_sync_period: self
                .horizontal_pod_autoscaler_sync_period
                .or(other.horizontal_pod_autoscaler_sync_period),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_flags_names() {
        let settings = Settings::parse("data-dir: /srv/x\nport: 7443\nephemeral: true\n").unwrap();
        assert_eq!((settings.port, settings.ephemeral), (Some(7443), true));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = Settings::parse("prot: 1\n").unwrap_err().to_string();
        assert!(error.contains("prot"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Settings { port: Some(1), ..Settings::default() };
        let file = Settings { port: Some(2), name: Some("x".into()), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.port, both.name.as_deref()), (Some(1), Some("x")));
    }
}
