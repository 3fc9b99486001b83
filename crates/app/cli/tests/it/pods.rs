//! What a pod can ask for, what it is told when it cannot have it, and how kubectl talks to it: many small pods on one
//! cluster, started together, looked at in turn.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::busybox;
use crate::cluster::{Cluster, text};

const SHOWS: &str = include_str!("pods/shows.yaml");
const ENDS: &str = include_str!("pods/ends.yaml");
const LIVES: &str = include_str!("pods/lives.yaml");

#[test]
fn pods_get_what_they_ask_for_and_kubectl_reaches_into_them() {
    let mut cluster = Cluster::start("pods", &[]);
    let archive = cluster.folder.join("busybox.tar");
    busybox::archive(&archive);
    let imported = cluster.command(&["image", "import", &archive.to_string_lossy()]);
    assert!(imported.status.success(), "{}", text(&imported));
    let said = cluster.folder.join("said");
    for manifests in [SHOWS, ENDS, &LIVES.replace("SAID_FOLDER", &said.to_string_lossy())] {
        cluster.kubectl_with(&["create", "-f", "-"], manifests);
    }
    shows_environment_and_names(&cluster);
    shows_order_and_volumes(&cluster);
    shows_security(&cluster);
    shows_the_host_and_the_api(&cluster);
    tells_how_pods_end(&cluster);
    tells_why_pods_do_not_start(&cluster);
    restarts_what_is_sick(&cluster);
    gates_endpoints_by_readiness(&cluster);
    reads_logs(&cluster);
    executes_and_copies(&cluster);
    attaches_and_forwards(&cluster);
    runs_and_debugs(&cluster);
    brings_volumes_up_to_date(&cluster);
    ends_by_hooks_and_grace(&cluster, &said);
    rotates_logs(&cluster);
    drains(&cluster);
    ends_pods_with_their_node(&mut cluster, &said);
}

fn pod(cluster: &Cluster, name: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&format!("get pod {name} -o json"))).unwrap()
}

