//! IPAddresses: which Service has which cluster IP.

use coracle_meta::Value;

use crate::column::{Column, NAME, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, text("ParentRef", |address, _| parent(address).into())];

pub const RULES: Rules = Rules { name: any_address, columns: COLUMNS, ..Rules::STANDARD };

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
