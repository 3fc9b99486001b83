//! Requests a second at 64 connections: GET of one object, LIST of 500, durable create. One side after the other, in
//! alternating runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::load::{Measured, Next};
use crate::table::{Row, Samples};
use crate::target::Target;

const CONNECTIONS: usize = 64;
const LISTED: usize = 500;
/// One listed object changes this often, so that no answer can be kept for long.
const CHANGE_EVERY: Duration = Duration::from_millis(100);

/// What one run of one case on one side gave.
#[derive(Default)]
struct Side {
    rate: Samples,
    p99_ms: Samples,
    /// Server CPU for a request; empty where its processes are not known.
    cpu_us: Samples,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Get,
    List,
    Create,
}

impl Case {
    const ALL: [Case; 3] = [Case::Get, Case::List, Case::Create];

    fn title(self) -> (&'static str, &'static str) {
        match self {
            Case::Get => ("GET", "5× the peer"),
            Case::List => ("LIST 500", "15× less CPU"),
            Case::Create => ("durable create", "3× the peer"),
        }
    }
}

/// Alternates between the sides; without a peer ours is measured alone.
pub async fn measure(ours: &Target, peer: Option<&Target>, runs: usize, window: Duration) -> Result<Vec<Row>> {
    let sides: Vec<&Target> = [Some(ours), peer].into_iter().flatten().collect();
    for target in &sides {
        prepare(target).await?;
    }
    let mut rows = Vec::new();
    for case in Case::ALL {
        let mut measured = [Side::default(), Side::default()];
        for run in 0..runs {
            for (side, target) in measured.iter_mut().zip(&sides) {
                side.add(target, case, run, window).await.with_context(|| format!("{case:?}"))?;
            }
        }
        rows.extend(case_rows(case, measured));
    }
    Ok(rows)
}

fn case_rows(case: Case, [ours, peer]: [Side; 2]) -> Vec<Row> {
    let (title, goal) = case.title();
    let row = |what: &str, unit, goal, ours, peer| Row { case: format!("{title}, {what}"), unit, ours, peer, goal };
    let rate_goal = if case == Case::List { "" } else { goal };
    let cpu_goal = if case == Case::List { goal } else { "" };
    vec![
        row("64 connections", "1/s", rate_goal, ours.rate, peer.rate),
        row("p99", "ms", "", ours.p99_ms, peer.p99_ms),
        row("server CPU each", "µs", cpu_goal, ours.cpu_us, peer.cpu_us),
    ]
}

impl Side {
    async fn add(&mut self, target: &Target, case: Case, run: usize, window: Duration) -> Result<()> {
        let before = target.cpu_seconds();
        let measured = match case {
            Case::List => changing(target, target.endpoint.load(CONNECTIONS, window, next(target, case, run))).await,
            _ => target.endpoint.load(CONNECTIONS, window, next(target, case, run)).await,
        }?;
        ensure!(measured.failed == 0, "{} of {} requests failed", measured.failed, measured.answered);
        self.rate.0.push(measured.per_second());
        self.p99_ms.0.extend(measured.latencies_ms.quantile(0.99));
        if !target.pids.is_empty() {
            self.cpu_us.0.push((target.cpu_seconds() - before) / measured.answered as f64 * 1e6);
        }
        Ok(())
    }
}

fn next(target: &Target, case: Case, run: usize) -> Arc<Next> {
    let (endpoint, path) = (target.endpoint.clone(), target.path("configmaps"));
    match case {
        Case::Get => {
            let request = endpoint.get(&format!("{path}/listed-0"));
            Arc::new(move |_| Some(request.clone()))
        }
        Case::List => {
            let request = endpoint.get(&format!("{path}?limit={LISTED}"));
            Arc::new(move |_| Some(request.clone()))
        }
        Case::Create => {
            // Beside the listed ones, so that LIST stays as large as it is.
            let post = "POST /api/v1/namespaces/default/configmaps";
            let process = std::process::id();
            Arc::new(move |number| {
                Some(endpoint.send(post, "application/json", &config_map(&format!("b-{process}-{run}-{number}"))))
            })
        }
    }
}

/// The first listed object changes while `load` runs.
async fn changing(target: &Target, load: impl Future<Output = Result<Measured>>) -> Result<Measured> {
    let change = async {
        let path = format!("{}/listed-0", target.path("configmaps"));
        for turn in 0u64.. {
            target.merge(&path, &json!({"metadata": {"labels": {"turn": turn.to_string()}}})).await?;
            tokio::time::sleep(CHANGE_EVERY).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        measured = load => measured,
        ended = change => Err(ended.err().context("the change of a listed object ended")?),
    }
}

/// An object of about 1 KB.
fn config_map(name: &str) -> String {
    let data = "x".repeat(1000);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{data}"}}}}"#)
}

async fn prepare(target: &Target) -> Result<()> {
    let (endpoint, post) = (target.endpoint.clone(), format!("POST {}", target.path("configmaps")));
    let next: Arc<Next> = Arc::new(move |number| {
        let body = (number < LISTED as u64).then(|| config_map(&format!("listed-{number}")))?;
        Some(endpoint.send(&post, "application/json", &body))
    });
    let made = target.endpoint.load(8, Duration::from_secs(60), next).await?;
    ensure!(made.failed == 0, "{} of {LISTED} objects could not be made", made.failed);
    Ok(())
}
