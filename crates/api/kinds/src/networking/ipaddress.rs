//! IPAddresses: which Service has which cluster IP.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{Column, NAME, text};
use crate::object_meta::immutable;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, text("ParentRef", |address, _| parent(address).into())];

pub const RULES: Rules = Rules { name: any_address, validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn validate(address: &Value, errors: &mut ErrorList) {
    let (parent, path) = (address.at(&["spec", "parentRef"]), Path::new("spec.parentRef"));
    if parent.is_null() {
        return errors.required(&path, "");
    }
    for member in ["resource", "name"] {
        if parent.str_at(&[member]).is_empty() {
            errors.required(&path.child(member), "");
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = ["spec", "parentRef"];
    immutable(new.at(&path), old.at(&path), &Path::new("spec.parentRef"), errors);
}

fn any_address(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

fn parent(address: &Value) -> String {
    let parent = address.at(&["spec", "parentRef"]);
    if parent.is_null() {
        return "<none>".into();
    }
    let part = |member: &str| parent.str_at(&[member]);
    let resource = match part("group") {
        "" => part("resource").to_lowercase(),
        group => format!("{}.{group}", part("resource")).to_lowercase(),
    };
    match part("namespace") {
        "" => format!("{resource}/{}", part("name")),
        namespace => format!("{resource}/{namespace}/{}", part("name")),
    }
}
