//! Which volume a claim gets. Those with the fewest access modes come first; among them one set aside for it, else the
//! smallest free one that fits.

use std::collections::BTreeSet;

use coracle_meta::quantity::Quantity;
use coracle_reconcile::View;
use serde_json::Value;

use super::{VOLUMES, class_of, is_set_aside};
use crate::selector::Selector;
use crate::shape::Item;

/// A claim whose class waits for a pod gets only what is set aside: its scheduler chooses among the others.
pub fn find(view: &dyn View, claim: &Item, waits_for_pod: bool) -> Option<Item> {
    let volumes = Item::all(view.list(&VOLUMES, None));
    let selector = claim.at("/spec/selector");
    let selector = (!selector.is_null()).then(|| Selector::parse(selector));
    let is_offered = |volume: &Item| {
        !waits_for_pod
            && volume.text("/status/phase") == "Available"
            && volume.at("/spec/claimRef").is_null()
            && selector.as_ref().is_none_or(|selector| selector.matches(volume.meta()))
            && class_of(volume) == class_of(claim)
    };
    let fitting = volumes.into_iter().filter(|volume| {
        fits(volume, claim) && has_modes(volume, claim) && (is_set_aside(volume, claim) || is_offered(volume))
    });
    let order = |volume: &Item| {
        let size = (!is_set_aside(volume, claim)).then(|| capacity(volume).nanos());
        (modes(volume).len(), size)
    };
    fitting.min_by_key(order)
}

/// What even a volume set aside must have.
fn fits(volume: &Item, claim: &Item) -> bool {
    let free = volume.at("/spec/claimRef").is_null() || is_set_aside(volume, claim);
    free && capacity(volume).nanos() >= request(claim).nanos()
        && same_mode(volume, claim)
        && same_attributes(volume, claim)
        && !volume.meta().is_deleting()
}

/// Why a claim that asks for this very volume cannot have it.
pub fn objection(volume: &Item, claim: &Item) -> Option<String> {
    if volume.meta().is_deleting() {
        return Some(format!("the volume is marked for deletion \"{}\"", volume.name()));
    }
    if capacity(volume).nanos() < request(claim).nanos() {
        return Some("requested PV is too small".into());
    }
    if class_of(volume) != class_of(claim) {
        return Some("storageClassName does not match".into());
    }
    if !same_attributes(volume, claim) {
        return Some("volumeAttributesClassName does not match".into());
    }
    if !same_mode(volume, claim) {
        return Some("incompatible volumeMode".into());
    }
    (!has_modes(volume, claim)).then(|| "incompatible accessMode".into())
}

pub fn same_mode(volume: &Item, claim: &Item) -> bool {
    let mode = |item: &Item| match item.text("/spec/volumeMode") {
        "" => "Filesystem".to_owned(),
        mode => mode.to_owned(),
    };
    mode(volume) == mode(claim)
}

fn same_attributes(volume: &Item, claim: &Item) -> bool {
    let class = |item: &Item| item.text("/spec/volumeAttributesClassName").to_owned();
    class(volume) == class(claim)
}

fn has_modes(volume: &Item, claim: &Item) -> bool {
    let offered = volume.list("/spec/accessModes");
    claim.list("/spec/accessModes").iter().all(|mode| offered.contains(mode))
}

/// Each mode once.
fn modes(volume: &Item) -> BTreeSet<&str> {
    volume.list("/spec/accessModes").iter().filter_map(Value::as_str).collect()
}

fn capacity(volume: &Item) -> Quantity {
    quantity(volume.at("/spec/capacity/storage"))
}

pub fn request(claim: &Item) -> Quantity {
    quantity(claim.at("/spec/resources/requests/storage"))
}

pub fn quantity(value: &Value) -> Quantity {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

pub fn is_larger(a: &Value, b: &Value) -> bool {
    quantity(a).nanos() > quantity(b).nanos()
}
