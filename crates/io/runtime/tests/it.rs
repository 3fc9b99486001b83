//! Real pods, as root: run, logs, exec, the daemon killed and another taking over, stop, and nothing left behind.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_image::{ImageConfig, Store};
use coracle_linux::frugal::Frugal;
use coracle_linux::zygote::{self, Zygote};
use coracle_proto::cri;
use coracle_rt::{Clock, Dice, Scope};
use coracle_runtime::network::NoNetwork;
use coracle_runtime::{EmbeddedRuntime, ExecOptions, Options, Places, Resize, teardown_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const IMAGE: &str = "coracle.local/test:latest";
/// As the daemon has it, so that shims have their memory as they have it there.
#[global_allocator]
static ALLOCATOR: Frugal<std::alloc::System> = Frugal(std::alloc::System);

const ROLE: &str = "CORACLE_TEST_DAEMON";

fn main() {
    let zygote = zygote::start().expect("a zygote");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    if let Ok(root) = std::env::var(ROLE) {
        return runtime.block_on(daemon(places(Path::new(&root)), zygote));
    }
    let root = std::env::temp_dir().join(format!("coracle-runtime-{}", std::process::id()));
    fs::create_dir_all(&root).expect("a folder");
    let places = places(&root);
    let outcome = std::panic::catch_unwind(|| runtime.block_on(tour(&root, &places, zygote)));
    runtime.block_on(teardown_all(&places, Duration::ZERO, None)).expect("a clean end");
    assert_nothing_is_left(&places);
    fs::remove_dir_all(&root).expect("removing the folder");
    if outcome.is_err() {
        std::process::exit(1);
    }
    println!("test pods_live_through_the_death_of_their_daemon ... ok");
}

fn places(root: &Path) -> Places {
    let name = root.file_name().expect("a name").to_string_lossy().into_owned();
    Places { state_dir: root.join("state"), data_dir: root.join("data"), cgroup_root: format!("/coracle-test-{name}") }
}

async fn open(places: &Places, zygote: Zygote) -> Arc<EmbeddedRuntime> {
    let images = Arc::new(Store::open(places.data_dir.join("images")).expect("a store"));
    let config =
        ImageConfig { entrypoint: vec!["/busybox".into()], env: vec!["FROM=image".into()], ..Default::default() };
    images.add_builtin(IMAGE, Path::new("/usr/bin/busybox"), config).expect("an image");
    let options = Options {
        state_dir: places.state_dir.clone(),
        data_dir: places.data_dir.clone(),
        cgroup_root: places.cgroup_root.clone(),
        images,
        network: Arc::new(NoNetwork),
        scope: Scope::root(),
        clock: Clock::system(),
        dice: Dice::system(),
    };
    EmbeddedRuntime::open(options, zygote).await.expect("a runtime")
}

/// Starts a pod with one container, says their names and waits to be killed.
async fn daemon(places: Places, zygote: Zygote) {
    let runtime = open(&places, zygote).await;
    let log_directory = places.data_dir.join("logs").to_string_lossy().into_owned();
    let (pod, config) = run_pod(&runtime, &log_directory).await;
    let script = "echo out; echo err >&2; trap 'echo bye; exit 7' TERM; while :; do /busybox sleep 0.05; done";
    let container = run(&runtime, &pod, &config, container("main", script)).await;
    println!("{pod} {container}");
    std::future::pending::<()>().await;
}

async fn run_pod(runtime: &Arc<EmbeddedRuntime>, log_directory: &str) -> (String, cri::PodSandboxConfig) {
    let metadata =
        cri::PodSandboxMetadata { name: "web".into(), uid: "u1".into(), namespace: "default".into(), attempt: 0 };
    let linux = cri::LinuxPodSandboxConfig {
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into(),
        ..Default::default()
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: "web".into(),
        log_directory: log_directory.into(),
        labels: HashMap::from([("app".to_owned(), "web".to_owned())]),
        linux: Some(linux),
        ..Default::default()
    };
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    (runtime.run_pod_sandbox(request).await.expect("a sandbox").pod_sandbox_id, config)
}

fn container(name: &str, script: &str) -> cri::ContainerConfig {
    let profile = cri::SecurityProfile { profile_type: 0, localhost_ref: String::new() };
    let context = cri::LinuxContainerSecurityContext {
        seccomp: Some(profile),
        namespace_options: Some(cri::NamespaceOption {
            pid: cri::NamespaceMode::Container as i32,
            ..Default::default()
        }),
        masked_paths: vec!["/proc/kcore".into(), "/proc/acpi".into()],
        readonly_paths: vec!["/proc/sys".into()],
        ..Default::default()
    };
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 102,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        oom_score_adj: -997,
        ..Default::default()
    };
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        args: vec!["sh".into(), "-c".into(), script.into()],
        envs: vec![cri::KeyValue { key: "WHO".into(), value: "pod".into() }],
        log_path: format!("{name}/0.log"),
        linux: Some(cri::LinuxContainerConfig { resources: Some(resources), security_context: Some(context) }),
        ..Default::default()
    }
}

