//! Which versions of which kinds are served: those on by default, and what `--runtime-config` says otherwise, but for
//! kinds whose gate is off. Source: Kubernetes `apiserver/pkg/server/resourceconfig`.

use std::collections::HashSet;

use coracle_kinds::{Kind, Version, table};
use coracle_meta::Gates;

use crate::call::Served;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GroupsError {
    #[error("invalid value of {key}={value}: a runtime-config setting is true or false")]
    Value { key: String, value: String },
    #[error("runtime-config invalid key {0}")]
    Key(String),
}

/// Every version of every kind that is served.
pub struct Groups(HashSet<(&'static str, &'static str, &'static str)>);

/// What a key of `--runtime-config` is about.
enum Subject<'a> {
    All,
    Level(Level),
    Version { group: &'a str, version: &'a str },
    Resource { group: &'a str, version: &'a str, plural: &'a str },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Ga,
    Beta,
    Alpha,
}

impl Groups {
    /// The defaults, changed by settings like `api/all=true` and `batch/v2alpha1=true`. The wider a setting is, the
    /// earlier it is applied, in whatever order they are given. No setting serves a kind whose gate is off.
    pub fn read(settings: &[String], gates: Gates) -> Result<Groups, GroupsError> {
        let mut read = settings.iter().map(|setting| Setting::read(setting)).collect::<Result<Vec<_>, _>>()?;
        read.sort_by_key(|setting| setting.subject.rank());
        let mut groups = Groups(entries().filter(|(_, version)| version.by_default).map(key).collect());
        for setting in &read {
            for (kind, version) in entries().filter(|(kind, version)| setting.subject.covers(kind, version)) {
                match setting.is_on {
                    true => drop(groups.0.insert(key((kind, version)))),
                    false => drop(groups.0.remove(&key((kind, version)))),
                }
            }
        }
        let gated = |kind: &Kind| kind.gate.is_some_and(|gate| !gates.has(gate));
        for entry in entries().filter(|(kind, _)| gated(kind)) {
            groups.0.remove(&key(entry));
        }
        Ok(groups)
    }

    pub fn serves(&self, kind: &'static Kind, version: &'static Version) -> bool {
        self.0.contains(&key((kind, version)))
    }

    /// The kind in a version, `None` where that is not served.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        let kind = coracle_kinds::find_named(group, plural)?;
        let version = kind.versions.iter().find(|known| known.name == version && self.serves(kind, known))?;
        Some(Served { kind, version: version.name })
    }
}

struct Setting<'a> {
    subject: Subject<'a>,
    is_on: bool,
}

impl<'a> Setting<'a> {
    fn read(setting: &'a str) -> Result<Setting<'a>, GroupsError> {
        let (name, value) = setting.split_once('=').unwrap_or((setting, "true"));
        let is_on = match value {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(GroupsError::Value { key: name.into(), value: value.into() }),
        };
        let parts: Vec<&str> = name.split('/').collect();
        let subject = match parts.as_slice() {
            ["api", "all"] => Subject::All,
            ["api", "ga"] => Subject::Level(Level::Ga),
            ["api", "beta"] => Subject::Level(Level::Beta),
            ["api", "alpha"] => Subject::Level(Level::Alpha),
            [version] | ["api", version] => Subject::Version { group: "", version },
            [group, version] => Subject::Version { group, version },
            [group, version, plural] => Subject::Resource { group, version, plural },
            _ => return Err(GroupsError::Key(name.into())),
        };
        if !entries().any(|(kind, version)| subject.covers(kind, version)) && !subject.names_known_group() {
            return Err(GroupsError::Key(name.into()));
        }
        Ok(Setting { subject, is_on })
    }
}

impl Subject<'_> {
    fn rank(&self) -> u8 {
        match self {
            Subject::All => 0,
            Subject::Level(_) => 1,
            Subject::Version { .. } => 2,
            Subject::Resource { .. } => 3,
        }
    }

    fn covers(&self, kind: &Kind, of: &Version) -> bool {
        match self {
            Subject::All => true,
            Subject::Level(level) => *level == level_of(of.name),
            Subject::Version { group, version } => kind.group == *group && of.name == *version,
            Subject::Resource { group, version, plural } => {
                kind.group == *group && of.name == *version && kind.plural == *plural
            }
        }
    }

    /// Versions that a group no longer or does not yet have are passed over, as upstream does; unknown groups are not.
    fn names_known_group(&self) -> bool {
        match self {
            Subject::Version { group, .. } => !group.is_empty() && table().iter().any(|kind| kind.group == *group),
            _ => false,
        }
    }
}

fn level_of(version: &str) -> Level {
    match version {
        version if version.contains("alpha") => Level::Alpha,
        version if version.contains("beta") => Level::Beta,
        _ => Level::Ga,
    }
}

fn entries() -> impl Iterator<Item = (&'static Kind, &'static Version)> {
    table().iter().flat_map(|kind| kind.versions.iter().map(move |version| (kind, version)))
}

fn key((kind, version): (&'static Kind, &'static Version)) -> (&'static str, &'static str, &'static str) {
    (kind.group, version.name, kind.plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[&str]) -> Result<Groups, GroupsError> {
        gated(settings, Gates::default())
    }

    fn gated(settings: &[&str], gates: Gates) -> Result<Groups, GroupsError> {
        Groups::read(&settings.iter().map(|setting| (*setting).to_owned()).collect::<Vec<_>>(), gates)
    }

    #[test]
    fn a_gated_kind_needs_its_gate_and_its_version() {
        for (settings, gates, served) in [
            (&[][..], Gates::default(), false),
            (&["api/all=true"], Gates::default(), false),
            (&[], Gates::GANGS, false),
            (&["scheduling.k8s.io/v1alpha2=true"], Gates::GANGS, true),
        ] {
            let groups = gated(settings, gates).unwrap();
            for plural in ["podgroups", "workloads"] {
                let found = groups.find("scheduling.k8s.io", "v1alpha2", plural).is_some();
                assert_eq!(found, served, "{settings:?} {gates:?} {plural}");
            }
        }
    }

    #[test]
    fn wide_settings_yield_to_narrow_ones() {
        let has =
            |groups: &Groups, group: &str, version: &str, plural: &str| groups.find(group, version, plural).is_some();
        let defaults = read(&[]).unwrap();
        assert!(
            has(&defaults, "apps", "v1", "deployments")
                && !has(&defaults, "resource.k8s.io", "v1beta1", "deviceclasses")
        );
        let all = read(&["apps/v1=false", "apps/v1/deployments=true", "api/all=true"]).unwrap();
        assert!(has(&all, "resource.k8s.io", "v1beta1", "deviceclasses"));
        assert!(has(&all, "apps", "v1", "deployments") && !has(&all, "apps", "v1", "daemonsets"));
        let one = read(&["resource.k8s.io/v1beta1=true"]).unwrap();
        assert!(has(&one, "resource.k8s.io", "v1beta1", "deviceclasses"));
        assert!(!has(&one, "resource.k8s.io", "v1beta2", "deviceclasses"));
        assert!(!has(&read(&["batch/v1=false"]).unwrap(), "batch", "v1", "jobs"));
        assert!(read(&["batch/v2alpha1=true"]).is_ok());
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(matches!(read(&["api/all=maybe"]), Err(GroupsError::Value { .. })));
        assert_eq!(read(&["unheard.of/v1=true"]).err(), Some(GroupsError::Key("unheard.of/v1".into())));
        assert_eq!(read(&["a/b/c/d"]).err(), Some(GroupsError::Key("a/b/c/d".into())));
    }
}
