//! A real etcd as the store: the trait's words in etcd's, and back.

mod compact;
mod connect;
mod version;
mod watch;

pub use compact::Turn;

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_cache::store::{
    Detail, KeyValue, Op, Progress, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse,
    WatchStream,
};
use coracle_proto::etcd as wire;
use coracle_proto::etcd::kv_client::KvClient;
use coracle_proto::etcd::lease_client::LeaseClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::compare::{CompareResult, CompareTarget, TargetUnion};
use wire::request_op::Request;

/// As kube-apiserver has it: a list of all pods of a large cluster fits.
const MESSAGE_BYTES_MAX: usize = 2 << 30;

/// How to reach an etcd cluster.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `https://host:2379`, or `http://…`; the first that answers is used.
    pub endpoints: Vec<String>,
    /// PEM files, as kube-apiserver's `--etcd-cafile`, `--etcd-certfile` and `--etcd-keyfile`.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("reading {file}")]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{file} holds no usable certificate or key: {why}")]
    Certificate { file: PathBuf, why: String },
    #[error("--datastore is not an address of etcd: {0}")]
    Address(String),
    #[error("certificate and key are given together or not at all")]
    HalfIdentity,
    #[error("no etcd answers at {endpoints}: {why}")]
    Unreachable { endpoints: String, why: String },
}

pub struct Etcd {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watches: watch::Watches,
    progress: Progress,
}

impl Etcd {
    pub async fn connect(options: &EtcdOptions) -> Result<Etcd, EtcdError> {
        let (channel, version) = connect::connect(options).await?;
        let progress = match version::reports_progress(&version) {
            true => Progress::Requested,
            false => Progress::Unsupported,
        };
        tracing::info!(version, ?progress, "connected to etcd");
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let lease = LeaseClient::new(channel.clone());
        Ok(Etcd { kv, lease, watches: watch::Watches::new(channel), progress })
    }

    /// Leases granted for the puts of a transaction, one per duration.
    async fn grant(&self, ops: &[Op]) -> Result<Vec<(u64, i64)>, StoreError> {
        let mut granted: Vec<(u64, i64)> = Vec::new();
        for op in ops {
            let Op::Put { lease_seconds: seconds @ 1.., .. } = op else { continue };
            if !granted.iter().any(|(known, _)| known == seconds) {
                let request = wire::LeaseGrantRequest { ttl: *seconds as i64, id: 0 };
                let answer = self.lease.clone().lease_grant(request).await.map_err(failed)?;
                granted.push((*seconds, answer.into_inner().id));
            }
        }
        Ok(granted)
    }

    /// Why a transaction was refused: the first compare whose key, read in the same transaction, does not match.
    fn refusal(txn: &Txn, answer: wire::TxnResponse, revision: Revision) -> Result<TxnResponse, StoreError> {
        for (compare, response) in txn.compares.iter().zip(answer.responses) {
            let Some(wire::response_op::Response::ResponseRange(found)) = response.response else { continue };
            let current = found.kvs.into_iter().next().map(key_value);
            if current.as_ref().map_or(0, |current| current.mod_revision) != compare.mod_revision {
                return Ok(TxnResponse::Refused { key: compare.key.clone(), current, revision });
            }
        }
        Err(StoreError::Unavailable("etcd refused a transaction whose compares hold".into()))
    }
}

#[async_trait]
impl Store for Etcd {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let asked = request.at.unwrap_or(0);
        let wire_request = wire::RangeRequest {
            key: request.start,
            range_end: request.end,
            limit: request.limit as i64,
            revision: asked as i64,
            keys_only: request.detail == Detail::KeysOnly,
            count_only: request.detail == Detail::CountOnly,
            ..wire::RangeRequest::default()
        };
        let answer = self.kv.clone().range(wire_request).await.map_err(|status| at_revision(status, asked))?;
        let answer = answer.into_inner();
        Ok(RangeResponse {
            revision: revision_of(answer.header.as_ref()),
            items: answer.kvs.into_iter().map(key_value).collect(),
            count: answer.count as u64,
            more: answer.more,
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let leases = self.grant(&txn.then).await?;
        let request = wire::TxnRequest {
            compare: txn.compares.iter().map(compare).collect(),
            success: txn.then.iter().map(|op| wire::RequestOp { request: Some(operation(op, &leases)) }).collect(),
            failure: txn.compares.iter().map(|compare| read(&compare.key)).collect(),
        };
        let answer = self.kv.clone().txn(request).await.map_err(failed)?.into_inner();
        let revision = revision_of(answer.header.as_ref());
        match answer.succeeded {
            true => Ok(TxnResponse::Done { revision }),
            false => Etcd::refusal(&txn, answer, revision),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        self.watches.open(start, end, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let request = wire::CompactionRequest { revision: revision as i64, physical: false };
        self.kv.clone().compact(request).await.map_err(|status| at_revision(status, revision))?;
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        // A read that goes through the quorum and finds nothing.
        let request = wire::RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..Default::default() };
        let answer = self.kv.clone().range(request).await.map_err(failed)?;
        Ok(revision_of(answer.into_inner().header.as_ref()))
    }

    async fn request_progress(&self) -> Result<Progress, StoreError> {
        if self.progress == Progress::Requested {
            self.watches.request_progress();
        }
        Ok(self.progress)
    }
}

fn compare(compare: &coracle_cache::store::Compare) -> wire::Compare {
    wire::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: compare.key.clone(),
        target_union: Some(TargetUnion::ModRevision(compare.mod_revision as i64)),
        range_end: Bytes::new(),
    }
}

fn operation(op: &Op, leases: &[(u64, i64)]) -> Request {
    match op {
        Op::Delete { key } => {
            Request::RequestDeleteRange(wire::DeleteRangeRequest { key: key.clone(), ..Default::default() })
        }
        Op::Put { key, value, lease_seconds } => {
            let lease = leases.iter().find(|(seconds, _)| seconds == lease_seconds).map_or(0, |(_, id)| *id);
            let (key, value) = (key.clone(), value.clone());
            Request::RequestPut(wire::PutRequest { key, value, lease, ..Default::default() })
        }
    }
}

fn read(key: &Bytes) -> wire::RequestOp {
    let request = wire::RangeRequest { key: key.clone(), ..Default::default() };
    wire::RequestOp { request: Some(Request::RequestRange(request)) }
}

fn key_value(entry: wire::KeyValue) -> KeyValue {
    KeyValue {
        key: entry.key,
        value: entry.value,
        create_revision: entry.create_revision as u64,
        mod_revision: entry.mod_revision as u64,
        version: entry.version as u64,
    }
}

fn revision_of(header: Option<&wire::ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision as u64)
}

fn failed(status: Status) -> StoreError {
    match status.code() {
        Code::ResourceExhausted if status.message().contains("database space exceeded") => StoreError::Full,
        _ => StoreError::Unavailable(format!("etcd: {}", status.message())),
    }
}

/// etcd tells in words alone that a revision is out of its reach; it does not say what its reach is.
fn at_revision(status: Status, asked: Revision) -> StoreError {
    match status.message() {
        text if text.contains("has been compacted") => StoreError::Compacted { asked, oldest: asked + 1 },
        text if text.contains("is a future revision") => StoreError::Future { asked, newest: asked.saturating_sub(1) },
        _ => failed(status),
    }
}
