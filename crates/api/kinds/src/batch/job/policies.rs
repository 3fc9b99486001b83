//! What a job makes of its pods' failures and successes, and the bounds that go with it: rules of its spec that cron
//! jobs share. Source: Kubernetes `pkg/apis/batch/validation`.

use coracle_meta::field::{Path, Shown};
use coracle_meta::{ErrorList, Value, names};

use crate::object_meta::not_negative;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const INDEXES_BYTES_MAX: usize = 64 * 1024;
const MANAGER_BYTES_MAX: usize = 63;
const FAILED_INDEXES_MAX: i64 = 100_000;
/// More completions than this are many, and bound what else there may be.
const COMPLETIONS_MANY: i64 = 100_000;
const AT_MANY_MAX: i64 = 10_000;

/// A value that an error does not show.
struct Omitted;

impl Shown for Omitted {
    fn show(&self) -> String {
        String::new()
    }
}

pub fn validate(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if !spec.get("podFailurePolicy").is_null() {
        validate_failure(spec, &path.child("podFailurePolicy.rules"), errors);
    }
    let is_indexed = spec.str_at(&["completionMode"]) == "Indexed";
    if !spec.get("successPolicy").is_null() && is_indexed {
        validate_success(spec, &path.child("successPolicy.rules"), errors);
    }
    let supported: &[&str] = match spec.get("podFailurePolicy").is_null() {
        true => &["Failed", "TerminatingOrFailed"],
        false => &["Failed"],
    };
    let replacement = spec.get("podReplacementPolicy");
    if !replacement.is_null() && !supported.contains(&replacement.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("podReplacementPolicy"), replacement, supported);
    }
}

/// `acme.io/foo`.
pub fn validate_manager(manager: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(text) = manager.as_str() else { return };
    let is_path = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || PATH_MARKS.contains(&byte));
    match text.split_once('/') {
        _ if text.is_empty() => errors.required(path, ""),
        Some((host, part)) if !host.is_empty() && !part.is_empty() => {
            errors.invalid_each(path, host, names::dns1123_subdomain(host));
            if !is_path(part) {
                let form = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
                errors.invalid(path, part, format!("Invalid path (regex used for validation is '{form}')"));
            }
        }
        _ => errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if text.len() > MANAGER_BYTES_MAX {
        errors.too_long(path, MANAGER_BYTES_MAX);
    }
}

const PATH_MARKS: &[u8] = br"/-._~%!$&'()*+,;=:";

/// Of an indexed job: how many indexes may fail, and what many completions allow.
pub fn validate_bounds(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (completions, failed) = (spec.int_at(&["completions"]), spec.int_at(&["maxFailedIndexes"]));
    let mut bound = |member: &str, bound: i64, at: &str| {
        if let Some(value) = spec.int_at(&[member]).filter(|value| *value > bound) {
            errors.invalid(&path.child(member), value, format!("must be less than or equal to {bound}{at}"));
        }
    };
    let failed_path = path.child("maxFailedIndexes");
    bound("maxFailedIndexes", FAILED_INDEXES_MAX, "");
    let is_many = completions.is_some_and(|completions| completions > COMPLETIONS_MANY);
    if is_many && !spec.get("backoffLimitPerIndex").is_null() {
        let at = format!(" when completions are above {COMPLETIONS_MANY} and used with backoff limit per index");
        bound("parallelism", AT_MANY_MAX, &at);
        bound("maxFailedIndexes", AT_MANY_MAX, &at);
        if failed.is_none() {
            errors.required(&failed_path, format!("must be specified when completions is above {COMPLETIONS_MANY}"));
        }
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errors.invalid(&failed_path, failed, "must be less than or equal to completions");
    }
}

