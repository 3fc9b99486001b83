//! Addresses and ports as fields.

use std::net::IpAddr;

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Any IP address.
pub fn validate_ip(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if value.parse::<IpAddr>().is_err() {
        errors.invalid(path, value, NO_ADDRESS);
    }
}

/// An address that endpoints may have: none of this host's own or of a link.
pub fn validate_endpoint_ip(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.invalid(path, value, NO_ADDRESS);
        return;
    };
    let (is_link, is_link_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments()[0] == 0xff02),
    };
    if address.is_unspecified() {
        errors.invalid(path, value, format!("may not be unspecified ({value})"));
    }
    if address.is_loopback() {
        errors.invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if is_link {
        errors.invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if is_link_multicast {
        errors.invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// `10.0.0.0/8`.
pub fn is_cidr(value: &str) -> bool {
    let Some((address, bits)) = value.split_once('/') else { return false };
    let bits_max = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
}

pub fn validate_cidr(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if !is_cidr(value) {
        errors.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// A port's number, or the name of one.
pub fn validate_port(port: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    match port.as_str() {
        Some(name) => errors.invalid_each(path, name, names::port_name(name)),
        None => {
            let number = port.as_int().unwrap_or_default();
            errors.invalid_each(path, number, names::port_number(number));
        }
    }
}

pub fn validate_protocol(protocol: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    match protocol.as_str().unwrap_or_default() {
        "" => errors.required(path, ""),
        "TCP" | "UDP" | "SCTP" => {}
        other => errors.not_supported(path, other, &["SCTP", "TCP", "UDP"]),
    }
}
