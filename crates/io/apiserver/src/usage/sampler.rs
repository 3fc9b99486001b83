//! When a node is read anew and which reading is kept for comparison. A node that does not answer is left out for a
//! while, which the log tells once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::Status;
use coracle_rt::Scope;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::points::{Pair, Reading};

/// How far apart the first two readings are, when there is nothing to compare a first one with.
const APART: Duration = Duration::from_millis(500);
/// Answers follow readings no faster than this.
const FRESH: Duration = Duration::from_secs(1);
/// After so long without a question a reading is of no use.
const KEPT: Duration = Duration::from_secs(90);
/// How long a node that did not answer is not asked again.
const AVOIDED: Duration = Duration::from_secs(15);

/// The readings of all nodes that were asked for lately. What it holds is bound by the nodes there are.
pub struct Sampler {
    /// The span that rates are told over once questions keep coming, and the age of what is told without a new reading.
    resolution: Duration,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    by_name: HashMap<String, Entry>,
    /// Whether a task waits to forget them.
    is_watched: bool,
}

struct Entry {
    asked: Instant,
    /// Held while the node is read, so that many who ask at once cause one reading.
    kept: Arc<tokio::sync::Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    pair: Option<(Arc<Pair>, Instant)>,
    failed: Option<Instant>,
    is_told: bool,
}

impl Sampler {
    pub fn new(resolution: Duration) -> Arc<Sampler> {
        Arc::new(Sampler { resolution, nodes: Mutex::default() })
    }

    /// Two readings of a node, the later one fresh; `None` where the node does not answer.
    pub async fn readings<F>(self: &Arc<Self>, scope: &Scope, node: &str, read: impl Fn() -> F) -> Option<Arc<Pair>>
    where
        F: Future<Output = Result<Reading, Status>>,
    {
        let kept = self.entry(scope, node);
        let mut kept = kept.lock().await;
        if kept.failed.is_some_and(|failed| failed.elapsed() < AVOIDED) {
            return None;
        }
        if let Some(pair) = kept.current(self.resolution) {
            return Some(pair);
        }
        match kept.renew(self.resolution, read).await {
            Ok(pair) => {
                if std::mem::take(&mut kept.is_told) {
                    tracing::info!(component = "apiserver", node, "the node's usage is known again");
                }
                kept.failed = None;
                Some(pair)
            }
            Err(status) => {
                if !std::mem::replace(&mut kept.is_told, true) {
                    let why = status.message;
                    tracing::warn!(component = "apiserver", node, why, "the node's usage is not to be had");
                }
                (kept.pair, kept.failed) = (None, Some(Instant::now()));
                None
            }
        }
    }

    fn entry(self: &Arc<Self>, scope: &Scope, node: &str) -> Arc<tokio::sync::Mutex<Kept>> {
        let mut nodes = self.nodes.lock();
        if !std::mem::replace(&mut nodes.is_watched, true) {
            scope.spawn_until_cancelled("usage-forgetting", self.clone().forget());
        }
        let entry = nodes
            .by_name
            .entry(node.to_owned())
            .or_insert_with(|| Entry { asked: Instant::now(), kept: Arc::default() });
        entry.asked = Instant::now();
        entry.kept.clone()
    }

    /// Waits as long as anything is kept, and drops what nobody asks for.
    async fn forget(self: Arc<Self>) {
        loop {
            tokio::time::sleep(KEPT).await;
            let mut nodes = self.nodes.lock();
            nodes.by_name.retain(|_, entry| entry.asked.elapsed() < KEPT);
            if nodes.by_name.is_empty() {
                *nodes = Nodes::default();
                return;
            }
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let nodes = self.nodes.lock();
        nodes.by_name.is_empty() && !nodes.is_watched
    }
}

impl Kept {
    /// What needs no reading: one that is just made, or one that spans the resolution and is no older than that.
    fn current(&self, resolution: Duration) -> Option<Arc<Pair>> {
        let (pair, read) = self.pair.as_ref()?;
        let fresh = match spans(pair, resolution) {
            true => resolution,
            false => FRESH.min(resolution),
        };
        (read.elapsed() < fresh).then(|| pair.clone())
    }

