//! Settings of a cluster: the flags of `coracle up`, the same names in a file, and what both mean together. It reads
//! one file and decides; it starts nothing.

mod duration;
mod scheduler;
mod settings;

pub use coracle_meta::Gates;
pub use duration::duration;
pub use scheduler::read_scheduler;
pub use settings::{ConfigError, DEFAULT_FILE, Settings};

use std::path::PathBuf;
use std::time::Duration;

/// What a cluster is to be, every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names every kernel object and the kubeconfig context: a DNS label of at most 20 characters.
    pub name: String,
    pub data_dir: PathBuf,
    /// The API server's port.
    pub port: u16,
    /// Where the administrator's kubeconfig goes; `None` merges it into the calling user's own.
    pub kubeconfig: Option<PathBuf>,
    pub node_name: String,
    /// Files and folders of manifests to apply once the cluster is up.
    pub manifests: Vec<PathBuf>,
    /// Data in a temporary folder, everything gone at exit.
    pub ephemeral: bool,
    /// An etcd cluster; none means the embedded store.
    pub datastore: Option<Datastore>,
    pub pod_cidr: Option<String>,
    pub service_cidr: Option<String>,
    /// Group versions switched on or off, as kube-apiserver's flag of that name: `api/all=true`, `batch/v2alpha1=true`.
    pub runtime_config: Vec<String>,
    /// Kubernetes' feature gates that are on.
    pub gates: Gates,
    /// How many nodes are simulated beside the real one.
    pub hollow_nodes: u32,
    /// The span that `metrics.k8s.io` tells rates over, as metrics-server's flag of that name.
    pub metric_resolution: Duration,
    /// How often autoscalers look, as kube-controller-manager's `--horizontal-pod-autoscaler-sync-period`.
    pub autoscaler_period: Duration,
}

/// How to reach an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore {
    /// `https://host:2379`, or `http://…`.
    pub endpoints: Vec<String>,
    /// PEM files.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

pub const DEFAULT_DATA_DIR: &str = "/var/lib/coracle";
pub const DEFAULT_PORT: u16 = 6443;
pub const DEFAULT_METRIC_RESOLUTION: Duration = Duration::from_secs(10);
pub const DEFAULT_AUTOSCALER_PERIOD: Duration = Duration::from_secs(15);

impl Config {
    /// Fills in defaults and checks every value. `hostname` is the machine's.
    pub fn new(settings: Settings, hostname: &str) -> Result<Config, ConfigError> {
        let data_dir = settings.data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
        let name = match settings.name {
            Some(name) => checked_name("name", name, 20)?,
            None => name_of(&data_dir),
        };
        Ok(Config {
            name,
            data_dir,
            port: settings.port.unwrap_or(DEFAULT_PORT),
            kubeconfig: settings.kubeconfig,
            node_name: checked_name("node-name", settings.node_name.unwrap_or_else(|| hostname.to_lowercase()), 63)?,
            manifests: settings.file,
            ephemeral: settings.ephemeral,
            datastore: settings.datastore.as_deref().map(|urls| Datastore {
                endpoints: split(urls),
                ca_file: settings.datastore_ca,
                cert_file: settings.datastore_cert,
                key_file: settings.datastore_key,
            }),
            pod_cidr: settings.pod_cidr,
            service_cidr: settings.service_cidr,
            runtime_config: settings.runtime_config.as_deref().map(split).unwrap_or_default(),
            gates: Gates::read(&settings.feature_gates.as_deref().map(split).unwrap_or_default())
                .map_err(ConfigError::Gates)?,
            hollow_nodes: settings.hollow_nodes.unwrap_or(0),
            metric_resolution: duration_or("metric-resolution", settings.metric_resolution, DEFAULT_METRIC_RESOLUTION)?,
            autoscaler_period: duration_or(
                "horizontal-pod-autoscaler-sync-period",
                settings.horizontal_pod_autoscaler_sync_period,
                DEFAULT_AUTOSCALER_PERIOD,
            )?,
        })
    }
}

fn duration_or(setting: &'static str, given: Option<String>, usual: Duration) -> Result<Duration, ConfigError> {
    let Some(text) = given else { return Ok(usual) };
    duration(&text).map_err(|_| ConfigError::Duration { setting, text })
}

fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// The cluster's name where none was given: the data directory's last part, as far as it can be a name.
fn name_of(data_dir: &std::path::Path) -> String {
    let last = data_dir.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(20).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "coracle".into() } else { name.into() }
}

/// A DNS label (RFC 1123) of at most `length_max` characters; dots are allowed in node names.
fn checked_name(setting: &'static str, name: String, length_max: usize) -> Result<String, ConfigError> {
    let inner =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (c == '.' && setting == "node-name");
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let good =
        name.len() <= length_max && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last());
    if good { Ok(name) } else { Err(ConfigError::Name { setting, name, length_max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: Settings) -> Result<Config, ConfigError> {
        Config::new(settings, "Host-1")
    }

    #[test]
    fn everything_has_a_default() {
        let config = config(Settings::default()).unwrap();
        assert_eq!((config.name.as_str(), config.node_name.as_str(), config.port), ("coracle", "host-1", 6443));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let settings = |text: &str| Settings { metric_resolution: Some(text.into()), ..Settings::default() };
        assert_eq!(config(settings("1m30s")).unwrap().metric_resolution, Duration::from_secs(90));
        assert_eq!(config(settings("500ms")).unwrap().metric_resolution, Duration::from_millis(500));
        for bad in ["0s", "-1s", "15", "soon"] {
            assert!(config(settings(bad)).unwrap_err().to_string().starts_with("metric-resolution: "), "{bad}");
        }
    }

    #[test]
    fn the_name_comes_from_the_data_directory() {
        let settings = Settings { data_dir: Some("/srv/My_Edge".into()), ..Settings::default() };
        assert_eq!(config(settings).unwrap().name, "myedge");
    }

    #[test]
    fn gates_are_read_and_their_mistakes_named() {
        let settings = |text: &str| Settings { feature_gates: Some(text.into()), ..Settings::default() };
        assert_eq!(config(settings("GenericWorkload=true, GangScheduling=true")).unwrap().gates, Gates::GANGS);
        let error = config(settings("GangScheduling=true")).unwrap_err();
        let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        let words = "GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]";
        assert_eq!(chain, format!("feature-gates: {words}"));
    }

    #[test]
    fn a_bad_name_is_refused_with_its_setting() {
        let settings = Settings { name: Some("No Name".into()), ..Settings::default() };
        assert!(config(settings).unwrap_err().to_string().starts_with("name: "));
    }
}
