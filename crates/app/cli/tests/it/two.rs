//! Two clusters beside each other on one machine: neither notices the other's start, life or end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, fetch_from_host, processes_naming, traces};

const HELLO: &str = include_str!("../../../../../examples/hello.yaml");
const VANISH_MAX: Duration = Duration::from_secs(20);

#[test]
fn two_clusters_start_at_once_and_each_goes_alone() {
    let manifests = Manifests::write();
    let kept_file = manifests.of_port(30091);
    let kept_file = kept_file.to_str().unwrap();
    let fleeting_file = manifests.of_port(30092);
    let fleeting_file = fleeting_file.to_str().unwrap();
    let mut kept = Cluster::launch("kept", &["-f", kept_file]);
    let mut fleeting = Cluster::launch("fleeting", &["--ephemeral", "-f", fleeting_file]);
    kept.wait_until_up();
    fleeting.wait_until_up();
    answers(&kept, 30091);
    answers(&fleeting, 30092);

    let data = data_folder(&fleeting);
    assert!(data.exists() && !traces("fleeting", &data).is_empty(), "the ephemeral cluster is not in {data:?}");
    fleeting.kill();
    answers(&kept, 30091);
    let began = Instant::now();
    loop {
        let left = left_of("fleeting", &data);
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < VANISH_MAX, "left of a cluster that was killed: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    answers(&kept, 30091);
    assert_eq!(fetch_from_host(&url(&kept, 30092)), "", "somebody still answers for the ephemeral cluster");

    kept.end(&["reset", "--yes"]);
    assert_eq!(left_of("kept", &kept.folder.join("data")), Vec::<String>::new());
}

/// The manifests of the tour, each cluster with a port of its own: the node's ports are the machine's.
struct Manifests(PathBuf);

impl Manifests {
    fn write() -> Manifests {
        let folder = std::env::temp_dir().join(format!("coracle-test-two-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Manifests(folder)
    }

    fn of_port(&self, port: u16) -> PathBuf {
        let path = self.0.join(format!("{port}.yaml"));
        std::fs::write(&path, HELLO.replace("30080", &port.to_string())).unwrap();
        path
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn url(cluster: &Cluster, port: u16) -> String {
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    format!("http://{node}:{port}/")
}

fn answers(cluster: &Cluster, port: u16) {
    let url = url(cluster, port);
    cluster.until(&format!("an answer at {url}"), || {
        fetch_from_host(&url).starts_with("Hello from pod hello-").then_some(())
    });
}

/// Where an ephemeral cluster keeps its data, as it says at its start.
fn data_folder(cluster: &Cluster) -> PathBuf {
    let log = cluster.log();
    let line = log.lines().find_map(|line| line.strip_prefix("coracle: cluster ")).expect("the first line");
    PathBuf::from(line.rsplit_once("data in ").expect("the folder").1)
}

/// Everything that shows that there was a cluster: its kernel objects, its folder, its processes.
fn left_of(name: &str, data: &std::path::Path) -> Vec<String> {
    let mut left = traces(name, data);
    let registered = PathBuf::from(format!("/run/coracle/{name}.json"));
    left.extend(
        [data.to_owned(), registered].iter().filter(|path| path.exists()).map(|path| path.display().to_string()),
    );
    left.extend(processes_naming(&format!("--name {name} ")));
    left.extend(processes_naming(&format!("guard --data-dir {}", data.display())));
    left
}
