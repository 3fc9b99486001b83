//! Admission's driver: shows each plugin the write, answers what it asks, and asks again. Source of the order:
//! `coracle_admission::PLUGINS`.

use std::sync::Arc;

use coracle_access::Attributes;
use coracle_admission::{Answer, Ask, Charge, Context, Facts, PLUGINS, Plugin, Request, Verdict};
use coracle_cache::LocalView;
use coracle_cache::store::TxnResponse;
use coracle_kinds::Kind;
use coracle_meta::{Object, Quantity, Resource, Status, User, Value};
use coracle_reconcile::View;

use crate::authorise::decide;
use crate::call::Served;
use crate::server::Server;
use crate::store;

const ASKS_MAX: usize = 32;
const CHARGE_TRIES_MAX: usize = 20;

struct Cached<'a>(&'a LocalView);

impl Facts for Cached<'_> {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(resource, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.0.list(resource, namespace)
    }
}

/// How a write is admitted: on trial, nothing outside it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Real,
    DryRun,
}

/// Lets every plugin change the object.
pub async fn mutate(server: &Server, request: &Request<'_>, object: &mut Value, mode: Mode) -> Result<(), Status> {
    let suffix = suffix(server);
    for plugin in PLUGINS {
        let mut answers = Vec::new();
        loop {
            let facts = Cached(&server.view);
            let context = Context { facts: &facts, answers: &answers, suffix: &suffix };
            match plugin.mutate(request, object, &context) {
                Verdict::Admit | Verdict::Mutate => break,
                Verdict::Deny(status) => return Err(status),
                Verdict::Ask(ask) => answer(server, (*plugin, request.user), ask, &mut answers, mode).await?,
            }
        }
    }
    Ok(())
}

/// Lets every plugin refuse the object as it would be stored.
pub async fn validate(server: &Server, request: &Request<'_>, object: &Value, mode: Mode) -> Result<(), Status> {
    for plugin in PLUGINS {
        let mut answers = Vec::new();
        loop {
            let facts = Cached(&server.view);
            let context = Context { facts: &facts, answers: &answers, suffix: "" };
            match plugin.validate(request, object, &context) {
                Verdict::Admit | Verdict::Mutate => break,
                Verdict::Deny(status) => return Err(status),
                Verdict::Ask(ask) => answer(server, (*plugin, request.user), ask, &mut answers, mode).await?,
            }
        }
    }
    Ok(())
}

async fn answer(
    server: &Server,
    (plugin, user): (&dyn Plugin, &User),
    ask: Ask,
    answers: &mut Vec<Answer>,
    mode: Mode,
) -> Result<(), Status> {
    if answers.len() >= ASKS_MAX {
        return Err(Status::internal(format!("admission plugin {} asks without end", plugin.name())));
    }
    let answer = match ask {
        Ask::Read { resource, namespace, name } => {
            let kind = known(&resource)?;
            let cache = server.resource(kind).await?;
            Answer::Object(cache.get_fresh(&namespace, &name).await.map_err(store::failed)?)
        }
        Ask::Permit { verb, resource, name } => {
            let asked = Attributes { name: &name, ..Attributes::of(user, verb, &resource) };
            Answer::Permitted(decide(server, &asked).is_allowed())
        }
        Ask::Charge(_) if mode == Mode::DryRun => Answer::Charged(Ok(())),
        Ask::Charge(charge) => Answer::Charged(pay(server, &charge).await?),
    };
    answers.push(answer);
    Ok(())
}

fn known(resource: &Resource) -> Result<&'static Kind, Status> {
    coracle_kinds::find(resource).ok_or_else(|| Status::internal(format!("no kind for {resource}")))
}

/// Adds to a quota's `status.used` by compare-and-swap. A quota that is gone charges nothing.
async fn pay(server: &Server, charge: &Charge) -> Result<Result<(), String>, Status> {
    let quotas = Served::stored("", "resourcequotas").ok_or_else(|| Status::internal("no quotas"))?;
    let cache = server.resource(quotas.kind).await?;
    for _ in 0..CHARGE_TRIES_MAX {
        let found = cache.get_fresh(&charge.namespace, &charge.quota).await.map_err(store::failed)?;
        let Some(object) = found else { return Ok(Ok(())) };
        let mut quota = store::tree(&object)?;
        let mut exceeded = Vec::new();
        for (resource, amount) in &charge.amounts {
            let read = |part: &str, field: &str| Quantity::from_value(quota.at(&[part, field, resource])).ok();
            let used = read("status", "used").unwrap_or(Quantity::ZERO);
            let Some(hard) = read("spec", "hard") else { continue };
            let sum = used.plus(*amount);
            if sum > hard {
                exceeded.push((resource, *amount, used, hard));
            }
            quota.set(&["status", "used", resource], sum.to_string());
        }
        if !exceeded.is_empty() {
            return Ok(Err(refusal(&charge.quota, &exceeded)));
        }
        let hard = quota.at(&["spec", "hard"]).clone();
        quota.set_default(&["status", "hard"], hard);
        match store::swap(server, quotas.kind, &object, &mut quota).await? {
            TxnResponse::Done { .. } => return Ok(Ok(())),
            TxnResponse::Refused { .. } => {}
        }
    }
    let resource = Resource::new("", "resourcequotas");
    Err(Status::conflict(&resource, &charge.quota, "the quota could not be charged"))
}

fn refusal(quota: &str, exceeded: &[(&String, Quantity, Quantity, Quantity)]) -> String {
    let list = |pick: fn(&(&String, Quantity, Quantity, Quantity)) -> Quantity| {
        let parts = exceeded.iter().map(|entry| format!("{}={}", entry.0, pick(entry)));
        parts.collect::<Vec<_>>().join(",")
    };
    let (requested, used, limited) = (list(|entry| entry.1), list(|entry| entry.2), list(|entry| entry.3));
    format!("exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}")
}

/// Five characters as generated names have them.
pub fn suffix(server: &Server) -> String {
    coracle_meta::names::generate_name("", |bound| server.dice.below(bound as u64) as usize)
}
