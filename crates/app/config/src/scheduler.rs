//! The file of `coracle scheduler --config`: a KubeSchedulerConfiguration in YAML or JSON.

use std::path::Path;

use coracle_scheduler::config::Configuration;

use crate::ConfigError;

/// Reads and checks the file.
pub fn read_scheduler(path: &Path) -> Result<Configuration, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let value = serde_saphyr::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?;
    Configuration::read(value).map_err(|source| ConfigError::Scheduler { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_yaml_is_read_and_its_mistakes_are_named() {
        let path = std::env::temp_dir().join(format!("coracle-scheduler-{}.yaml", std::process::id()));
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        std::fs::write(&path, format!("{head}profiles:\n- schedulerName: mine\n  percentageOfNodesToScore: 40\n"))
            .unwrap();
        let read =
            read_scheduler(&path).map(|configuration| configuration.scheduler(coracle_meta::Gates::default()).is_ok());
        std::fs::write(&path, format!("{head}profile: []\n")).unwrap();
        let refused = read_scheduler(&path).map(|_| ());
        std::fs::remove_file(&path).unwrap();
        assert!(read.unwrap());
        let error = refused.unwrap_err();
        let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(chain.contains("unknown field `profile`"), "{chain}");
    }
}