    async fn renew<F>(&mut self, resolution: Duration, read: impl Fn() -> F) -> Result<Arc<Pair>, Status>
    where
        F: Future<Output = Result<Reading, Status>>,
    {
        let last = self.pair.take().filter(|(_, read)| read.elapsed() < KEPT);
        let earlier = match last {
            // The span grows until it is as long as it should be; then it moves on.
            Some((pair, _)) if spans(&pair, resolution) => pair.later.clone(),
            Some((pair, _)) => pair.earlier.clone(),
            None => {
                let first = read().await?;
                tokio::time::sleep(APART).await;
                first
            }
        };
        let pair = Arc::new(Pair { earlier, later: read().await? });
        self.pair = Some((pair.clone(), Instant::now()));
        Ok(pair)
    }
}

fn spans(pair: &Pair, resolution: Duration) -> bool {
    u128::try_from(pair.window_millis()).is_ok_and(|window| window >= resolution.as_millis())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::points::Point;
    use super::*;

    const RESOLUTION: Duration = Duration::from_secs(10);

    /// A node that is read at the test's own time, and counts how often.
    struct Node {
        sampler: Arc<Sampler>,
        scope: Scope,
        began: Instant,
        reads: AtomicUsize,
    }

    impl Node {
        fn new() -> Node {
            let (sampler, scope) = (Sampler::new(RESOLUTION), Scope::root());
            Node { sampler, scope, began: Instant::now(), reads: AtomicUsize::new(0) }
        }

        /// The window in milliseconds, and the reads so far.
        async fn ask(&self) -> (Option<i64>, usize) {
            let pair = self.sampler.readings(&self.scope, "n", || async {
                self.reads.fetch_add(1, Ordering::SeqCst);
                let at = self.began.elapsed().as_millis() as i64 + 1;
                Ok(Reading { node: Point { at, ..Point::default() }, ..Reading::default() })
            });
            let window = pair.await.map(|pair| pair.window_millis());
            (window, self.reads.load(Ordering::SeqCst))
        }

        async fn after(&self, seconds: u64) -> (Option<i64>, usize) {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            self.ask().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_question_reads_twice_and_the_window_then_grows_to_the_resolution() {
        let node = Node::new();
        assert_eq!(node.ask().await, (Some(500), 2));
        assert_eq!(node.ask().await, (Some(500), 2), "just read");
        assert_eq!(node.after(3).await, (Some(3500), 3));
        assert_eq!(node.after(8).await, (Some(11_500), 4));
        assert_eq!(node.after(8).await, (Some(11_500), 4), "spans enough and is young enough");
        assert_eq!(node.after(7).await, (Some(15_000), 5), "moves on");
        assert_eq!(node.after(15).await, (Some(15_000), 6), "as an autoscaler asks");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_forgotten_and_leaves_no_timer() {
        let node = Node::new();
        node.ask().await;
        assert!(!node.sampler.is_empty());
        tokio::time::sleep(KEPT * 3).await;
        assert!(node.sampler.is_empty());
        assert_eq!(node.ask().await, (Some(500), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_is_avoided_for_a_while() {
        let (sampler, scope, reads) = (Sampler::new(RESOLUTION), Scope::root(), AtomicUsize::new(0));
        let ask = async || {
            let read = || async {
                reads.fetch_add(1, Ordering::SeqCst);
                Err(Status::internal("no route"))
            };
            (sampler.readings(&scope, "n", read).await.is_some(), reads.load(Ordering::SeqCst))
        };
        assert_eq!(ask().await, (false, 1));
        assert_eq!(ask().await, (false, 1));
        tokio::time::advance(AVOIDED).await;
        assert_eq!(ask().await, (false, 2));
    }
}
