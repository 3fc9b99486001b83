//! CSIStorageCapacities: how much a class has left in a place.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::shapes::{quantities, within};

pub const RULES: Rules = Rules { default, validate, validate_update, ..Rules::STANDARD };

fn validate(capacity: &Value, errors: &mut ErrorList) {
    let class = capacity.str_at(&["storageClassName"]);
    errors.invalid_each(&Path::new("storageClassName"), class, names::dns1123_subdomain(class));
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    for member in ["nodeTopology", "storageClassName"] {
        immutable(new.get(member), old.get(member), &Path::new(member), errors);
    }
}

fn default(object: &mut Value, _: &str) {
    for member in ["capacity", "maximumVolumeSize"] {
        within(object, &[member], quantities::canonical_amount);
    }
}
