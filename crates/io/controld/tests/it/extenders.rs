//! An extender over real HTTP: what it is sent, and what becomes of what it answers.

use coracle_meta::{Gates, Resource};
use coracle_scheduler::Scheduler;
use coracle_scheduler::config::Configuration;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::world::{World, node, pod};

/// Answers each request with the next of these: a code and a body. Tells what was asked: the path and the body.
async fn serve(answers: Vec<(u16, Value)>) -> (String, mpsc::UnboundedReceiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a request of HTTP/1.1");
    let url = format!("http://{}/sched", listener.local_addr().expect("a request of HTTP/1.1"));
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for (code, answer) in answers {
            let (stream, _) = listener.accept().await.expect("a request of HTTP/1.1");
            let mut stream = BufReader::new(stream);
            let (mut head, mut length) = (Vec::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.expect("a request of HTTP/1.1");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a request of HTTP/1.1");
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push(line);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.expect("a request of HTTP/1.1");
            let path = head[0].split(' ').nth(1).expect("a request of HTTP/1.1").to_owned();
            let _ = sender.send((path, serde_json::from_slice(&body).expect("a request of HTTP/1.1")));
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {code} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            stream.write_all(format!("{head}{answer}").as_bytes()).await.expect("a request of HTTP/1.1");
            stream.shutdown().await.expect("a request of HTTP/1.1");
        }
    });
    (url, asked)
}

fn scheduler(extender: Value) -> Scheduler {
    gated(extender, Gates::default())
}

fn gated(extender: Value, gates: Gates) -> Scheduler {
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extenders": [extender],
    });
    Configuration::read(config).and_then(|read| read.scheduler(gates)).expect("a configuration")
}

fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<String> = list
        .as_array()
        .expect("a request of HTTP/1.1")
        .iter()
        .map(|node| node["metadata"]["name"].as_str().expect("a request of HTTP/1.1").into())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn nodes_are_sent_whole_and_the_answer_decides() {
    let scores = json!([{"Host": "b", "Score": 10}, {"Host": "c", "Score": 0}]);
    let kept = json!({"nodes": {"items": [{"metadata": {"name": "b"}}, {"metadata": {"name": "c"}}]},
                      "failedNodes": {"a": "no"}, "error": ""});
    let bound = json!({"Error": ""});
    let (url, mut asked) = serve(vec![(200, kept), (200, scores), (200, bound)]).await;
    let extender = json!({"urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "weight": 1,
                          "bindVerb": "bind"});
    let objects = [node("a"), node("b"), node("c"), pod("p", 0, 100, "")];
    let mut world = World::start(scheduler(extender), objects, &[]);
    let (path, args) = asked.recv().await.unwrap();
    assert_eq!(path, "/sched/filter");
    assert_eq!(
        (names(&args["Nodes"]["items"]), &args["NodeNames"]),
        (vec!["a".into(), "b".into(), "c".into()], &Value::Null)
    );
    assert_eq!((&args["Pod"]["metadata"]["name"], &args["Pod"]["kind"]), (&json!("p"), &Value::Null));
    let (path, args) = asked.recv().await.unwrap();
    assert_eq!((path.as_str(), names(&args["Nodes"]["items"])), ("/sched/prioritize", vec!["b".into(), "c".into()]));
    let (path, args) = asked.recv().await.unwrap();
    assert_eq!(path, "/sched/bind");
    assert_eq!(args, json!({"PodName": "p", "PodNamespace": "n", "PodUID": "p-uid", "Node": "b"}));
    let event = world.seen("/namespaces/n/events").await;
    assert_eq!(event.body["note"], "Successfully assigned n/p to b");
    assert_eq!(world.end().await, Vec::<String>::new(), "the extender binds, nobody else");
}

