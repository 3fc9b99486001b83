//! ClusterTrustBundles: certificates to trust, by signer.

use coracle_meta::{Value, names};

use crate::column::{Column, NAME, string_or, text};
use crate::rules::Rules;

const COLUMNS: &[Column] =
    &[NAME, text("SignerName", |object, _| string_or(object, &["spec", "signerName"], "<none>"))];

pub const RULES: Rules = Rules { selectable_fields, name: bundle_name, columns: COLUMNS, ..Rules::STANDARD };

fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
    vec![("spec.signerName", object.str_at(&["spec", "signerName"]).to_owned())]
}

/// A signer's slash stands as a colon in the name.
fn bundle_name(name: &str) -> Vec<String> {
    names::path_segment(name)
}