fn validate_failure(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let rules = spec.list_at(&["podFailurePolicy", "rules"]);
    if rules.len() > RULES_MAX {
        errors.too_many(path, rules.len(), RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        validate_action(spec, rule.str_at(&["action"]), &path.child("action"), errors);
        let (codes, conditions) = (rule.get("onExitCodes"), rule.list_at(&["onPodConditions"]));
        if !codes.is_null() {
            validate_codes(spec, codes, &path.child("onExitCodes"), errors);
        }
        validate_patterns(conditions, &path.child("onPodConditions"), errors);
        let word = match (codes.is_null(), conditions.is_empty()) {
            (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.invalid(&path, Omitted, word);
    }
}

fn validate_action(spec: &Value, action: &str, path: &Path<'_>, errors: &mut ErrorList) {
    match action {
        "" => errors.required(path, r#"valid values: ["Count" "FailIndex" "FailJob" "Ignore"]"#),
        "FailIndex" if spec.get("backoffLimitPerIndex").is_null() => {
            errors.invalid(path, action, "requires the backoffLimitPerIndex to be set");
        }
        "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
        other => errors.not_supported(path, other, &["Count", "FailIndex", "FailJob", "Ignore"]),
    }
}

fn validate_codes(spec: &Value, rule: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let operator = rule.str_at(&["operator"]);
    match operator {
        "" => errors.required(&path.child("operator"), r#"valid values: ["In" "NotIn"]"#),
        "In" | "NotIn" => {}
        other => errors.not_supported(&path.child("operator"), other, &["In", "NotIn"]),
    }
    let lists = ["containers", "initContainers"].map(|list| spec.list_at(&["template", "spec", list]));
    let container = rule.get("containerName");
    if !container.is_null() && !lists.iter().copied().flatten().any(|known| known.get("name") == container) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), container, detail);
    }
    let (codes, path) = (rule.list_at(&["values"]), path.child("values"));
    if codes.is_empty() {
        errors.invalid(&path, rule.get("values"), "at least one value is required");
    } else if codes.len() > EXIT_CODES_MAX {
        errors.too_many(&path, codes.len(), EXIT_CODES_MAX);
    }
    for (index, code) in codes.iter().enumerate() {
        if operator == "In" && code.as_int() == Some(0) {
            errors.invalid(&path.index(index), code, "must not be 0 for the In operator");
        }
        if codes[..index].contains(code) {
            errors.duplicate(&path.index(index), code);
        }
    }
    if !codes.is_sorted_by_key(Value::as_int) {
        errors.invalid(&path, rule.get("values"), "must be ordered");
    }
}

fn validate_patterns(patterns: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    if patterns.len() > PATTERNS_MAX {
        errors.too_many(path, patterns.len(), PATTERNS_MAX);
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let path = path.index(index);
        let kind = pattern.str_at(&["type"]);
        errors.invalid_each(&path.child("type"), kind, names::qualified_name(kind));
        match pattern.str_at(&["status"]) {
            "" => errors.required(&path.child("status"), r#"valid values: ["False" "True" "Unknown"]"#),
            "False" | "True" | "Unknown" => {}
            other => errors.not_supported(&path.child("status"), other, &["False", "True", "Unknown"]),
        }
    }
}

fn validate_success(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let rules = spec.list_at(&["successPolicy", "rules"]);
    if rules.is_empty() {
        errors.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        errors.too_many(path, rules.len(), RULES_MAX);
    }
    let completions = spec.int_at(&["completions"]).unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        let (indexes, count) = (rule.get("succeededIndexes"), rule.get("succeededCount"));
        if indexes.is_null() && count.is_null() {
            errors.required(&path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let total =
            indexes.as_str().map(|text| validate_indexes(text, completions, &path.child("succeededIndexes"), errors));
        let path = path.child("succeededCount");
        not_negative(count, &path, errors);
        let Some(count) = count.as_int() else { continue };
        let bounds = [
            (Some(completions), "the number of specified completions"),
            (total, "the number of indexes in the specified succeededIndexes field"),
        ];
        for (bound, what) in bounds {
            if let Some(bound) = bound.filter(|bound| count > *bound) {
                errors.invalid(&path, count, format!("must be less than or equal to {bound} ({what})"));
            }
        }
    }
}

/// How many indexes `1,3-5` names.
fn validate_indexes(text: &str, completions: i64, path: &Path<'_>, errors: &mut ErrorList) -> i64 {
    if text.len() > INDEXES_BYTES_MAX {
        errors.too_long(path, INDEXES_BYTES_MAX);
    }
    count_indexes(text, completions).unwrap_or_else(|why| {
        errors.invalid(path, text, format!("error parsing succeededIndexes: {why}"));
        0
    })
}

fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let index = |part: &str| match part.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: \"{part}\"")),
        Ok(index) if index >= completions => Err(format!("too large index: \"{part}\"")),
        Ok(index) => Ok(index),
    };
    let (mut total, mut last) = (0, None);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (first, end) = match interval.split('-').collect::<Vec<_>>().as_slice() {
            [one] => (index(one)?, index(one)?),
            [first, end] => (index(first)?, index(end)?),
            _ => {
                return Err(format!(
                    "the fragment \"{interval}\" violates the requirement that an index interval can have at most two \
                     parts separated by '-'"
                ));
            }
        };
        let before = if first >= end && interval.contains('-') { Some((first, end)) } else { None };
        let before = before.or(last.filter(|last| *last >= first).map(|last| (last, first)));
        if let Some((previous, current)) = before {
            return Err(format!("non-increasing order, previous: {previous}, current: {current}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    fn told(spec: &str) -> String {
        let mut errors = ErrorList::default();
        let (spec, path) = (tree(spec), Path::new("spec"));
        validate(&spec, &path, &mut errors);
        validate_bounds(&spec, &path, &mut errors);
        validate_manager(spec.get("managedBy"), &path.child("managedBy"), &mut errors);
        errors.to_string()
    }

    #[test]
    fn rules_of_failure_are_whole() {
        let with = |rule: &str| {
            let template = r#"{"spec":{"containers":[{"name":"c"}]}}"#;
            told(&format!(r#"{{"podFailurePolicy":{{"rules":[{rule}]}},"template":{template}}}"#))
        };
        let rule = "spec.podFailurePolicy.rules[0]";
        let cases = [
            (
                r#"{"action":"Count","onExitCodes":{"operator":"In","values":[1,2],"containerName":"c"}}"#,
                "[]".to_owned(),
            ),
            (r#"{"action":"Ignore","onPodConditions":[{"type":"DisruptionTarget","status":"True"}]}"#, "[]".to_owned()),
            (
                r#"{"action":"FailJob"}"#,
                format!("{rule}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"),
            ),
            (
                r#"{"onPodConditions":[{"type":"x","status":"True"}]}"#,
                format!(r#"{rule}.action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]"#),
            ),
            (
                r#"{"action":"FailIndex","onPodConditions":[{"type":"x","status":"True"}]}"#,
                format!(r#"{rule}.action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set"#),
            ),
            (
                r#"{"action":"Count","onExitCodes":{"operator":"In","values":[0]}}"#,
                format!("{rule}.onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"),
            ),
            (
                r#"{"action":"Count","onExitCodes":{"operator":"NotIn","values":[2,1]}}"#,
                format!("{rule}.onExitCodes.values: Invalid value: [2,1]: must be ordered"),
            ),
            (
                r#"{"action":"Count","onExitCodes":{"operator":"NotIn","values":[1,1]}}"#,
                format!("{rule}.onExitCodes.values[1]: Duplicate value: 1"),
            ),
            (
                r#"{"action":"Count","onExitCodes":{"operator":"In","values":[1],"containerName":"d"}}"#,
                format!(
                    "{rule}.onExitCodes.containerName: Invalid value: \"d\": must be one of the container or \
                     initContainer names in the pod template"
                ),
            ),
        ];
        for (rule, wanted) in cases {
            assert_eq!(with(rule), wanted, "{rule}");
        }
    }

    #[test]
    fn rules_of_success_name_indexes_that_there_are() {
        let with = |rule: &str| {
            told(&format!(r#"{{"completionMode":"Indexed","completions":5,"successPolicy":{{"rules":[{rule}]}}}}"#))
        };
        let rule = "spec.successPolicy.rules[0]";
        let parsing = |text: &str, why: &str| {
            format!("{rule}.succeededIndexes: Invalid value: \"{text}\": error parsing succeededIndexes: {why}")
        };
        let cases = [
            (r#"{"succeededIndexes":"0,2-4","succeededCount":4}"#, "[]".to_owned()),
            (
                "{}",
                format!("{rule}: Required value: at least one of succeededCount or succeededIndexes must be specified"),
            ),
            (r#"{"succeededIndexes":"5"}"#, parsing("5", "too large index: \"5\"")),
            (r#"{"succeededIndexes":"x"}"#, parsing("x", "cannot convert string to integer for index: \"x\"")),
            (r#"{"succeededIndexes":"2,1"}"#, parsing("2,1", "non-increasing order, previous: 2, current: 1")),
            (r#"{"succeededIndexes":"3-2"}"#, parsing("3-2", "non-increasing order, previous: 3, current: 2")),
            (
                r#"{"succeededIndexes":"0-1","succeededCount":3}"#,
                format!(
                    "{rule}.succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in \
                     the specified succeededIndexes field)"
                ),
            ),
            (
                r#"{"succeededCount":6}"#,
                format!(
                    "{rule}.succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified \
                     completions)"
                ),
            ),
        ];
        for (rule, wanted) in cases {
            assert_eq!(with(rule), wanted, "{rule}");
        }
    }

    #[test]
    fn bounds_and_names_hold() {
        let cases = [
            (r#"{"completions":3,"maxFailedIndexes":4}"#, "must be less than or equal to completions"),
            (r#"{"maxFailedIndexes":100001}"#, "must be less than or equal to 100000"),
            (
                r#"{"completions":100001,"backoffLimitPerIndex":1}"#,
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
            ),
            (
                r#"{"completions":100001,"backoffLimitPerIndex":1,"maxFailedIndexes":1,"parallelism":10001}"#,
                "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above",
            ),
            (r#"{"managedBy":"acme.io/foo"}"#, "[]"),
            (r#"{"managedBy":"foo"}"#, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
            (r#"{"managedBy":"acme.io/a b"}"#, "Invalid path (regex used for validation is"),
            (r#"{"podReplacementPolicy":"Never"}"#, r#"supported values: "Failed", "TerminatingOrFailed""#),
            (
                r#"{"podFailurePolicy":{},"podReplacementPolicy":"TerminatingOrFailed"}"#,
                r#"Unsupported value: "TerminatingOrFailed": supported values: "Failed""#,
            ),
        ];
        for (spec, words) in cases {
            let told = told(spec);
            assert!(told.contains(words), "{spec} {told}");
        }
    }
}
