//! Feature gates of Kubernetes 1.36 that can be switched here, all off by default as there, and what each needs. Source
//! of names, needs and words: Kubernetes `pkg/features` and `component-base/featuregate`.

/// A gate that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Workloads and PodGroups, and pods that name theirs.
    GenericWorkload,
    /// The pods of a gang are placed all or not at all.
    GangScheduling,
}

/// Gates that build on those above and are not built.
const UNBUILT: [&str; 4] =
    ["DRAWorkloadResourceClaims", "TopologyAwareWorkloadScheduling", "WorkloadAwarePreemption", "WorkloadWithJob"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GatesError {
    #[error("missing bool value for {0}")]
    Missing(String),
    #[error("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    Value { name: String, value: String },
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    #[error("{0} cannot be switched on: what it stands for is not built")]
    Unbuilt(String),
    #[error("{gate} is enabled, but depends on features that are disabled: [{needed}]")]
    Needs { gate: &'static str, needed: &'static str },
}

/// The gates that are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    generic_workload: bool,
    gang_scheduling: bool,
}

impl Gates {
    /// Both gates of pod groups.
    pub const GANGS: Gates = Gates { generic_workload: true, gang_scheduling: true };

    /// From settings like `GenericWorkload=true`; of several about one gate the last counts.
    pub fn read(settings: &[String]) -> Result<Gates, GatesError> {
        let mut gates = Gates::default();
        for setting in settings {
            let (name, value) = setting.split_once('=').ok_or_else(|| GatesError::Missing(setting.clone()))?;
            let (name, value) = (name.trim(), value.trim());
            let is_on = parse(value).ok_or_else(|| GatesError::Value { name: name.into(), value: value.into() })?;
            match name {
                "GenericWorkload" => gates.generic_workload = is_on,
                "GangScheduling" => gates.gang_scheduling = is_on,
                _ if !UNBUILT.contains(&name) => return Err(GatesError::Unknown(name.into())),
                _ if is_on => return Err(GatesError::Unbuilt(name.into())),
                _ => {}
            }
        }
        match gates {
            Gates { gang_scheduling: true, generic_workload: false } => {
                Err(GatesError::Needs { gate: "GangScheduling", needed: "GenericWorkload" })
            }
            gates => Ok(gates),
        }
    }

    pub fn has(self, gate: Gate) -> bool {
        match gate {
            Gate::GenericWorkload => self.generic_workload,
            Gate::GangScheduling => self.gang_scheduling,
        }
    }

    /// By the name that Kubernetes has for it.
    pub fn has_named(self, name: &str) -> bool {
        match name {
            "GenericWorkload" => self.generic_workload,
            "GangScheduling" => self.gang_scheduling,
            _ => false,
        }
    }
}

/// What Go's `strconv.ParseBool` takes.
fn parse(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &str) -> Result<Gates, String> {
        let settings: Vec<String> = settings.split(',').map(str::to_owned).collect();
        Gates::read(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn gates_are_read_as_upstream_reads_them() {
        assert_eq!(Gates::read(&[]), Ok(Gates::default()));
        assert_eq!(read("GangScheduling=true,GenericWorkload=T"), Ok(Gates::GANGS));
        let groups = read("GenericWorkload=1,GangScheduling=false,WorkloadWithJob=false").unwrap();
        assert!(groups.has(Gate::GenericWorkload) && !groups.has(Gate::GangScheduling));
        for (settings, words) in [
            (
                "GangScheduling=true",
                "GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]",
            ),
            (
                "GenericWorkload=maybe",
                "invalid value of GenericWorkload=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            ("GenericWorkload", "missing bool value for GenericWorkload"),
            ("Unheard=false", "unrecognized feature gate: Unheard"),
            (
                "GenericWorkload=true,WorkloadAwarePreemption=true",
                "WorkloadAwarePreemption cannot be switched on: what it stands for is not built",
            ),
        ] {
            assert_eq!(read(settings), Err(words.to_owned()), "{settings}");
        }
    }
}
