//! A kube-scheduler and what it decides: fed through its watches, heard through its writes, its calls of the extender
//! and its log. Each resource comes by a watch of its own, so a probe pod that only the last node could take, did it not
//! attach as many volumes as it can, tells when nodes, limits and attachments are known; pods keep their order. Every showing of a case has names of its own, so nothing that the
//! scheduler still holds of an earlier one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::{Api, EXTENDER, Seen};
use crate::cases::{Case, PROBE, World};
use crate::decision::Decision;

const START_MAX: Duration = Duration::from_secs(60);
/// The longest that one decision may take; a pod that is tried again after a back-off is in it, and a machine that has
/// no time.
const DECISION_MAX: Duration = Duration::from_secs(180);
/// How long the first probe is waited for, and the longest that a later one is.
const PROBE_WAIT: Duration = Duration::from_millis(10);
const PROBE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Why a probe is refused by a node that attaches as many volumes as it can.
const ATTACHES_ALL: &str = "node(s) exceed max volume count";
/// Victims and scores follow a decision; what has not come by then is missing.
const AFTERMATH_MAX: Duration = Duration::from_secs(2);

pub struct Rival {
    api: Arc<Api>,
    seen: Receiver<Seen>,
    process: Child,
    folder: PathBuf,
}

impl Rival {
    pub fn start(binary: &Path) -> Result<Rival> {
        let (tell, seen) = channel();
        let (api, address) = Api::serve(tell.clone()).context("serving the API")?;
        let folder = std::env::temp_dir().join(format!("same-decisions-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let config = folder.join("config.json");
        std::fs::write(&config, configuration(&folder, address).to_string()).context("writing the configuration")?;
        std::fs::write(folder.join("kubeconfig"), kubeconfig(address).to_string()).context("writing the kubeconfig")?;
        let mut command = Command::new(binary);
        command.arg(format!("--config={}", config.display()));
        // Scores are told at level 10 of one file, the end of evictions at level 2 of another.
        command.args(["--secure-port=0", "--authentication-skip-lookup", "--vmodule=schedule_one=10,executor=2"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let log = process.stderr.take().context("the scheduler's log")?;
        std::thread::spawn(move || listen(log, &tell));
        let rival = Rival { api, seen, process, folder };
        rival.wait_until_it_watches()?;
        Ok(rival)
    }

    fn wait_until_it_watches(&self) -> Result<()> {
        let by = Instant::now() + START_MAX;
        while self.api.watchers("pods") == 0 || self.api.watchers("nodes") == 0 {
            match self.seen.recv_timeout(Duration::from_millis(50)) {
                Ok(Seen::Ended(words)) => bail!("the scheduler ended:\n{words}"),
                _ if Instant::now() > by => bail!("the scheduler did not watch pods and nodes"),
                _ => (),
            }
        }
        Ok(())
    }

    pub fn set_world(&self, world: &World) {
        world.iter().for_each(|(resource, object)| self.api.put(resource, object));
    }

    /// Shows the case and returns what the scheduler makes of it; `victims` pods are expected to be evicted.
    pub fn decide(&mut self, case: &Case, victims: usize) -> Result<Decision> {
        let (last_limits, last_attachment) = case.last_limits();
        let surroundings = || case.surroundings().filter(|(resource, _)| *resource != "pods");
        surroundings().for_each(|(resource, object)| self.api.put(resource, object));
        self.api.put("csinodes", &last_limits);
        self.api.put("volumeattachments", &last_attachment);
        // What it knows of images is as old as its last look at a node: this makes it look at all when all are there.
        case.nodes_again().iter().for_each(|node| self.api.put("nodes", node));
        self.wait_for_nodes(case).with_context(|| format!("case {}:\n{case}", case.number))?;
        case.placed.iter().for_each(|pod| self.api.put("pods", pod));
        self.api.put("pods", &case.pod);
        let decision = self.hear(case, victims).with_context(|| format!("case {}:\n{case}", case.number))?;
        if let Some(node) = &decision.bound {
            self.api.bind(&case.pod, node);
        }
        self.api.remove("pods", &case.pod);
        case.placed.iter().for_each(|pod| self.api.remove("pods", pod));
        self.api.remove("volumeattachments", &last_attachment);
        surroundings().for_each(|(resource, object)| self.api.remove(resource, object));
        Ok(decision)
    }

    fn next(&self, by: Instant) -> Result<Option<Seen>> {
        match self.seen.recv_timeout(by.saturating_duration_since(Instant::now())) {
            Ok(Seen::Ended(words)) => bail!("the scheduler ended:\n{words}"),
            Ok(seen) => Ok(Some(seen)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the scheduler is not heard any more"),
        }
    }

    /// All is known once the last node is found to attach as much as it can. A probe that came too early would be tried
    /// again only after a back-off, so another comes beside it once it was looked at. They stay to the end: a scheduler that
    /// gets little time may hear of a pod and of its removal at once, and never look at it.
    fn wait_for_nodes(&self, case: &Case) -> Result<()> {
        let by = Instant::now() + DECISION_MAX;
        let (mut wait, mut probes, mut answers) = (PROBE_WAIT, Vec::new(), BTreeMap::new());
        loop {
            if answers.len() == probes.len() {
                let probe = case.probe(probes.len());
                self.api.put("pods", &probe);
                probes.push(probe);
            }
            if self.is_known(case, Instant::now() + wait, &mut answers)? {
                break;
            }
            ensure!(
                Instant::now() < by,
                "the scheduler did not see the nodes: of {} probes these were answered: {answers:?}; {} watches stand",
                probes.len(),
                self.api.watches(),
            );
            wait = (wait * 2).min(PROBE_WAIT_MAX);
        }
        probes.iter().for_each(|probe| self.api.remove("pods", probe));
        Ok(())
    }

    /// Hears what is said of probes, by their names.
    fn is_known(&self, case: &Case, by: Instant, answers: &mut BTreeMap<String, String>) -> Result<bool> {
        while let Some(seen) = self.next(by)? {
            if let Seen::Refused { pod, message, .. } = seen
                && pod.starts_with(&case.prefix)
                && pod.ends_with(PROBE)
            {
                let known = message.contains(ATTACHES_ALL);
                answers.insert(pod, message);
                if known {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn hear(&self, case: &Case, victims: usize) -> Result<Decision> {
        let mut decision = Decision::default();
        let mut by = Instant::now() + DECISION_MAX;
        let (mut decided, mut made_room) = (false, false);
        loop {
            let choice = decision.feasible.len() > 1;
            let scored = !choice || decision.totals.len() >= decision.feasible.len();
            let complete = match decision.bound {
                Some(_) => scored,
                None => decision.nominated.is_none() || made_room || victims == 0,
            };
            if decided && complete {
                return Ok(decision);
            }
            match self.next(by)? {
                None if decided => return Ok(decision),
                None => bail!("nothing was decided"),
                Some(Seen::MadeRoom { pod }) => made_room |= pod == case.pod_name(),
                Some(seen) => decided |= decision.take(case, seen),
            }
            if decided {
                by = by.min(Instant::now() + AFTERMATH_MAX);
            }
        }
    }
}

impl Decision {
    /// Takes in news; true for the decision itself.
    fn take(&mut self, case: &Case, seen: Seen) -> bool {
        let name = case.pod_name();
        match seen {
            Seen::Filtered { pod, feasible } if pod == name => self.feasible = BTreeSet::from_iter(feasible),
            Seen::Score { pod, node, plugin, score } if pod == name => {
                self.scores.entry(node).or_default().insert(plugin, score);
            }
            Seen::Total { pod, node, total } if pod == name => {
                self.totals.insert(node, total);
            }
            Seen::Bound { pod, node } if pod == name => {
                self.bound = Some(node);
                return true;
            }
            Seen::Refused { pod, message, nominated } if pod == name => {
                (self.message, self.nominated) = (message, nominated);
                return true;
            }
            Seen::Evicted { pod } if pod.starts_with(&case.prefix) => {
                self.victims.insert(pod);
            }
            _ => (),
        }
        false
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn configuration(folder: &Path, address: std::net::SocketAddr) -> Value {
    let json_type = "application/json";
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": folder.join("kubeconfig"), "qps": 10000, "burst": 20000,
            "contentType": json_type, "acceptContentTypes": json_type},
        "leaderElection": {"leaderElect": false},
        "percentageOfNodesToScore": 100,
        "extenders": [{"urlPrefix": format!("http://{address}{EXTENDER}"), "filterVerb": "filter", "nodeCacheCapable": true}],
    })
}

fn kubeconfig(address: std::net::SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    })
}

/// Tells the scores and evictions that the log speaks of, and its last lines when it ends.
fn listen(log: impl Read, tell: &Sender<Seen>) {
    let mut last = Vec::new();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if let Some(seen) = told(&line) {
            let _ = tell.send(seen);
            continue;
        }
        if !line.starts_with('I') {
            last.push(line);
            last.drain(..last.len().saturating_sub(20));
        }
    }
    let _ = tell.send(Seen::Ended(last.join("\n")));
}

fn told(line: &str) -> Option<Seen> {
    let (_, said) = line.split_once("] \"")?;
    let (what, fields) = said.split_once('"')?;
    let field = |name: &str| {
        let (_, rest) = fields.split_once(&format!(" {name}="))?;
        Some(rest.split(' ').next()?.trim_matches('"').to_owned())
    };
    let named = |name: &str| Some(field(name)?.rsplit('/').next()?.to_owned());
    let pod = || named("pod");
    let number = || field("score")?.parse().ok();
    match what {
        "Plugin scored node for pod" => {
            Some(Seen::Score { pod: pod()?, node: field("node")?, plugin: field("plugin")?, score: number()? })
        }
        "Calculated node's final score for pod" => {
            Some(Seen::Total { pod: pod()?, node: field("node")?, total: number()? })
        }
        "Async Preemption finished completely" => Some(Seen::MadeRoom { pod: named("preemptor")? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_and_evictions_are_read_from_the_log() {
        let line = r#"I1127 19:00:00.000001 7 schedule_one.go:982] "Plugin scored node for pod" pod="n/p" plugin="NodeAffinity" node="a" score=200"#;
        assert!(matches!(told(line), Some(Seen::Score { pod, plugin, score: 200, .. })
            if pod == "p" && plugin == "NodeAffinity"));
        let line = r#"I1127 19:00:00.000001 7 schedule_one.go:1050] "Calculated node's final score for pod" pod="n/p" node="a" score=5"#;
        assert!(matches!(told(line), Some(Seen::Total { node, total: 5, .. }) if node == "a"));
        let line = r#"I1127 19:00:00.000001 7 executor.go:281] "Async Preemption finished completely" preemptor="n/p" node="a" result="success""#;
        assert!(matches!(told(line), Some(Seen::MadeRoom { pod }) if pod == "p"));
        assert!(told("I1127 19:00:00.000001 7 server.go:1] \"Starting\" version=\"v1\"").is_none());
    }
}
