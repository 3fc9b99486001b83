//! Server-side apply by cases and properties: over a Deployment and a Pod of the built-in schema.

use super::*;

const TIME: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T04:04:05Z";

fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}

fn same_version(value: &Value, _: &str, _: &str) -> Option<Value> {
    Some(value.clone())
}

fn with<T>(run: impl FnOnce(Subject<'_>) -> T) -> T {
    let reset = Set::of_fields(&[&["status"]]);
    let subject = Subject {
        schema: Schema::builtin(),
        api_version: "apps/v1",
        kind: "Deployment",
        convert: &same_version,
        reset: &reset,
    };
    run(subject)
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", time: TIME }
}

fn deployment(spec: &str) -> Value {
    json(&format!(r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"d"}},"spec":{spec}}}"#))
}

fn apply(live: &Value, config: &Value, manager: &str, force: Force) -> Result<Value, ApplyError> {
    with(|subject| subject.apply(live, config, writer(manager), force))
}

fn fields_of(object: &Value, manager: &str) -> String {
    let entries = object.list_at(&MANAGED);
    let found = entries.iter().find(|entry| entry.str_at(&["manager"]) == manager);
    found.map(|entry| String::from_utf8(entry.get("fieldsV1").to_json()).unwrap()).unwrap_or_default()
}

const TWO: &str = r#"{"replicas":2,"template":{"spec":{"containers":[
    {"name":"a","image":"1","ports":[{"containerPort":80}]},{"name":"b","image":"2"}]}}}"#;

#[test]
fn an_applied_configuration_is_owned_field_by_field() {
    let object = apply(&Value::Null, &deployment(TWO), "me", Force::No).unwrap();
    assert_eq!(
        fields_of(&object, "me"),
        r#"{"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}},"k:{\"name\":\"b\"}":{".":{},"f:image":{},"f:name":{}}}}}}}"#
    );
}

#[test]
fn applying_twice_changes_nothing() {
    for spec in [TWO, "{}", r#"{"replicas":1}"#, r#"{"selector":{"matchLabels":{"a":"b"}}}"#] {
        let once = apply(&Value::Null, &deployment(spec), "me", Force::No).unwrap();
        let twice = with(|subject| {
            let late = Writer { time: LATER, ..writer("me") };
            subject.apply(&once, &deployment(spec), late, Force::No).unwrap()
        });
        assert_eq!(once, twice, "{spec}");
    }
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_names_it() {
    let mine = apply(&Value::Null, &deployment(TWO), "me", Force::No).unwrap();
    let one = r#"{"template":{"spec":{"containers":[{"name":"a","image":"1"}]}}}"#;
    let shared = apply(&mine, &deployment(r#"{"replicas":2}"#), "other", Force::No).unwrap();
    let after = apply(&shared, &deployment(one), "me", Force::No).unwrap();
    assert_eq!(after.int_at(&["spec", "replicas"]), Some(2));
    let containers = after.list_at(&["spec", "template", "spec", "containers"]);
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0].list_at(&["ports"]), []);
    let alone = apply(&mine, &deployment(one), "me", Force::No).unwrap();
    assert_eq!(alone.int_at(&["spec", "replicas"]), None);
}

#[test]
fn conflicts_are_worded_as_upstream_and_force_takes_the_fields() {
    let mut live = deployment(r#"{"replicas":1,"paused":false}"#);
    with(|subject| subject.update(&Value::Null, &mut live, writer("kubectl-client-side-apply")));
    let error = apply(&live, &deployment(r#"{"replicas":3}"#), "me", Force::No).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let error = apply(&live, &deployment(r#"{"replicas":3,"paused":true}"#), "me", Force::No).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n\
         - .spec.replicas"
    );
    let taken = apply(&live, &deployment(r#"{"replicas":3}"#), "me", Force::Yes).unwrap();
    assert_eq!(taken.int_at(&["spec", "replicas"]), Some(3));
    assert_eq!(fields_of(&taken, "me"), r#"{"f:spec":{"f:replicas":{}}}"#);
    assert!(!fields_of(&taken, "kubectl-client-side-apply").contains("replicas"));
}

#[test]
fn an_update_owns_what_it_changes_and_nothing_else() {
    let live = apply(&Value::Null, &deployment(r#"{"replicas":1,"paused":true}"#), "me", Force::No).unwrap();
    let mut new = live.clone();
    new.set(&["spec", "replicas"], 2);
    new.set(&["status", "replicas"], 2);
    with(|subject| subject.update(&live, &mut new, writer("other")));
    assert_eq!(fields_of(&new, "other"), r#"{"f:spec":{"f:replicas":{}}}"#);
    assert_eq!(fields_of(&new, "me"), r#"{"f:spec":{"f:paused":{}}}"#);
    let mut again = new.clone();
    with(|subject| subject.update(&new, &mut again, Writer { time: LATER, ..writer("third") }));
    assert_eq!(again, new);
}

#[test]
fn managed_fields_can_be_reset_and_are_kept_when_left_out() {
    let live = apply(&Value::Null, &deployment(r#"{"replicas":1}"#), "me", Force::No).unwrap();
    let mut silent = live.clone();
    silent.remove(&MANAGED);
    with(|subject| subject.update(&live, &mut silent, writer("other")));
    assert_eq!(silent.at(&MANAGED), live.at(&MANAGED));
    for reset in ["[]", "[{}]"] {
        let mut new = live.clone();
        new.set(&MANAGED, json(reset));
        with(|subject| subject.update(&live, &mut new, writer("other")));
        assert!(new.at(&MANAGED).is_null(), "{reset}");
    }
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client_side() {
    let mut live = deployment(r#"{"replicas":1}"#);
    let last = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":1}}"#;
    live.set(&LAST_APPLIED, last);
    with(|subject| subject.update(&Value::Null, &mut live, writer("kubectl-client-side-apply")));
    assert!(apply(&live, &deployment(r#"{"replicas":2}"#), "me", Force::No).is_err());
    let taken = apply(&live, &deployment(r#"{"replicas":2}"#), "kubectl", Force::No).unwrap();
    assert_eq!(taken.int_at(&["spec", "replicas"]), Some(2));
    assert!(taken.str_at(&LAST_APPLIED).contains(r#""spec":{"replicas":2}"#));
}

#[test]
fn mistakes_are_told_by_path() {
    let table = [
        (r#"{"foo":1}"#, ".spec.foo: field not declared in schema"),
        (r#"{"replicas":"1"}"#, ".spec.replicas: expected numeric (int or float), got string"),
        (
            r#"{"template":{"spec":{"containers":[{"name":"a"},{"name":"a"}]}}}"#,
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ];
    for (spec, text) in table {
        let error = apply(&Value::Null, &deployment(spec), "me", Force::No).unwrap_err();
        let about = "failed to create typed patch object (/d; apps/v1, Kind=Deployment): ";
        assert_eq!(error.to_string(), format!("{about}{text}"));
    }
}
