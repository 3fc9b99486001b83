//! Forgetting etcd's history as kube-apiserver does: every five minutes one of all servers that share the etcd compacts
//! to the revision of five minutes before. They agree by the version of one key, `compact_rev_key`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_cache::store::{Revision, Store, StoreError};
use coracle_proto::etcd as wire;
use coracle_rt::Scope;
use wire::compare::{CompareResult, CompareTarget, TargetUnion};
use wire::request_op::Request;

use super::{Etcd, failed, revision_of};

const KEY: &[u8] = b"compact_rev_key";
const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// What this server knew after its last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The key's version.
    version: i64,
    /// The store's newest revision then.
    revision: Revision,
}

impl Etcd {
    /// Takes part in compaction until the scope ends.
    pub fn compact_by_turns(self: &Arc<Self>, scope: &Scope) {
        let etcd = self.clone();
        scope.spawn_until_cancelled("etcd-compaction", async move {
            let mut turn = Turn::default();
            loop {
                tokio::time::sleep(INTERVAL).await;
                match etcd.compaction_turn(turn).await {
                    Ok(next) => turn = next,
                    Err(error) => tracing::warn!(%error, "compacting etcd failed, the next turn tries again"),
                }
            }
        });
    }

    /// One turn: whoever still finds the key as it left it compacts; the others learn how far everything is.
    pub async fn compaction_turn(&self, last: Turn) -> Result<Turn, StoreError> {
        let compare = wire::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: Bytes::from_static(KEY),
            target_union: Some(TargetUnion::Version(last.version)),
            range_end: Bytes::new(),
        };
        let value = Bytes::from(last.revision.to_string());
        let put = wire::PutRequest { key: Bytes::from_static(KEY), value, ..Default::default() };
        let get = wire::RangeRequest { key: Bytes::from_static(KEY), ..Default::default() };
        let step = |request| vec![wire::RequestOp { request: Some(request) }];
        let (success, failure) = (step(Request::RequestPut(put)), step(Request::RequestRange(get)));
        let request = wire::TxnRequest { compare: vec![compare], success, failure };
        let answer = self.kv.clone().txn(request).await.map_err(failed)?.into_inner();
        let revision = revision_of(answer.header.as_ref());
        if !answer.succeeded {
            return Ok(Turn { version: version_of(&answer), revision });
        }
        match last.revision {
            // The first turn knows no revision that is old enough.
            0 => (),
            old => match self.compact(old).await {
                Ok(()) | Err(StoreError::Compacted { .. }) => tracing::debug!(revision = old, "compacted etcd"),
                Err(error) => return Err(error),
            },
        }
        Ok(Turn { version: last.version + 1, revision })
    }
}

fn version_of(answer: &wire::TxnResponse) -> i64 {
    let found = answer.responses.first().and_then(|response| response.response.as_ref());
    match found {
        Some(wire::response_op::Response::ResponseRange(range)) => range.kvs.first().map_or(0, |entry| entry.version),
        _ => 0,
    }
}