/// The pod once it is as wanted.
fn pod_once(cluster: &Cluster, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let found = pod(cluster, name);
        if wanted(&found) {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "pod {name} is {:#}", found["status"]);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn ended(cluster: &Cluster, name: &str) -> Value {
    pod_once(cluster, name, |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
}

/// What a container said, once its pod has ended.
fn said(cluster: &Cluster, name: &str, container: &str) -> String {
    ended(cluster, name);
    cluster.kubectl(&format!("logs {name} -c {container}"))
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no line {line:?} in:\n{text}");
    }
}

fn shows_environment_and_names(cluster: &Cluster) {
    let told = said(cluster, "env", "main");
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    let ip = cluster.kubectl("get pod env -o jsonpath={.status.podIP}");
    let addresses =
        [format!("IP={ip}"), format!("HOST_IP={node}"), format!("{ip}\tnamed.below.default.svc.cluster.local\tnamed")];
    assert_lines(&told, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    assert_lines(
        &told,
        &[
            "arg=blue kept=$(COLOUR) unknown=$(NOBODY)",
            "ALL_shape=round",
            "user=ali",
            "CHAINED=blue-$(PASSWORD)",
            "CHAINED_LATE=blue-sesame",
            "POD=env",
            "LABEL=front",
            "NODE=node-1",
            "ACCOUNT=default",
            "CPU_LIMIT=1",
            "CPU_MILLI=100",
            "MEMORY_MI=64",
            "10.9.8.7\talias.example",
            "search default.svc.cluster.local svc.cluster.local cluster.local",
            "options ndots:5",
            "host=named fqdn=named.below.default.svc.cluster.local",
        ],
    );
    assert!(!told.contains("ABSENT="), "{told}");
}

fn shows_order_and_volumes(cluster: &Cluster) {
    let told = said(cluster, "order", "main");
    assert!(told.starts_with("first\nbeside\nsecond\nquick\n"), "{told}");
    assert!(told.contains("tmpfs on /fast type tmpfs") && told.contains("size=4096k"), "{told}");
    let told = said(cluster, "files", "main");
    assert_lines(
        &told,
        &[
            "config/deep/colour 400 blue",
            "config/shape 444 round",
            "secret/password 644 sesame",
            "about/labels 644 kept=\"yes\"",
            "about/cpu 644 250",
            "all/mine/colour 644 blue",
            "all/mine/user 644 ali",
            "all/name 644 files",
            "one 444 round",
            "read-only",
            "tmpfs",
        ],
    );
    for part in ["\"aud\":[\"elsewhere\"]", "\"pod\":{\"name\":\"files\"", "system:serviceaccount:default:default"] {
        assert!(told.contains(part), "{part} is not in the token:\n{told}");
    }
}

fn shows_security(cluster: &Cluster) {
    let told = said(cluster, "secure", "main");
    assert_lines(
        &told,
        &[
            "uid=1234 gid=2345 groups=2345,4000,4001",
            "mine 4000 2777",
            "wrote-volume",
            "touch: /file: Read-only file system",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "no-unshare",
        ],
    );
    let told = said(cluster, "secure", "capable");
    assert_lines(&told, &["CapEff:\t00000000a80435fb", "Seccomp:\t0", "added-address"]);
    assert_lines(&said(cluster, "privileged", "main"), &["mounted"]);
}

fn shows_the_host_and_the_api(cluster: &Cluster) {
    let told = said(cluster, "host", "main");
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    assert!(told.lines().next().unwrap_or_default().ends_with(&node), "{told}");
    let told = said(cluster, "token", "main");
    assert_lines(&told, &["namespace=default", "1"]);
    let refused = r#"User \"system:serviceaccount:default:default\" cannot list resource \"pods\""#;
    assert!(told.contains(refused), "{told}");
}

fn tells_how_pods_end(cluster: &Cluster) {
    let end = |name: &str, main: &str| {
        let pod = ended(cluster, name);
        let state = container(&pod, main)["state"]["terminated"].clone();
        let told = |key: &str| state[key].as_str().unwrap_or_default().trim().to_owned();
        let phase = pod["status"]["phase"].as_str().unwrap().to_owned();
        (phase, state["exitCode"].as_i64().unwrap_or(-1), told("reason"), told("message"))
    };
    let is = |phase: &str, code: i64, reason: &str, message: &str| (phase.into(), code, reason.into(), message.into());
    assert_eq!(end("never", "main"), is("Failed", 7, "Error", "said why"));
    assert_eq!(end("from-log", "main"), is("Failed", 1, "Error", "only in the log"));
    assert_eq!(end("on-failure", "main"), is("Succeeded", 0, "Completed", ""));
    assert_eq!(end("init-fails", "broken"), is("Failed", 1, "Error", ""));
    assert_eq!(end("hungry", "eater"), is("Failed", 137, "OOMKilled", ""));
    let late = ended(cluster, "late");
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
    let once = pod(cluster, "on-failure");
    assert_eq!(container(&once, "main")["restartCount"], 1);
}

fn tells_why_pods_do_not_start(cluster: &Cluster) {
    let expected = [
        ("no-image", "ImagePullBackOff", "Back-off pulling image \"127.0.0.1:1/nobody:v1\": ErrImagePull: "),
        ("never-pulled", "ErrImageNeverPull", "is not present with pull policy of Never"),
        (
            "bad-name",
            "InvalidImageName",
            "Failed to apply default image tag \"UPPER//case:v1\": couldn't parse image name",
        ),
        ("bad-command", "CrashLoopBackOff", "restarting failed container=main pod=bad-command_default("),
        ("crash", "CrashLoopBackOff", "restarting failed container=main pod=crash_default("),
        ("unhooked", "CrashLoopBackOff", "restarting failed container=main pod=unhooked_default("),
        ("no-config", "CreateContainerConfigError", "configmap \"nobody\" not found"),
        ("no-key", "CreateContainerConfigError", "couldn't find key nokey in Secret default/hidden"),
        ("root-refused", "CreateContainerConfigError", "container has runAsNonRoot and image will run as root (pod: "),
    ];
    for (name, reason, message) in expected {
        let pod = pod_once(cluster, name, |pod| container(pod, "main")["state"]["waiting"]["reason"] == reason);
        let told = container(&pod, "main")["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains(message), "{name}: {told}");
    }
    let refused = pod(cluster, "bad-command");
    let last = &container(&refused, "main")["lastState"]["terminated"];
    assert_eq!((last["reason"].as_str(), last["exitCode"].as_i64()), (Some("StartError"), Some(128)));
    let crashed = pod(cluster, "crash");
    assert_eq!(container(&crashed, "main")["lastState"]["terminated"]["message"], "bye\n");
    assert!(cluster.kubectl("logs crash --previous").contains("start"));
    let events = cluster.kubectl(
        "get events -o jsonpath={range.items[*]}{.involvedObject.name}{\":\"}{.reason}{\":\"}{.message}{\"\\n\"}{end}",
    );
    for told in [
        "no-volume:FailedMount:MountVolume.SetUp failed for volume \"config\" : configmap \"nobody\" not found",
        "no-host-path:FailedMount:MountVolume.SetUp failed for volume \"host\" : hostPath type check failed: /no/such/folder is not a directory",
        "bad-name:InspectFailed:",
        "unhooked:FailedPostStartHook:",
        "crash:BackOff:Back-off restarting failed container main in pod crash_default(",
    ] {
        assert!(events.contains(told), "no event {told:?} in:\n{events}");
    }
}

fn restarts_what_is_sick(cluster: &Cluster) {
    let sick = pod_once(cluster, "sick", |pod| container(pod, "main")["restartCount"].as_i64() >= Some(1));
    assert_eq!(container(&sick, "main")["lastState"]["terminated"]["exitCode"], 137);
    let events =
        cluster.kubectl("get events --field-selector involvedObject.name=sick -o jsonpath={.items[*].message}");
    assert!(events.contains("Container main failed liveness probe, will be restarted"), "{events}");
    pod_once(cluster, "probed", |pod| container(pod, "web")["ready"] == true);
    let unready = pod(cluster, "unprobed");
    for name in ["http", "grpc"] {
        assert_eq!(container(&unready, name)["ready"], false);
    }
}

fn gates_endpoints_by_readiness(cluster: &Cluster) {
    let ready = || cluster.kubectl("get endpoints gate -o jsonpath={.subsets[*].addresses[*].ip}");
    cluster.until("the endpoint that is not ready", || {
        let found = cluster.kubectl("get endpoints gate -o jsonpath={.subsets[*].notReadyAddresses[*].ip}");
        (!found.is_empty()).then_some(())
    });
    assert_eq!(ready(), "");
    cluster.kubectl("exec gate -- touch /tmp/ready");
    cluster.until("the endpoint that is ready", || (!ready().is_empty()).then_some(()));
    cluster.kubectl("exec gate -- rm /tmp/ready");
    cluster.until("the endpoint that is ready no more", || ready().is_empty().then_some(()));
}

fn reads_logs(cluster: &Cluster) {
    pod_once(cluster, "shell", |pod| ["main", "echo", "web"].iter().all(|name| container(pod, name)["ready"] == true));
    assert_eq!(cluster.kubectl("logs shell -c main --tail=2"), "line 5\nto-stderr\n");
    let stamped = cluster.kubectl("logs shell -c main --timestamps --limit-bytes=60");
    assert!(stamped.starts_with("20") && stamped.contains("Z line 1"), "{stamped}");
    assert!(cluster.kubectl("logs shell -c main --since=1h").starts_with("line 1\n"));
    let unnamed = cluster.refused(&["logs", "shell", "-c", "nobody"], "");
    assert!(unnamed.contains("container nobody is not valid for pod shell"), "{unnamed}");
    let mut following =
        kubectl(cluster, &["logs", "-f", "shell", "-c", "main", "--tail=1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "to-stderr");
    cluster.kubectl_with(&["exec", "shell", "-c", "main", "--", "sh", "-c", "echo followed > /proc/1/fd/1"], "");
    assert_eq!(lines.next().unwrap().unwrap(), "followed");
    following.kill().unwrap();
    following.wait().unwrap();
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(arguments);
    command
}

fn executes_and_copies(cluster: &Cluster) {
    let script = ["exec", "-i", "shell", "-c", "main", "--", "sh", "-c", "cat; echo err >&2; exit 4"];
    let output = cluster.try_kubectl(&script, "typed\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "typed\n");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("err\n"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(4));
    let typed = format!(
        "kubectl --kubeconfig {} exec -it shell -c main -- sh -c 'tty && echo $TERM'",
        cluster.kubeconfig().display()
    );
    let mut session = Command::new("script");
    session.args(["-qec", &typed, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut session = session.spawn().unwrap();
    // A keyboard stays while its user looks on.
    let keyboard = session.stdin.take();
    let output = session.wait_with_output().unwrap();
    drop(keyboard);
    assert!(text(&output).contains("/dev/pts/0") && text(&output).contains("xterm"), "{}", text(&output));
    let (there, back) = (cluster.folder.join("there"), cluster.folder.join("back"));
    std::fs::write(&there, vec![b'x'; 300_000]).unwrap();
    cluster.kubectl(&format!("cp {} shell:/tmp/copied -c main", there.display()));
    cluster.kubectl(&format!("cp shell:/tmp/copied {} -c main", back.display()));
    assert_eq!(std::fs::read(&back).unwrap().len(), 300_000);
}

fn attaches_and_forwards(cluster: &Cluster) {
    for round in ["once", "again"] {
        let mut attached = kubectl(cluster, &["attach", "-i", "shell", "-c", "echo"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(attached.stdin.as_ref().unwrap(), "attached {round}").unwrap();
        let line = format!("attached {round}\n");
        cluster.until("the line typed into the container", || {
            cluster.kubectl("logs shell -c echo").contains(&line).then_some(())
        });
        drop(attached.stdin.take());
        attached.kill().unwrap();
        attached.wait().unwrap();
    }
    assert_eq!(container(&pod(cluster, "shell"), "echo")["restartCount"], 0);
    let mut forward = kubectl(cluster, &["port-forward", "pod/shell", ":8080"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(forward.stdout.take().unwrap()));
    let line = lines.next().unwrap().unwrap();
    let address = line.split(' ').nth(2).unwrap().to_owned();
    for _ in 0..3 {
        let answer = Command::new("curl").args(["-sS", "-m", "5", &format!("http://{address}/")]).output().unwrap();
        assert!(text(&answer).starts_with("Hello from pod shell"), "{}", text(&answer));
    }
    forward.kill().unwrap();
    forward.wait().unwrap();
}

fn runs_and_debugs(cluster: &Cluster) {
    let run = ["run", "once", "--rm", "-i", "--restart=Never", "--image=test.local/busybox:v1", "--", "cat"];
    let output = cluster.try_kubectl(&run, "piped\n");
    assert!(output.status.success() && text(&output).contains("piped\n"), "{}", text(&output));
    cluster.kubectl("debug shell --image=test.local/busybox:v1 --target=main -c look -- sh -c ps");
    pod_once(cluster, "shell", |pod| container(pod, "look")["state"]["terminated"]["exitCode"] == 0);
    assert!(cluster.kubectl("logs shell -c look").contains("for line in 1 2 3 4 5"));
}

fn brings_volumes_up_to_date(cluster: &Cluster) {
    let look = || cluster.kubectl("exec shell -c main -- cat /c/value /one");
    assert_eq!(look(), "beforebefore");
    cluster.kubectl_with(&["patch", "configmap", "changing", "-p", r#"{"data":{"value":"after"}}"#], "");
    // What is mounted by a subPath stays as it was.
    cluster.until("the new value in the volume", || (look() == "afterbefore").then_some(()));
}

fn ends_by_hooks_and_grace(cluster: &Cluster, said: &std::path::Path) {
    pod_once(cluster, "hooked", |pod| container(pod, "main")["ready"] == true);
    let began = Instant::now();
    cluster.kubectl("delete pod hooked stubborn --wait=true");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(15), "the grace was 2 s, it took {took:?}");
    assert_eq!(std::fs::read_to_string(said.join("hooks")).unwrap(), "post\npre\nterm\n");
}

fn rotates_logs(cluster: &Cluster) {
    let uid = ended(cluster, "wordy")["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(cluster.kubectl("logs wordy --tail=1"), "last\n");
    let found = Command::new("find")
        .arg(&cluster.folder)
        .args(["-path", &format!("*wordy_{uid}/main/*"), "-type", "f"])
        .output();
    let files = text(&found.unwrap());
    assert!(files.lines().count() >= 2, "{files}");
    for file in files.lines() {
        assert!(std::fs::metadata(file).unwrap().len() <= 11 << 20, "{file} is too long");
    }
}

fn drains(cluster: &Cluster) {
    cluster.kubectl("cordon node-1");
    assert!(cluster.kubectl("get nodes").contains("Ready,SchedulingDisabled"));
    let drained = cluster.kubectl("drain node-1 --force --delete-emptydir-data --grace-period=1 --timeout=60s");
    assert!(drained.contains("node/node-1 drained"), "{drained}");
    assert_eq!(cluster.kubectl("get pods -o name"), "");
    cluster.kubectl("uncordon node-1");
    assert!(!cluster.kubectl("get nodes").contains("SchedulingDisabled"));
}

fn ends_pods_with_their_node(cluster: &mut Cluster, said: &std::path::Path) {
    let hooked = LIVES.split("---\n").find(|one| one.contains("{name: hooked}")).unwrap();
    std::fs::remove_file(said.join("hooks")).unwrap();
    cluster.kubectl_with(&["create", "-f", "-"], &hooked.replace("SAID_FOLDER", &said.to_string_lossy()));
    pod_once(cluster, "hooked", |pod| container(pod, "main")["ready"] == true);
    cluster.down();
    assert_eq!(std::fs::read_to_string(said.join("hooks")).unwrap(), "post\npre\nterm\n");
    cluster.up(&[]);
    let runs = |pod: &Value| container(pod, "main")["restartCount"] == 1 && container(pod, "main")["ready"] == true;
    pod_once(cluster, "hooked", runs);
}