#[tokio::test]
async fn a_failing_extender_fails_the_pod_in_its_words() {
    let (url, _asked) = serve(vec![(500, Value::Null), (200, json!({"Error": "out of licences"}))]).await;
    let extender = json!({"urlPrefix": url, "filterVerb": "filter", "nodeCacheCapable": true});
    let mut world = World::start(scheduler(extender), [node("a"), pod("p", 0, 100, "")], &[]);
    let said = world.seen("pods/p/status").await.body["status"]["conditions"][0].clone();
    assert_eq!(said["reason"], "SchedulerError");
    assert_eq!(said["message"], format!("failed filter with extender at URL {url}/filter, code 500"));
    world.pass(1);
    world.cluster.put(&crate::world::NODES, node("b").1);
    let said = world.seen("pods/p/status").await.body["status"]["conditions"][0].clone();
    assert_eq!(said["message"], "out of licences");
    world.end().await;
}

#[tokio::test]
async fn one_that_is_not_there_is_passed_over_where_it_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let extender =
        |ignorable: bool| json!({"urlPrefix": format!("http://{address}"), "filterVerb": "f", "ignorable": ignorable});
    let objects = || [node("a"), pod("p", 0, 100, "")];
    let mut world = World::start(scheduler(extender(true)), objects(), &[]);
    world.seen("pods/p/binding").await;
    world.end().await;
    let mut world = World::start(scheduler(extender(false)), objects(), &[]);
    let said = world.seen("pods/p/status").await.body["status"]["conditions"][0]["message"].clone();
    assert_eq!(said, format!("Post \"http://{address}/f\": dial tcp {address}: connect: connection refused"));
    world.end().await;
}

#[tokio::test]
async fn victims_are_named_by_uid_to_those_that_know_the_pods() {
    let victims = json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "low-uid"}], "NumPDBViolations": 0}}});
    let (url, mut asked) = serve(vec![(200, victims)]).await;
    let extender = json!({"urlPrefix": url, "preemptVerb": "preempt", "nodeCacheCapable": true});
    let objects = [node("a"), pod("low", 0, 1500, "a"), pod("p", 9, 1500, "")];
    let mut world = World::start(scheduler(extender), objects, &[]);
    let (path, args) = asked.recv().await.unwrap();
    assert_eq!(path, "/sched/preempt");
    assert_eq!(args["NodeNameToMetaVictims"], json!({"a": {"Pods": [{"UID": "low-uid"}], "NumPDBViolations": 0}}));
    assert_eq!(args["NodeNameToVictims"], Value::Null);
    world.seen("DELETE /api/v1/namespaces/n/pods/low").await;
    world.end().await;
}

#[tokio::test]
async fn the_pods_of_a_gang_are_asked_about_one_by_one_and_bound_together() {
    let kept = json!({"NodeNames": ["b"]});
    let (url, mut asked) = serve(vec![(200, kept.clone()), (200, kept)]).await;
    let extender = json!({"urlPrefix": url, "filterVerb": "filter", "nodeCacheCapable": true});
    let group = json!({
        "apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "metadata": {"name": "g", "namespace": "n"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
    });
    let member = |name: &str| {
        let (resource, mut pod) = pod(name, 0, 100, "");
        pod["spec"]["schedulingGroup"] = json!({"podGroupName": "g"});
        (resource, pod)
    };
    let objects =
        [node("a"), node("b"), (Resource::new("scheduling.k8s.io", "podgroups"), group), member("p"), member("q")];
    let mut world = World::start(gated(extender, Gates::GANGS), objects, &[]);
    for name in ["p", "q"] {
        let (path, args) = asked.recv().await.unwrap();
        assert_eq!((path.as_str(), &args["Pod"]["metadata"]["name"]), ("/sched/filter", &json!(name)));
    }
    let bound = world.seen("/binding").await;
    assert_eq!(bound.body["target"]["name"], "b");
    world.seen("/binding").await;
    world
        .counted("scheduler_podgroup_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1")
        .await;
    world.counted("scheduler_podgroup_scheduling_algorithm_duration_seconds_count 1").await;
    world.end().await;
}
