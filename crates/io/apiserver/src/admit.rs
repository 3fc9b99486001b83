//! Admission's driver: shows each plugin the write, answers what it asks, and asks again. Source of the order:
//! `coracle_admission::PLUGINS`.

use std::sync::Arc;

use coracle_access::Attributes;
use coracle_admission::{Answer, Ask, Context, Facts, PLUGINS, Plugin, Request, Verdict};
use coracle_cache::LocalView;
use coracle_kinds::Kind;
use coracle_meta::{Object, Resource, Status, User, Value};
use coracle_reconcile::View;

use crate::authorise::permits;
use crate::server::Server;
use crate::store;
use crate::store::charge::Charges;

const ASKS_MAX: usize = 32;

struct Cached<'a>(&'a LocalView);

impl Facts for Cached<'_> {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(resource, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.0.list(resource, namespace)
    }
}

/// Lets every plugin change the object.
pub async fn mutate(server: &Server, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    server.facts.wait(server).await?;
    let (suffix, mut charges) = (suffix(server), Charges::default());
    for plugin in PLUGINS {
        let mut answers = Vec::new();
        loop {
            let facts = Cached(&server.view);
            let context = Context { facts: &facts, answers: &answers, suffix: &suffix, gates: server.gates };
            match plugin.mutate(request, object, &context) {
                Verdict::Admit | Verdict::Mutate => break,
                Verdict::Deny(status) => return Err(status),
                Verdict::Ask(ask) => answer(server, (*plugin, request), ask, &mut answers, &mut charges).await?,
            }
        }
    }
    Ok(())
}

/// Lets every plugin refuse the object as it would be stored. What it is charged is to be written with it.
pub async fn validate<'a>(server: &'a Server, request: &Request<'_>, object: &Value) -> Result<Charges<'a>, Status> {
    server.facts.wait(server).await?;
    let mut charges = Charges::default();
    for plugin in PLUGINS {
        let mut answers = Vec::new();
        loop {
            let facts = Cached(&server.view);
            let context = Context { facts: &facts, answers: &answers, suffix: "", gates: server.gates };
            match plugin.validate(request, object, &context) {
                Verdict::Admit | Verdict::Mutate => break,
                Verdict::Deny(status) => return Err(status),
                Verdict::Ask(ask) => answer(server, (*plugin, request), ask, &mut answers, &mut charges).await?,
            }
        }
    }
    Ok(charges)
}

/// Whether some plugin judges what this user deletes by what that holds.
pub fn looks_into_deletions(user: &User) -> bool {
    PLUGINS.iter().any(|plugin| plugin.looks_into_deletions(user))
}

async fn answer<'a>(
    server: &'a Server,
    (plugin, request): (&dyn Plugin, &Request<'_>),
    ask: Ask,
    answers: &mut Vec<Answer>,
    charges: &mut Charges<'a>,
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
            let asked = Attributes { name: &name, ..Attributes::of(request.user, verb, &resource) };
            Answer::Permitted(permits(server, &asked))
        }
        Ask::Charge(charge) => Answer::Charged(charges.add(server, &charge).await?),
    };
    answers.push(answer);
    Ok(())
}

fn known(resource: &Resource) -> Result<&'static Kind, Status> {
    coracle_kinds::find(resource).ok_or_else(|| Status::internal(format!("no kind for {resource}")))
}

/// Five characters as generated names have them.
pub fn suffix(server: &Server) -> String {
    coracle_meta::names::generate_name("", |bound| server.dice.below(bound as u64) as usize)
}
