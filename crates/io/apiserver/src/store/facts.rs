//! What admission reads of the cluster is no older than what this server has written: a quota, a range of limits or a
//! class counts for the very next write. The watch cache alone would lag behind by a turn of its feed.

use std::sync::atomic::{AtomicU64, Ordering};

use coracle_kinds::Kind;
use coracle_meta::{Resource, Status};

use super::store_failed;
use crate::server::Server;

/// The kinds that admission plugins read without asking, and that change seldom.
const KINDS: [Resource; 9] = [
    Resource::new("", "namespaces"),
    Resource::new("", "resourcequotas"),
    Resource::new("", "limitranges"),
    Resource::new("", "serviceaccounts"),
    Resource::new("scheduling.k8s.io", "priorityclasses"),
    Resource::new("node.k8s.io", "runtimeclasses"),
    Resource::new("storage.k8s.io", "storageclasses"),
    Resource::new("storage.k8s.io", "volumeattributesclasses"),
    Resource::new("networking.k8s.io", "ingressclasses"),
];

/// How far those kinds were written, and how far their caches are known to have followed.
#[derive(Default)]
pub struct Facts {
    written: AtomicU64,
    seen: AtomicU64,
}

impl Facts {
    /// Takes note of a write that is done.
    pub fn note(&self, kind: &Kind, revision: u64) {
        if KINDS.iter().any(|known| known.plural == kind.plural && known.group == kind.group) {
            self.written.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// Until the caches show every write noted before the call.
    pub async fn wait(&self, server: &Server) -> Result<(), Status> {
        let written = self.written.load(Ordering::Acquire);
        if self.seen.load(Ordering::Acquire) >= written {
            return Ok(());
        }
        for kind in KINDS.iter().filter_map(coracle_kinds::find) {
            server.resource(kind).await?.sync().await.map_err(store_failed)?;
        }
        self.seen.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }
}