async fn run(
    runtime: &Arc<EmbeddedRuntime>,
    pod: &str,
    sandbox: &cri::PodSandboxConfig,
    config: cri::ContainerConfig,
) -> String {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    };
    let id = runtime.create_container(request).await.expect("a container").container_id;
    runtime.start_container(&id).await.expect("a start");
    id
}

fn start_daemon(root: &Path) -> (Child, String, String) {
    let mut child = Command::new("/proc/self/exe").env(ROLE, root).stdout(Stdio::piped()).spawn().expect("a daemon");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its names");
    let (pod, container) = line.trim().split_once(' ').expect("two names");
    (child, pod.into(), container.into())
}

async fn status(runtime: &EmbeddedRuntime, id: &str) -> cri::ContainerStatus {
    runtime.container_status(id).await.expect("a status").status.expect("a status")
}

async fn pid(runtime: &EmbeddedRuntime, id: &str) -> String {
    runtime.container_status(id).await.expect("a status").info["pid"].clone()
}

async fn tour(root: &Path, places: &Places, zygote: Zygote) {
    let (mut daemon, pod, main) = start_daemon(root);
    daemon.kill().expect("kill -9");
    daemon.wait().expect("its end");
    let runtime = open(places, zygote).await;
    let before = status(&runtime, &main).await;
    assert_eq!(before.state, cri::ContainerState::ContainerRunning as i32, "adopted: {before:?}");
    assert!(Path::new("/proc").join(pid(&runtime, &main).await).exists());
    logs_have_the_format_of_the_cri(&before);
    inside_is_as_asked(&runtime, &main).await;
    exec_speaks(&runtime, &main).await;
    a_missing_program_is_told(&runtime, &pod).await;
    images_are_mounted_to_be_read_only(&runtime, &pod).await;
    terminals_and_attach_work(&runtime, &pod).await;
    a_dead_zygote_is_replaced(&runtime).await;
    starts_are_quick(&runtime, &pod).await;
    let mut events = runtime.events();
    runtime.stop_container(&main, Duration::from_secs(10)).await.expect("a stop");
    let after = status(&runtime, &main).await;
    assert_eq!((after.exit_code, after.started_at, after.reason.as_str()), (7, before.started_at, "Error"));
    let event = events.recv().await.expect("an event");
    assert_eq!((event.container_id, event.container_event_type), (main.clone(), 2));
    runtime.remove_pod_sandbox(&pod).await.expect("a removal");
    assert!(runtime.list_containers(None).await.expect("a list").is_empty());
    assert_nothing_is_left(places);
    namespaces_are_shared_as_asked(&runtime, root).await;
    a_pod_goes_while_it_is_written_about(&runtime).await;
    a_killed_shim_costs_its_pod_only(&runtime, places).await;
}

