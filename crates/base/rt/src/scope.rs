//! Tasks belong to a scope: it starts them, tells them to stop and waits until they have. A task that panics ends its
//! scope, so that nothing goes on half alive.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A group of tasks that end together. Clones are the same scope; children end with their parent.
#[derive(Clone, Debug)]
pub struct Scope {
    name: &'static str,
    token: CancellationToken,
    tracker: TaskTracker,
}

/// How closing a scope ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Every task returned.
    Clean,
    /// Some task was still running at the deadline.
    Late,
}

impl Scope {
    pub fn root() -> Scope {
        Scope { name: "root", token: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// A scope of its own that is cancelled with this one. This one's `close` waits for its tasks too.
    pub fn child(&self, name: &'static str) -> Scope {
        Scope { name, token: self.token.child_token(), tracker: self.tracker.clone() }
    }

    /// Starts a task. It is told to stop through `cancelled`, never dropped in mid-work.
    pub fn spawn<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(task, Box::pin(future));
    }

    /// The work is on the heap from the start: each layer around it would hold room for it twice.
    fn start(&self, task: &'static str, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let guard = CancelOnPanic { scope: self.clone(), task, armed: true };
        let span = tracing::debug_span!("task", component = self.name, task);
        self.tracker.spawn(
            async move {
                let mut guard = guard;
                future.await;
                guard.armed = false;
            }
            .instrument(span),
        );
    }

    /// Starts a task that may be dropped at any await once the scope is cancelled: for work without clean-up.
    pub fn spawn_until_cancelled<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (token, future) = (self.token.clone(), Box::pin(future));
        self.spawn(task, async move {
            token.run_until_cancelled(future).await;
        });
    }

    /// Resolves once the scope is to end.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Tells every task to stop, without waiting.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Tells every task to stop and waits for them, at most until the deadline. Of a child it waits for the siblings
    /// too, so only roots are closed.
    pub async fn close(&self, deadline: Duration) -> Closed {
        self.token.cancel();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Closed::Clean,
            Err(_) => Closed::Late,
        }
    }
}

struct CancelOnPanic {
    scope: Scope,
    task: &'static str,
    armed: bool,
}

impl Drop for CancelOnPanic {
    fn drop(&mut self) {
        if self.armed && std::thread::panicking() {
            tracing::error!(component = self.scope.name, task = self.task, "task panicked, its scope ends");
            self.scope.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_waits_for_every_task() {
        let scope = Scope::root();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let inner = scope.child("inner");
        inner.clone().spawn("work", async move {
            inner.cancelled().await;
            sender.send(()).expect("the test holds the receiver");
        });
        assert_eq!(scope.close(Duration::from_secs(10)).await, Closed::Clean);
        assert!(receiver.await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_ends_the_scope() {
        let scope = Scope::root();
        scope.spawn("broken", async { panic!("on purpose") });
        scope.cancelled().await;
        assert!(scope.is_cancelled());
    }
}
