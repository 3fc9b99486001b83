//! What form of an answer the client asks for: the first that its `Accept` names of those there are. Source: Kubernetes
//! `apiserver/pkg/endpoints/handlers/negotiation`.

use coracle_meta::Status;

use crate::answer;
use crate::call::Call;

const OFFERS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What reading offers beside, as watches.
const STREAM_OFFERS: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// What of an object the client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    Whole,
    Table(Include),
    /// Metadata alone.
    Partial,
}

/// What a table's row holds of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Include {
    None,
    Metadata,
    Object,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    Json,
    /// JSON again, which every reader of YAML reads.
    Yaml,
    Proto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    pub form: Form,
    pub wire: Wire,
}

impl Wire {
    pub fn content_type(self) -> &'static str {
        match self {
            Wire::Json => answer::JSON,
            Wire::Yaml => "application/yaml",
            Wire::Proto => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The type of a stream of such frames.
    pub fn stream_type(self) -> &'static str {
        match self {
            Wire::Proto => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => answer::JSON,
        }
    }
}

/// The output for objects, lists and watches.
pub fn output(call: &Call) -> Result<Output, Status> {
    let accept = call.header("accept");
    pick(accept, include(call)).ok_or_else(|| match accept.split(',').any(|entry| wire_of(media_of(entry)).is_some()) {
        true => answer::not_acceptable(&OFFERS),
        false if matches!(call.info.verb, "get" | "list" | "watch") => answer::no_representation(&STREAM_OFFERS),
        false => answer::no_representation(&OFFERS),
    })
}

fn include(call: &Call) -> Include {
    match call.query.get("includeObject") {
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        _ => Include::Metadata,
    }
}

/// The output for what has no messages: the first form that is no protobuf.
pub fn without_messages(call: &Call) -> Result<Output, Status> {
    let accept = call.header("accept");
    let takes = |entry: &&str| wire_of(media_of(entry)) != Some(Wire::Proto);
    let rest = accept.split(',').filter(takes).collect::<Vec<_>>().join(",");
    if rest.is_empty() && !accept.is_empty() {
        return Err(answer::not_acceptable(&[Wire::Json.content_type(), Wire::Yaml.content_type()]));
    }
    let include = include(call);
    pick(&rest, include).ok_or_else(|| answer::no_representation(&STREAM_OFFERS))
}

/// The wire for answers of one form; JSON for who takes none of ours, so that every client can read a failure.
pub fn wire(call: &Call) -> Wire {
    let mut entries = call.header("accept").split(',').filter_map(|entry| wire_of(media_of(entry)));
    entries.next().unwrap_or(Wire::Json)
}

/// Refuses a client that takes nothing but a table or metadata of what is answered and never kept.
pub fn whole_only(call: &Call) -> Result<(), Status> {
    match takes_whole(call.header("accept")) {
        true => Ok(()),
        false => Err(answer::not_acceptable(&OFFERS)),
    }
}

fn takes_whole(accept: &str) -> bool {
    let is_whole = |entry: &str| {
        let form = entry.split(';').skip(1).any(|part| part.trim().starts_with("as="));
        !form && wire_of(media_of(entry)).is_some()
    };
    accept.is_empty() || accept.split(',').any(is_whole)
}

fn pick(accept: &str, include: Include) -> Option<Output> {
    if accept.is_empty() {
        return Some(Output { form: Form::Whole, wire: Wire::Json });
    }
    accept.split(',').find_map(|entry| {
        let wire = wire_of(media_of(entry))?;
        let (mut kind, mut known) = ("", true);
        for (key, value) in entry.split(';').skip(1).filter_map(|part| part.trim().split_once('=')) {
            match key {
                "as" => kind = value,
                "g" => known &= value == "meta.k8s.io",
                "v" => known &= matches!(value, "v1" | "v1beta1"),
                _ => {}
            }
        }
        let form = match kind {
            "" => Form::Whole,
            // Tables have no messages.
            "Table" if known && wire != Wire::Proto => Form::Table(include),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => Form::Partial,
            _ => return None,
        };
        Some(Output { form, wire })
    })
}

fn media_of(entry: &str) -> &str {
    entry.split(';').next().unwrap_or_default().trim()
}

fn wire_of(media: &str) -> Option<Wire> {
    match media {
        "application/json" | "application/*" | "*/*" => Some(Wire::Json),
        "application/yaml" => Some(Wire::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Wire::Proto),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_kept_has_no_table() {
        assert!(!takes_whole("application/json;as=Table;v=v1;g=meta.k8s.io"));
        assert!(takes_whole("application/json;as=Table;v=v1;g=meta.k8s.io,application/json") && takes_whole(""));
    }

    #[test]
    fn the_first_form_there_is_wins() {
        let table = [
            ("", Some((Form::Whole, Wire::Json))),
            ("*/*", Some((Form::Whole, Wire::Json))),
            ("application/vnd.kubernetes.protobuf,application/json", Some((Form::Whole, Wire::Proto))),
            ("application/vnd.kubernetes.protobuf;stream=watch", Some((Form::Whole, Wire::Proto))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some((Form::Table(Include::Metadata), Wire::Json)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Some((Form::Partial, Wire::Proto)),
            ),
            ("application/json;as=Odd;g=meta.k8s.io;v=v1,application/yaml", Some((Form::Whole, Wire::Yaml))),
            ("application/cbor,text/html", None),
        ];
        for (accept, wanted) in table {
            let picked = pick(accept, Include::Metadata).map(|output| (output.form, output.wire));
            assert_eq!(picked, wanted, "{accept}");
        }
    }
}