async fn namespaces_are_shared_as_asked(runtime: &Arc<EmbeddedRuntime>, root: &Path) {
    let host = cri::NamespaceMode::Node as i32;
    let namespaces = cri::NamespaceOption { network: host, ..Default::default() };
    let context =
        cri::LinuxSandboxSecurityContext { namespace_options: Some(namespaces.clone()), ..Default::default() };
    let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    let sandbox = cri::PodSandboxConfig { linux: Some(linux), ..Default::default() };
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let pod = runtime.run_pod_sandbox(request).await.expect("a sandbox").pod_sandbox_id;
    assert_eq!(runtime.netns_path(&pod).expect("a pod"), None);
    let volume = root.join("volume");
    let mount = |path: &str, readonly| cri::Mount {
        container_path: path.into(),
        host_path: volume.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    };
    let asked = |name: &str| {
        let mut config = container(name, "trap : TERM; while :; do /busybox sleep 0.05; done");
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("a context");
        context.namespace_options = Some(namespaces.clone());
        context.run_as_user = Some(cri::Int64Value { value: 1234 });
        context.run_as_group = Some(cri::Int64Value { value: 5678 });
        context.supplemental_groups = vec![99];
        context.no_new_privs = true;
        context.readonly_rootfs = true;
        config.mounts = vec![mount("/data/inner", true), mount("/data", false)];
        config.log_path = String::new();
        config
    };
    let first = run(runtime, &pod, &sandbox, asked("first")).await;
    let second = run(runtime, &pod, &sandbox, asked("second")).await;
    std::os::unix::fs::chown(&volume, Some(1234), Some(5678)).expect("chown");
    let b = "/busybox";
    let net = fs::read_link("/proc/self/ns/net").expect("a namespace").to_string_lossy().into_owned();
    let cases = [
        (format!("{b} readlink /proc/self/ns/net"), net.as_str()),
        (format!("{b} id -u; {b} id -g; {b} id -G"), "1234\n5678\n5678 99"),
        (
            format!("{b} cat /proc/1/comm; {b} grep -ls sleep /proc/[0-9]*/cmdline | {b} wc -l | {b} grep -c '[2-9]'"),
            "pause\n1",
        ),
        (
            format!("{b} grep NoNewPrivs /proc/self/status; {b} grep CapEff /proc/self/status"),
            "NoNewPrivs:\t1\nCapEff:\t0000000000000000",
        ),
        (
            format!(
                "echo x > /data/file; {b} cat /data/inner/file; echo y 2>/dev/null > /data/inner/file || echo refused"
            ),
            "x\nrefused",
        ),
        ("echo x 2>/dev/null > /file || echo refused".to_owned(), "refused"),
    ];
    for (script, expected) in cases {
        assert_eq!(sh(runtime, &first, &script).await.0, expected, "{script}");
    }
    runtime.stop_container(&second, Duration::from_millis(50)).await.expect("a stop");
    assert_eq!(status(runtime, &second).await.exit_code, 137);
    assert_eq!(status(runtime, &first).await.finished_at, 0);
    runtime.remove_pod_sandbox(&pod).await.expect("a removal");
}

fn logs_have_the_format_of_the_cri(status: &cri::ContainerStatus) {
    let wait = Instant::now();
    loop {
        let text = fs::read_to_string(&status.log_path).expect("a log");
        if text.lines().any(|line| line.ends_with(" stdout F out"))
            && text.lines().any(|line| line.ends_with(" stderr F err"))
        {
            return;
        }
        assert!(wait.elapsed() < Duration::from_secs(5), "{text}");
        std::thread::yield_now();
    }
}

async fn sh(runtime: &Arc<EmbeddedRuntime>, id: &str, script: &str) -> (String, i32) {
    let cmd = ["/busybox", "sh", "-c", script].map(String::from).to_vec();
    let done = runtime.exec_sync(id, cmd, Duration::from_secs(10)).await.expect("an exec");
    let text = [done.stdout, done.stderr].concat();
    (String::from_utf8_lossy(&text).trim().to_owned(), done.exit_code)
}

