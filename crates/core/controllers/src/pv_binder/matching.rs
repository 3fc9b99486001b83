//! Which volume a claim gets: one set aside for it, or the smallest free one that fits.

use coracle_meta::quantity::Quantity;
use coracle_reconcile::View;
use serde_json::Value;

use super::{VOLUMES, class_of, is_set_aside};
use crate::selector::Selector;
use crate::shape::Item;

pub fn find(view: &dyn View, claim: &Item, delayed: bool) -> Option<Item> {
    let volumes = Item::all(view.list(&VOLUMES, None));
    let mut fitting: Vec<Item> = volumes.into_iter().filter(|volume| fits(volume, claim)).collect();
    if let Some(at) = fitting.iter().position(|volume| is_set_aside(volume, claim)) {
        return Some(fitting.swap_remove(at));
    }
    if delayed {
        return None;
    }
    let selector = claim.at("/spec/selector");
    let selector = (!selector.is_null()).then(|| Selector::parse(selector));
    fitting.retain(|volume| {
        volume.text("/status/phase") == "Available"
            && volume.at("/spec/claimRef").is_null()
            && selector.as_ref().is_none_or(|selector| selector.matches(volume.meta()))
            && class_of(volume) == class_of(claim)
            && has_modes(volume, claim)
    });
    fitting.sort_by_key(|volume| (capacity(volume).nanos(), surplus_modes(volume, claim)));
    fitting.into_iter().next()
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

fn surplus_modes(volume: &Item, claim: &Item) -> usize {
    volume.list("/spec/accessModes").len().saturating_sub(claim.list("/spec/accessModes").len())
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
