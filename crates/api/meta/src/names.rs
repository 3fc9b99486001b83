//! What a name may be: DNS labels and subdomains, qualified names, label values, ports, environment variables. Each
//! check returns the messages upstream gives, none when the name is good; `Kubernetes apimachinery/pkg/util/validation`
//! and `api/validate/content` are the source of rules and wording.

/// How many characters a generated name adds, and how long a base may be.
const SUFFIX_LENGTH: usize = 5;
const GENERATED_BASE_MAX: usize = 63 - SUFFIX_LENGTH;

/// Letters and digits of generated names: no vowels, so no words.
pub const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORM: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                        alphanumeric character";

/// A check of a name: the messages of what is wrong.
pub type Check = fn(&str) -> Vec<String>;

/// `base` and five characters; `dice(n)` gives a number below `n`.
pub fn generate_name(base: &str, mut dice: impl FnMut(usize) -> usize) -> String {
    let mut end = base.len().min(GENERATED_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.extend((0..SUFFIX_LENGTH).map(|_| char::from(ALPHABET[dice(ALPHABET.len()) % ALPHABET.len()])));
    name
}

/// Maps digits or any text into the alphabet of names, as hashes of pod templates are shown.
pub fn safe_encode(text: &str) -> String {
    text.chars().map(|character| char::from(ALPHABET[character as usize % ALPHABET.len()])).collect()
}

pub fn regex_error(text: &str, form: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{form}')");
    }
    let shown: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{form}')", shown.join(" or "))
}

pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn too_long(value: &str, length_max: usize, unit: &str) -> Option<String> {
    (value.len() > length_max).then(|| format!("must be no more than {length_max} {unit}"))
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            is_lower(first) && is_lower(last) && bytes.iter().all(|&byte| is_lower(byte) || byte == b'-')
        }
        _ => false,
    }
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_key(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
        _ => false,
    }
}

/// DNS-1123 label: names of namespaces, containers, volumes, most workloads' pods' hostnames.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 63, "characters").into_iter().collect();
    if !is_label(value) {
        if is_subdomain(value) {
            errors.push("must not contain dots".into());
        } else {
            let text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                        start and end with an alphanumeric character";
            errors.push(regex_error(text, LABEL_FORM, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// DNS-1123 subdomain: names of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 253, "characters").into_iter().collect();
    if !is_subdomain(value) {
        let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                    must start and end with an alphanumeric character";
        errors.push(regex_error(text, SUBDOMAIN_FORM, &["example.com"]));
    }
    errors
}

/// `*.` and a subdomain: hosts of ingresses.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 253, "characters").into_iter().collect();
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        let text = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
                    consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        errors.push(regex_error(text, &format!(r"\*\.{SUBDOMAIN_FORM}"), &["*.example.com"]));
    }
    errors
}

/// DNS-1035 label: names of services.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 63, "characters").into_iter().collect();
    if !is_label(value) || value.starts_with(|first: char| first.is_ascii_digit()) {
        let text = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                    alphabetic character, and end with an alphanumeric character";
        errors.push(regex_error(text, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// A label's key: an optional DNS subdomain and `/`, then a name of at most 63 bytes.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(
                    dns1123_subdomain(prefix)
                        .iter()
                        .map(|error| format!("prefix part {}", error.replace("253 characters", "253 bytes"))),
                );
            }
            name
        }
        _ => {
            let error = regex_error(KEY_TEXT, KEY_FORM, &["MyName", "my.name", "123-abc"]);
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {error} {tail}")];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else {
        errors.extend(too_long(name, 63, "bytes").map(|error| format!("name part {error}")));
    }
    if !is_key(name) {
        errors.push(format!("name part {}", regex_error(KEY_TEXT, KEY_FORM, &["MyName", "my.name", "123-abc"])));
    }
    errors
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 63, "bytes").into_iter().collect();
    if !value.is_empty() && !is_key(value) {
        let text = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                    must start and end with an alphanumeric character";
        errors.push(regex_error(text, &format!("({KEY_FORM})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// Whether a name can be one segment of a URL or a store's key: RBAC's names.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|illegal| value.contains(illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect()
}

pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![range_error(1, 65535)] }
}

/// An IANA service name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 15, "characters").into_iter().collect();
    let mut check = |bad: bool, text: &str| {
        if bad {
            errors.push(text.to_owned());
        }
    };
    let in_charset = !value.is_empty() && value.bytes().all(|byte| is_lower(byte) || byte == b'-');
    check(!in_charset, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    check(!value.bytes().any(|byte| byte.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    check(value.contains("--"), "must not contain consecutive hyphens");
    check(value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen");
    errors
}

/// Any printable ASCII but `=`: what Kubernetes allows since the relaxed rule became the default.
pub fn environment_variable(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if value.bytes().any(|byte| !(0x20..0x7f).contains(&byte) || byte == b'=') {
        let text = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        errors.push(text.to_owned());
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = too_long(value, 253, "characters").into_iter().collect();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." | ".." => errors.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => {}
    }
    errors
}

pub fn http_header(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    let text = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(text, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let text = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(text, "[0-9]+%", &["1%", "93%"])]
}

/// The check applied to a `generateName`: a trailing dash is fine, since characters follow.
pub fn as_prefix(check: Check, value: &str) -> Vec<String> {
    match value.char_indices().rev().nth(1) {
        Some((index, _)) if value.ends_with('-') => check(&format!("{}a", &value[..index])),
        _ => check(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        let cases: &[(Check, &str)] = &[
            (dns1123_label, "a-1"),
            (dns1123_subdomain, "a.b-c.d"),
            (dns1035_label, "a1"),
            (qualified_name, "example.com/My_Name.1"),
            (label_value, ""),
            (port_name, "http-2"),
            (config_key, "..data-is-not.but_this".trim_start_matches('.')),
            (environment_variable, "1 strange.name"),
        ];
        for (check, name) in cases {
            assert_eq!(check(name), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn bad_names_are_told_as_upstream_does() {
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns1035_label("1a"),
            ["a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
              character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
              validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
    }

    #[test]
    fn a_generated_name_stays_within_63_characters() {
        assert_eq!(generate_name("web-", |_| 0), "web-bbbbb");
        assert_eq!(generate_name(&"a".repeat(80), |_| 1).len(), 63);
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(as_prefix(dns1123_label, "web-").is_empty());
        assert!(!as_prefix(dns1123_label, "Web-").is_empty());
    }
}