async fn inside_is_as_asked(runtime: &Arc<EmbeddedRuntime>, id: &str) {
    let b = "/busybox";
    let cases = [
        (format!("{b} hostname; {b} cat /etc/hostname; echo $FROM $WHO $HOME"), "web\nweb\nimage pod /"),
        (format!("{b} grep -c while /proc/1/cmdline"), "1"),
        (format!("{b} grep -c Seccomp:.2 /proc/self/status; {b} grep -c Seccomp:.2 /proc/1/status"), "1\n1"),
        (format!("{b} grep CapEff /proc/self/status"), "CapEff:\t00000000a80425fb"),
        (format!("{b} ip link show lo | {b} grep -c UP"), "1"),
        (format!("{b} cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0"),
        ("echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward || echo refused".to_owned(), "refused"),
        (format!("{b} unshare -U true 2>/dev/null || echo refused"), "refused"),
        (format!("echo x > /dev/null && {b} dd if=/dev/zero bs=4 count=1 2>/dev/null | {b} wc -c"), "4"),
        (format!("echo hi > /made && {b} cat /made && {b} ls /dev/shm /dev/mqueue"), "hi\n/dev/mqueue:\n\n/dev/shm:"),
        (
            format!("{b} cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"),
            "67108864",
        ),
        (format!("{b} mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo refused"), "refused"),
    ];
    for (script, expected) in cases {
        assert_eq!(sh(runtime, id, &script).await.0, expected, "{script}");
    }
}

async fn exec_speaks(runtime: &Arc<EmbeddedRuntime>, id: &str) {
    assert_eq!(sh(runtime, id, "exit 3").await.1, 3);
    let missing = runtime.exec_sync(id, vec!["nothing".into()], Duration::from_secs(5)).await.expect_err("a refusal");
    assert!(missing.message().contains("executable file not found in $PATH"), "{missing}");
    let sleep = ["/busybox", "sleep", "100"].map(String::from).to_vec();
    let late = runtime.exec_sync(id, sleep, Duration::from_millis(50)).await.expect_err("a timeout");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    let cmd = ["/busybox", "cat"].map(String::from).to_vec();
    let mut streams = runtime.exec(id, ExecOptions { cmd, tty: false, stdin: true }).await.expect("an exec");
    let mut stdin = streams.stdin.take().expect("stdin");
    stdin.write_all(b"through the pipe").await.expect("a write");
    drop(stdin);
    let mut text = String::new();
    streams.stdout.read_to_string(&mut text).await.expect("a read");
    assert_eq!(text, "through the pipe");
    assert_eq!(streams.exit.await.expect("an end").expect("a code"), 0);
    let cmd = ["/busybox", "sh", "-c", "read x; /busybox stty size; /busybox tty; exit 5"].map(String::from).to_vec();
    let mut streams = runtime.exec(id, ExecOptions { cmd, tty: true, stdin: true }).await.expect("an exec");
    streams.resize.send(Resize { columns: 91, rows: 17 }).await.expect("a size");
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    streams.stdin.as_mut().expect("stdin").write_all(b"go\n").await.expect("a write");
    let mut text = String::new();
    streams.stdout.read_to_string(&mut text).await.expect("a read");
    assert!(text.contains("17 91") && text.contains("/dev/pts/"), "{text:?}");
    assert_eq!(streams.exit.await.expect("an end").expect("a code"), 5);
}

async fn a_missing_program_is_told(runtime: &Arc<EmbeddedRuntime>, pod: &str) {
    let config = cri::ContainerConfig { command: vec!["/not/there".into()], ..container("broken", "") };
    let request =
        cri::CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
    let id = runtime.create_container(request).await.expect("a container").container_id;
    let error = runtime.start_container(&id).await.expect_err("a refusal");
    assert!(error.message().contains("exec /not/there: No such file or directory"), "{error}");
    let status = status(runtime, &id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    runtime.remove_container(&id).await.expect("a removal");
}

async fn images_are_mounted_to_be_read_only(runtime: &Arc<EmbeddedRuntime>, pod: &str) {
    let mount = |container_path: &str, image_sub_path: &str| cri::Mount {
        container_path: container_path.into(),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        image_sub_path: image_sub_path.into(),
        ..Default::default()
    };
    let start = async |name: &str, mounts: Vec<cri::Mount>| {
        let config = cri::ContainerConfig { mounts, ..container(name, "sleep 60") };
        let request =
            cri::CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        let id = runtime.create_container(request).await.expect("a container").container_id;
        (runtime.start_container(&id).await, id)
    };
    let (started, id) = start("reader", vec![mount("/volume", ""), mount("/tool", "busybox")]).await;
    started.expect("a start");
    let (out, code) = sh(runtime, &id, "cmp /volume/busybox /tool && cmp /tool /busybox && echo same").await;
    assert_eq!((out.as_str(), code), ("same", 0));
    for refused in ["touch /volume/x", "/volume/busybox true", "echo > /tool"] {
        assert_ne!(sh(runtime, &id, refused).await.1, 0, "{refused}");
    }
    runtime.remove_container(&id).await.expect("a removal");
    let (refused, id) = start("lost", vec![mount("/volume", "not/there")]).await;
    let error = refused.expect_err("a refusal");
    assert!(error.message().contains("taking not/there of"), "{error}");
    runtime.remove_container(&id).await.expect("a removal");
}

async fn terminals_and_attach_work(runtime: &Arc<EmbeddedRuntime>, pod: &str) {
    let (_, config) = (pod, cri::PodSandboxConfig::default());
    let script = "while read line; do echo got $line; done";
    for tty in [false, true] {
        let wanted = cri::ContainerConfig { tty, stdin: true, stdin_once: !tty, ..container("shell", script) };
        let id = run(runtime, pod, &config, wanted).await;
        let mut streams = runtime.attach(&id, true).await.expect("an attach");
        let mut stdin = streams.stdin.take().expect("stdin");
        stdin.write_all(b"one\n").await.expect("a write");
        let mut text = String::new();
        let mut buffer = [0; 100];
        while !text.contains("got one") {
            let length = streams.stdout.read(&mut buffer).await.expect("a read");
            assert!(length > 0, "{text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        if tty {
            stdin.write_all(&[4]).await.expect("an end of file");
        } else {
            drop(stdin);
        }
        assert_eq!(streams.exit.await.expect("an end").expect("a code"), 0);
        runtime.remove_container(&id).await.expect("a removal");
    }
}

async fn a_dead_zygote_is_replaced(runtime: &Arc<EmbeddedRuntime>) {
    let first = runtime.zygote_pid();
    coracle_linux::sys::kill(first, 9).expect("kill -9");
    while !coracle_linux::cgroup::is_zombie(first) {
        tokio::task::yield_now().await;
    }
    let (pod, config) = run_pod(runtime, "").await;
    assert_ne!(runtime.zygote_pid(), first);
    let quick = cri::ContainerConfig { log_path: String::new(), ..container("quick", "exit 4") };
    let id = run(runtime, &pod, &config, quick).await;
    while status(runtime, &id).await.finished_at == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status(runtime, &id).await.exit_code, 4);
    runtime.remove_pod_sandbox(&pod).await.expect("a removal");
}

/// Prints and does not judge: benches judge.
async fn starts_are_quick(runtime: &Arc<EmbeddedRuntime>, pod: &str) {
    let mut times = Vec::new();
    for number in 0..10 {
        runtime.warm();
        let begin = Instant::now();
        let id =
            run(runtime, pod, &cri::PodSandboxConfig::default(), container(&format!("quick{number}"), "exit 0")).await;
        times.push(begin.elapsed());
        runtime.remove_container(&id).await.expect("a removal");
    }
    times.sort();
    println!("create and start, warm: median {:?}, least {:?}", times[5], times[0]);
}

/// What is told of a pod is written into the folder that is being removed.
async fn a_pod_goes_while_it_is_written_about(runtime: &Arc<EmbeddedRuntime>) {
    for _ in 0..20 {
        let (pod, _) = run_pod(runtime, "").await;
        let (writer, written) = (runtime.clone(), pod.clone());
        let writing = tokio::spawn(async move {
            let told = cri::LinuxContainerResources::default();
            let gone = tonic::Code::NotFound;
            while writer.update_pod_sandbox_resources(&written, &told).await.map_err(|it| it.code()) != Err(gone) {
                tokio::task::yield_now().await;
            }
        });
        runtime.remove_pod_sandbox(&pod).await.expect("a removal");
        writing.await.expect("the writer's end");
    }
}

async fn a_killed_shim_costs_its_pod_only(runtime: &Arc<EmbeddedRuntime>, places: &Places) {
    let (first, config) = run_pod(runtime, "").await;
    let (second, _) = run_pod(runtime, "").await;
    let forever = || cri::ContainerConfig { log_path: String::new(), ..container("main", "/busybox sleep 1000") };
    let lost = run(runtime, &first, &config, forever()).await;
    let kept = run(runtime, &second, &config, forever()).await;
    let lost_pid: i32 = pid(runtime, &lost).await.parse().expect("a pid");
    let shim = fs::read_to_string(places.state_dir.join("pods").join(&first).join("shim.pid")).expect("a pid");
    let memory = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).expect("its memory");
    let private = memory.lines().find(|line| line.starts_with("Private_Dirty")).unwrap_or_default();
    println!("shim: {}", private.split_whitespace().collect::<Vec<_>>().join(" "));
    coracle_linux::sys::kill(shim.parse().expect("a number"), 9).expect("kill -9");
    while status(runtime, &lost).await.finished_at == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status(runtime, &lost).await.exit_code, 255);
    assert_eq!(status(runtime, &kept).await.finished_at, 0);
    let patience = Instant::now();
    while !coracle_linux::cgroup::is_zombie(lost_pid) {
        assert!(patience.elapsed() < Duration::from_secs(5), "the container outlives its shim");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    runtime.remove_pod_sandbox(&first).await.expect("a removal");
    // The second pod stays for the teardown that runs without a daemon.
}

fn assert_nothing_is_left(places: &Places) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let state = places.state_dir.to_string_lossy().into_owned();
    assert!(!mounts.contains(&state), "mounts are left: {mounts}");
    let name = places.cgroup_root.trim_start_matches('/');
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let root: PathBuf = hierarchy.path().join(name);
        let left = fs::read_dir(&root).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(left, 0, "cgroups are left below {}", root.display());
    }
}
