//! What a write is charged to quotas. The quotas are read from the store, and their new usage is written in the same
//! transaction as the object: either both stand or neither, and of two writes that would exceed a quota together one
//! meets the other's charge.

use std::hash::{DefaultHasher, Hash, Hasher};

use coracle_admission::Charge;
use coracle_cache::store::{Compare, Op, Txn};
use coracle_kinds::Kind;
use coracle_meta::{Object, Quantity, Resource, Status, Value};
use tokio::sync::{Mutex, MutexGuard};

use super::{at_rest, encode, failed, key, tree};
use crate::server::Server;

const QUOTAS: Resource = Resource::new("", "resourcequotas");

/// Writes to one namespace that are charged wait for each other rather than meet in the store again and again.
/// Namespaces share turns by chance; the number bounds nothing else.
pub struct Turns([Mutex<()>; 64]);

impl Default for Turns {
    fn default() -> Turns {
        Turns(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    async fn take(&self, namespace: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        self.0[hasher.finish() as usize % self.0.len()].lock().await
    }
}

/// The charges of one write; held until it is done.
#[derive(Default)]
pub struct Charges<'a> {
    more: Txn,
    turn: Option<MutexGuard<'a, ()>>,
}

impl<'a> Charges<'a> {
    /// Adds to what a quota counts as used, or says why it must not be. A quota that is gone charges nothing.
    pub async fn add(&mut self, server: &'a Server, charge: &Charge) -> Result<Result<(), String>, Status> {
        let kind = coracle_kinds::find(&QUOTAS).ok_or_else(|| Status::internal("no quotas"))?;
        if self.turn.is_none() {
            self.turn = Some(server.turns.take(&charge.namespace).await);
        }
        let cache = server.resource(kind).await?;
        let found = cache.get_fresh(&charge.namespace, &charge.quota).await.map_err(failed)?;
        let Some(object) = found else { return Ok(Ok(())) };
        let mut quota = tree(&object)?;
        if let Err(why) = spend(&mut quota, charge) {
            return Ok(Err(why));
        }
        self.write(server, kind, &object, &mut quota)?;
        Ok(Ok(()))
    }

    /// Puts the charges into the transaction that writes the object.
    pub fn join(&self, txn: &mut Txn) {
        txn.compares.extend(self.more.compares.iter().cloned());
        txn.then.extend(self.more.then.iter().cloned());
    }

    fn write(&mut self, server: &Server, kind: &Kind, object: &Object, quota: &mut Value) -> Result<(), Status> {
        let key = key(kind, &object.meta.namespace, &object.meta.name);
        let value = at_rest(server, &key, encode(kind, quota)?)?;
        self.more.compares.push(Compare { key: key.clone(), mod_revision: object.revision });
        self.more.then.push(Op::Put { key, value, lease_seconds: 0 });
        Ok(())
    }
}

/// Counts the charge into the quota's status, where its bounds allow that.
fn spend(quota: &mut Value, charge: &Charge) -> Result<(), String> {
    let mut exceeded = Vec::new();
    for (resource, amount) in &charge.amounts {
        let read = |field: &str| Quantity::from_value(quota.at(&["status", field, resource])).ok();
        let Some(hard) = read("hard") else { continue };
        let used = read("used").unwrap_or(Quantity::ZERO);
        let sum = used.plus(*amount);
        if sum > hard {
            exceeded.push((resource.as_str(), *amount, used, hard));
        }
        quota.set(&["status", "used", resource], sum.to_string());
    }
    if exceeded.is_empty() { Ok(()) } else { Err(refusal(&charge.quota, &mut exceeded)) }
}

fn refusal(quota: &str, exceeded: &mut [(&str, Quantity, Quantity, Quantity)]) -> String {
    exceeded.sort_by_key(|entry| entry.0);
    let list = |pick: fn(&(&str, Quantity, Quantity, Quantity)) -> Quantity| {
        let parts = exceeded.iter().map(|entry| format!("{}={}", entry.0, pick(entry)));
        parts.collect::<Vec<_>>().join(",")
    };
    let (requested, used, limited) = (list(|entry| entry.1), list(|entry| entry.2), list(|entry| entry.3));
    format!("exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(amounts: &[(&str, &str)]) -> Charge {
        let amounts = amounts.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap()));
        Charge { namespace: "n".into(), quota: "q".into(), amounts: amounts.collect() }
    }

    #[test]
    fn a_quota_is_spent_until_a_bound_is_met() {
        let json = br#"{"status":{"hard":{"pods":"2","cpu":"1"},"used":{"pods":"0","cpu":"0"}}}"#;
        let mut quota = Value::from_json(json).unwrap();
        assert_eq!(spend(&mut quota, &charge(&[("pods", "1"), ("cpu", "600m")])), Ok(()));
        assert_eq!(quota.str_at(&["status", "used", "cpu"]), "600m");
        let refused = spend(&mut quota, &charge(&[("pods", "1"), ("cpu", "600m")]));
        assert_eq!(refused, Err("exceeded quota: q, requested: cpu=600m, used: cpu=600m, limited: cpu=1".into()));
    }
}
