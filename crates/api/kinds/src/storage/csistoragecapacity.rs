//! CSIStorageCapacities: how much a class has left in a place.

use coracle_meta::Value;

use crate::rules::Rules;
use crate::shapes::{quantities, within};

pub const RULES: Rules = Rules { default, ..Rules::STANDARD };

fn default(object: &mut Value, _: &str) {
    for member in ["capacity", "maximumVolumeSize"] {
        within(object, &[member], quantities::canonical_amount);
    }
}
