//! KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1), read strictly: what is not known, or cannot be done
//! here, is an error and not a silent default.

use std::collections::{BTreeMap, BTreeSet};

use coracle_meta::Gates;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::extender::{Extender, Extenders};
use crate::framework::Point;
use crate::plugins::{PLUGINS, by_name};
use crate::profile::{Enabled, Profile};
use crate::queue::{Backoff, bounded};
use crate::scheduler::Scheduler;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("the configuration is not as {API_VERSION} {KIND} has it: {0}")]
    Form(String),
    #[error("apiVersion and kind must be {API_VERSION} and {KIND}, not {0:?}")]
    Kind(String),
    #[error("{path}: {why}")]
    Field { path: String, why: String },
}

fn wrong(path: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Field { path: path.into(), why: why.into() }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    parallelism: Option<i64>,
    #[serde(default)]
    pub leader_election: LeaderElection,
    #[serde(default)]
    pub client_connection: ClientConnection,
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<u32>,
    #[serde(default)]
    pod_initial_backoff_seconds: Option<i64>,
    #[serde(default)]
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<ProfileText>,
    #[serde(default)]
    extenders: Vec<Extender>,
    #[serde(default, rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LeaderElection {
    pub leader_elect: Option<bool>,
    lease_duration: Option<String>,
    renew_deadline: Option<String>,
    retry_period: Option<String>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientConnection {
    pub kubeconfig: Option<String>,
    accept_content_types: Option<String>,
    content_type: Option<String>,
    qps: Option<f64>,
    burst: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct ProfileText {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<u32>,
    plugins: PluginsText,
    plugin_config: Vec<PluginConfigText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct PluginsText {
    pre_enqueue: PluginSet,
    queue_sort: PluginSet,
    pre_filter: PluginSet,
    filter: PluginSet,
    post_filter: PluginSet,
    pre_score: PluginSet,
    score: PluginSet,
    reserve: PluginSet,
    permit: PluginSet,
    pre_bind: PluginSet,
    bind: PluginSet,
    post_bind: PluginSet,
    multi_point: PluginSet,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginSet {
    enabled: Vec<PluginText>,
    disabled: Vec<PluginText>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginText {
    name: String,
    /// How much its scores count; 0 stands for 1.
    #[serde(default)]
    weight: i32,
}

impl PluginText {
    fn weight(&self) -> i64 {
        if self.weight == 0 { 1 } else { self.weight.into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfigText {
    name: String,
    #[serde(default)]
    args: Option<Value>,
}

impl PluginSet {
    fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|plugin| plugin.name == name || plugin.name == "*")
    }

    fn enables(&self, name: &str) -> Option<&PluginText> {
        self.enabled.iter().find(|plugin| plugin.name == name)
    }
}

impl PluginsText {
    fn points(&self) -> [(Point, &'static str, &PluginSet); 12] {
        [
            (Point::PreEnqueue, "preEnqueue", &self.pre_enqueue),
            (Point::QueueSort, "queueSort", &self.queue_sort),
            (Point::PreFilter, "preFilter", &self.pre_filter),
            (Point::Filter, "filter", &self.filter),
            (Point::PostFilter, "postFilter", &self.post_filter),
            (Point::PreScore, "preScore", &self.pre_score),
            (Point::Score, "score", &self.score),
            (Point::Reserve, "reserve", &self.reserve),
            (Point::Permit, "permit", &self.permit),
            (Point::PreBind, "preBind", &self.pre_bind),
            (Point::Bind, "bind", &self.bind),
            (Point::PostBind, "postBind", &self.post_bind),
        ]
    }
}

impl Configuration {
    /// From the file's content as JSON.
    pub fn read(json: Value) -> Result<Configuration, ConfigError> {
        let read: Configuration = serde_json::from_value(json).map_err(|error| ConfigError::Form(error.to_string()))?;
        if read.api_version != API_VERSION || read.kind != KIND {
            return Err(ConfigError::Kind(format!("{} {}", read.api_version, read.kind)));
        }
        read.check()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.parallelism.is_some_and(|most| most <= 0) {
            return Err(wrong("parallelism", "should be an integer value greater than zero"));
        }
        if self.leader_election.resource_lock.as_deref().is_some_and(|lock| lock != "leases") {
            return Err(wrong("leaderElection.resourceLock", "resourceLock value must be \"leases\""));
        }
        Extenders::check(&self.extenders).map_err(|(path, why)| wrong(path, why))?;
        let percents = self.profiles.iter().map(|profile| profile.percentage_of_nodes_to_score);
        if percents.chain([self.percentage_of_nodes_to_score]).flatten().any(|percent| percent > 100) {
            return Err(wrong("percentageOfNodesToScore", "not in valid range [0-100]"));
        }
        let backoff = self.backoff();
        if backoff.first <= SignedDuration::ZERO {
            return Err(wrong("podInitialBackoffSeconds", "must be greater than 0"));
        }
        if backoff.most < backoff.first {
            return Err(wrong("podMaxBackoffSeconds", "must be greater than or equal to PodInitialBackoffSeconds"));
        }
        Ok(())
    }

    fn backoff(&self) -> Backoff {
        let defaults = Backoff::default();
        let seconds = |given: Option<i64>, default| given.map_or(default, bounded);
        Backoff {
            first: seconds(self.pod_initial_backoff_seconds, defaults.first),
            most: seconds(self.pod_max_backoff_seconds, defaults.most),
        }
    }

    /// The scheduler that is asked for.
    pub fn scheduler(&self, gates: Gates) -> Result<Scheduler, ConfigError> {
        let mut profiles: Vec<Profile> = Vec::new();
        let standard = [ProfileText::default()];
        let texts = if self.profiles.is_empty() { &standard[..] } else { &self.profiles };
        for (at, text) in texts.iter().enumerate() {
            let profile = self.profile(&format!("profiles[{at}]"), text, gates)?;
            if profiles.iter().any(|known| known.name == profile.name) {
                return Err(wrong(format!("profiles[{at}].schedulerName"), "Duplicate value"));
            }
            profiles.push(profile);
        }
        Ok(Scheduler::new(profiles, self.backoff())
            .with_extenders(Extenders::new(self.extenders.clone()))
            .with_gates(gates))
    }

    fn profile(&self, path: &str, text: &ProfileText, gates: Gates) -> Result<Profile, ConfigError> {
        let name = text.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".into());
        if name.is_empty() {
            return Err(wrong(format!("{path}.schedulerName"), "Required value"));
        }
        if text.scheduler_name.is_none() && self.profiles.len() > 1 {
            return Err(wrong(format!("{path}.schedulerName"), "Required value"));
        }
        let mut arguments = arguments(path, &text.plugin_config, gates)?;
        let extenders = Extenders::new(self.extenders.clone());
        let ignored = extenders.ignored_resources();
        if !ignored.is_empty() {
            arguments.entry("NodeResourcesFit").or_insert_with(|| json!({}))["ignoredResources"] = json!(ignored);
        }
        let mut plugins = Vec::new();
        for name in order(&text.plugins.multi_point, gates) {
            plugins.extend(enabled((path, gates), &name, &text.plugins, &arguments)?);
        }
        for (point, field, _) in text.plugins.points() {
            let has = plugins.iter().filter(|enabled: &&Enabled| enabled.at(point)).count();
            match point {
                Point::QueueSort if has != 1 => {
                    let why = format!("one queue sort plugin required for profile with scheduler name {name:?}");
                    return Err(wrong(format!("{path}.plugins.{field}"), why));
                }
                Point::Bind if has == 0 => {
                    return Err(wrong(format!("{path}.plugins.{field}"), "at least one bind plugin is needed"));
                }
                _ => (),
            }
        }
        let percent = text.percentage_of_nodes_to_score.or(self.percentage_of_nodes_to_score).unwrap_or(0);
        Ok(Profile::new(name, plugins, percent))
    }
}

fn arguments<'a>(
    path: &str,
    texts: &'a [PluginConfigText],
    gates: Gates,
) -> Result<BTreeMap<&'a str, Value>, ConfigError> {
    let mut arguments = BTreeMap::new();
    for (at, text) in texts.iter().enumerate() {
        let path = format!("{path}.pluginConfig[{at}]");
        let entry =
            by_name(&text.name, gates).ok_or_else(|| wrong(&path, format!("no plugin is named {:?}", text.name)))?;
        let Some(args) = text.args.as_ref().filter(|args| !args.is_null()) else { continue };
        (entry.make)(Some(args)).map_err(|why| wrong(format!("{path}.args"), why))?;
        if arguments.insert(text.name.as_str(), args.clone()).is_some() {
            return Err(wrong(path, "Duplicate value"));
        }
    }
    Ok(arguments)
}

/// Names in the order in which they run: that of the defaults, or of `multiPoint` where it disables them all. Plugins
/// that only single points enable follow.
fn order(multi_point: &PluginSet, gates: Gates) -> Vec<String> {
    let defaults = PLUGINS.iter().filter(|entry| entry.is_on(gates));
    let mut names: Vec<String> = defaults.map(|entry| entry.name.to_owned()).collect();
    if multi_point.disables("*") {
        names.splice(0..0, multi_point.enabled.iter().map(|plugin| plugin.name.clone()));
    } else {
        names.extend(multi_point.enabled.iter().map(|plugin| plugin.name.clone()));
    }
    let mut order: Vec<String> = Vec::new();
    for name in names {
        if !order.contains(&name) {
            order.push(name);
        }
    }
    order
}

/// A plugin at the points that the profile leaves or gives it; `None` where none is left.
fn enabled(
    (path, gates): (&str, Gates),
    name: &str,
    text: &PluginsText,
    arguments: &BTreeMap<&str, Value>,
) -> Result<Option<Enabled>, ConfigError> {
    let entry = by_name(name, gates)
        .ok_or_else(|| wrong(format!("{path}.plugins.multiPoint"), format!("no plugin is named {name:?}")))?;
    let plugin = (entry.make)(arguments.get(name)).map_err(|why| wrong(path, why))?;
    let at_all = text.multi_point.enables(name);
    let by_default = at_all.is_some() || !text.multi_point.disables(name);
    let mut points = BTreeSet::new();
    let mut weight = at_all.map_or(entry.weight, PluginText::weight);
    for (point, field, set) in text.points() {
        if let Some(unknown) = set.enabled.iter().find(|plugin| by_name(&plugin.name, gates).is_none()) {
            let why = format!("no plugin is named {:?}", unknown.name);
            return Err(wrong(format!("{path}.plugins.{field}"), why));
        }
        let here = plugin.points().contains(&point);
        match set.enables(name) {
            Some(given) if here => {
                points.insert(point);
                if point == Point::Score {
                    weight = given.weight();
                }
            }
            Some(_) => {
                let why = format!("plugin {name:?} does not extend {field} plugin");
                return Err(wrong(format!("{path}.plugins.{field}"), why));
            }
            None if here && by_default && !set.disables(name) => {
                points.insert(point);
            }
            None => (),
        }
    }
    Ok((!points.is_empty()).then_some(Enabled { plugin, points, weight }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler(extra: Value) -> Result<Scheduler, ConfigError> {
        let mut config = json!({"apiVersion": API_VERSION, "kind": KIND});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        Configuration::read(config)?.scheduler(Gates::default())
    }

    fn weights(profile: &Profile) -> Vec<(&'static str, i64)> {
        let scoring = profile.plugins.iter().filter(|enabled| enabled.at(Point::Score));
        scoring.map(|enabled| (enabled.plugin.name(), enabled.weight)).collect()
    }

    #[test]
    fn an_empty_configuration_is_the_default() {
        let made = scheduler(json!({})).unwrap();
        let standard = Profile::standard("default-scheduler");
        assert_eq!(made.profiles[0].name, standard.name);
        let points = |profile: &Profile| -> Vec<_> {
            profile.plugins.iter().map(|enabled| (enabled.plugin.name(), enabled.points.clone())).collect()
        };
        assert_eq!(points(&made.profiles[0]), points(&standard));
        assert!(weights(&made.profiles[0]).contains(&("TaintToleration", 3)));
    }

    #[test]
    fn plugins_are_taken_away_and_weighed_anew() {
        let made = scheduler(json!({"profiles": [
            {"schedulerName": "one", "plugins": {
                "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 7}]},
                "multiPoint": {"disabled": [{"name": "DefaultPreemption"}]}}},
            {"schedulerName": "two", "percentageOfNodesToScore": 30,
             "pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 5}}]},
        ]}))
        .unwrap();
        assert_eq!(weights(&made.profiles[0]), [("NodeResourcesFit", 7)]);
        let left: Vec<_> = made.profiles[0].at(Point::PostFilter).map(|plugin| plugin.name()).collect();
        assert_eq!(left, ["DynamicResources"]);
        assert_eq!((made.profiles[1].name.as_str(), made.profiles[1].percent), ("two", 30));
    }

    #[test]
    fn a_plugin_that_is_enabled_without_a_weight_counts_once() {
        let made = scheduler(json!({"profiles": [{"plugins": {
            "score": {"enabled": [{"name": "TaintToleration"}]},
            "multiPoint": {"enabled": [{"name": "NodeAffinity"}, {"name": "ImageLocality", "weight": -2}]}}}]}))
        .unwrap();
        let weights = weights(&made.profiles[0]);
        for weight in [("TaintToleration", 1), ("NodeAffinity", 1), ("ImageLocality", -2), ("InterPodAffinity", 2)] {
            assert!(weights.contains(&weight), "{weight:?} is not among {weights:?}");
        }
    }

    #[test]
    fn plugins_enabled_in_place_of_all_run_in_their_order() {
        let needed = ["PrioritySort", "DefaultBinder", "NodePorts", "NodeName"];
        let made = scheduler(json!({"profiles": [{"plugins": {"multiPoint": {
            "disabled": [{"name": "*"}], "enabled": needed.map(|name| json!({"name": name}))}}}]}))
        .unwrap();
        let names: Vec<_> = made.profiles[0].plugins.iter().map(|enabled| enabled.plugin.name()).collect();
        assert_eq!(names, needed);
    }

    #[test]
    fn endless_times_are_bounded() {
        let seconds = i64::MAX;
        let timeout = json!({"name": "VolumeBinding", "args": {"bindTimeoutSeconds": seconds}});
        let made = scheduler(json!({"podInitialBackoffSeconds": seconds, "podMaxBackoffSeconds": seconds,
            "profiles": [{"pluginConfig": [timeout]}]}))
        .unwrap();
        let longest = made.profiles[0].at(Point::PreBind).find_map(|plugin| plugin.bound_within());
        assert!(longest.is_some_and(|longest| jiff::Timestamp::UNIX_EPOCH.checked_add(longest).is_ok()));
    }

    #[test]
    fn what_cannot_be_done_is_an_error_that_names_its_place() {
        let profile = |text: Value| json!({"profiles": [text]});
        let table = [
            (json!({"paralelism": 1}), "unknown field `paralelism`"),
            (json!({"extenders": [{"urlPrefx": "http://x"}]}), "unknown field `urlPrefx`"),
            (
                json!({"extenders": [{"prioritizeVerb": "p"}]}),
                "extenders[0].weight: must have a positive weight applied to it",
            ),
            (
                json!({"extenders": [{"bindVerb": "b"}, {"bindVerb": "b"}]}),
                "extenders: found 2 extenders implementing bind: only one extender can implement bind",
            ),
            (
                json!({"extenders": [{"managedResources": [{"name": "cpu"}]}]}),
                "extenders[0].managedResources[0].name: is an invalid extended resource name",
            ),
            (json!({"extenders": [{"httpTimeout": "soon"}]}), "\"soon\" is no duration"),
            (json!({"percentageOfNodesToScore": 101}), "percentageOfNodesToScore: not in valid range [0-100]"),
            (json!({"podInitialBackoffSeconds": 0}), "podInitialBackoffSeconds: must be greater than 0"),
            (profile(json!({"plugins": {"filter": {"enabled": [{"name": "X"}]}}})), "no plugin is named \"X\""),
            (
                profile(json!({"plugins": {"filter": {"enabled": [{"name": "ImageLocality"}]}}})),
                "plugin \"ImageLocality\" does not extend filter plugin",
            ),
            (
                profile(json!({"plugins": {"queueSort": {"disabled": [{"name": "*"}]}}})),
                "one queue sort plugin required",
            ),
            (
                profile(json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"bad": 1}}]})),
                "profiles[0].pluginConfig[0].args: unknown field `bad`",
            ),
            (json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}), "Duplicate value"),
        ];
        for (text, words) in table {
            let error = scheduler(text.clone()).err().expect("must be refused").to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn extenders_are_read_with_all_they_have_and_those_to_ignore_come_last() {
        let made = scheduler(json!({"extenders": [
            {"urlPrefix": "http://one/", "filterVerb": "f", "ignorable": true},
            {"urlPrefix": "https://two", "prioritizeVerb": "p", "weight": 3, "enableHTTPS": true, "httpTimeout": "100ms",
             "nodeCacheCapable": true, "tlsConfig": {"caFile": "/ca", "serverName": "s"},
             "managedResources": [{"name": "example.com/gpu", "ignoredByScheduler": true}]},
        ]}))
        .unwrap();
        let [two, one] = made.extenders().all() else { panic!("there are two") };
        assert_eq!((two.url("p"), two.timeout()), ("https://two/p".into(), SignedDuration::from_millis(100)));
        assert_eq!((one.url("f"), one.timeout()), ("http://one/f".into(), SignedDuration::from_secs(5)));
        assert_eq!(made.extenders().ignored_resources(), ["example.com/gpu"]);
    }
}
