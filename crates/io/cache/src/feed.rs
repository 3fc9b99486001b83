//! Keeps one resource's cache in step with the store: a list, then a watch from there on, and again from the start
//! when the store no longer has the place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::Object;
use coracle_reconcile::Change;
use futures_util::StreamExt;

use crate::resource::{CacheError, ResourceCache};
use crate::store::{Detail, RangeRequest, Revision, StoreError, StoreEvent, WatchBatch};

const PAGE_MAX: usize = 10_000;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl ResourceCache {
    /// Runs until the store is closed.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut pause = PAUSE_FIRST;
        loop {
            let before = self.revision();
            match self.follow_once().await {
                Ok(()) | Err(CacheError::Store(StoreError::Closed)) => return,
                Err(error) => tracing::warn!(kind = %self.resource, %error, "following the store failed"),
            }
            pause = if self.revision() > before { PAUSE_FIRST } else { (pause * 2).min(PAUSE_MAX) };
            tokio::time::sleep(pause).await;
        }
    }

    /// One list, then its watch, taken up again where it broke off as long as the store still has that place.
    async fn follow_once(&self) -> Result<(), CacheError> {
        let (objects, revision) = self.list_all().await?;
        self.replace(objects, revision);
        loop {
            let from = self.revision() + 1;
            let mut watch = self.store.watch(self.prefix.start(), self.prefix.end(), from).await?;
            while let Some(batch) = watch.next().await {
                match batch {
                    Ok(batch) => self.take(batch),
                    Err(StoreError::Slow) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    async fn list_all(&self) -> Result<(BTreeMap<Arc<str>, Arc<Object>>, Revision), CacheError> {
        let mut objects = BTreeMap::new();
        let mut start = self.prefix.start();
        let mut at = None;
        loop {
            let end = self.prefix.end();
            let request = RangeRequest { start, end, at, limit: PAGE_MAX, detail: Detail::Full };
            let answer = self.store.range(request).await?;
            let revision = at.unwrap_or(answer.revision);
            at = Some(revision);
            for entry in &answer.items {
                let Some(path) = self.prefix.path_of(&entry.key) else { continue };
                match self.object_of(entry) {
                    Ok(object) => drop(objects.insert(path.into(), object)),
                    Err(error) => tracing::error!(kind = %self.resource, %error, "an unreadable object is left out"),
                }
            }
            let Some(last) = answer.items.last().filter(|_| answer.more) else { return Ok((objects, revision)) };
            start = [&last.key[..], b"\0"].concat().into();
        }
    }

    /// Takes a whole list over. Sinks are told the difference; watchers, who must see every step, begin anew.
    fn replace(&self, objects: BTreeMap<Arc<str>, Arc<Object>>, revision: Revision) {
        let sinks = self.sinks.lock();
        let mut changes = Vec::new();
        {
            let mut state = self.state.write();
            let surplus: Vec<_> = state.objects.keys().filter(|path| !objects.contains_key(*path)).cloned().collect();
            for path in surplus {
                changes.extend(state.apply(&path, None, revision));
            }
            for (path, object) in objects {
                if state.objects.get(&path).is_none_or(|known| known.revision != object.revision) {
                    changes.extend(state.apply(&path, Some(object), revision));
                }
            }
            state.revision = revision;
            state.last_change = revision;
            state.window.reset(revision);
        }
        self.tell(&sinks, &changes, revision);
    }

    fn take(&self, batch: WatchBatch) {
        let changed: Vec<_> = batch.events.iter().filter_map(|event| self.change_of(event)).collect();
        let sinks = self.sinks.lock();
        let mut changes = Vec::with_capacity(changed.len());
        {
            let mut state = self.state.write();
            for (path, object, revision) in changed {
                changes.extend(state.apply(path, object, revision));
            }
            state.revision = state.revision.max(batch.revision);
        }
        self.tell(&sinks, &changes, batch.revision);
    }

    fn change_of<'a>(&self, event: &'a StoreEvent) -> Option<(&'a str, Option<Arc<Object>>, Revision)> {
        match event {
            StoreEvent::Delete { key, revision, .. } => Some((self.prefix.path_of(key)?, None, *revision)),
            StoreEvent::Put { current, .. } => {
                let path = self.prefix.path_of(&current.key)?;
                match self.decode(current) {
                    Ok(object) => Some((path, Some(object), current.mod_revision)),
                    Err(error) => {
                        tracing::error!(kind = %self.resource, %error, "an unreadable object is left out");
                        Some((path, None, current.mod_revision))
                    }
                }
            }
        }
    }

    fn tell(&self, sinks: &[coracle_reconcile::Sink], changes: &[Change], revision: Revision) {
        for change in changes {
            for sink in sinks {
                sink(&self.resource, change);
            }
        }
        self.told.send_replace(revision);
    }
}
