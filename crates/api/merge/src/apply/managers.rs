//! `metadata.managedFields`: who set which fields, read and written, and kept short. Source: Kubernetes
//! `apimachinery/pkg/util/managedfields/internal`.

use std::collections::BTreeMap;

use coracle_meta::{Map, Value};

use super::set::Set;

/// Most updaters that are told apart; the oldest beyond it become one.
pub const UPDATERS_MAX: usize = 10;
const OLD_UPDATERS: &str = "ancient-changes";

/// Who set fields, and by which sort of request. Ordered as entries are written, but for their times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub operation: Operation,
    pub name: String,
    /// Empty for appliers, who are the same in every version.
    pub api_version: String,
    pub subresource: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// The fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub set: Set,
    /// The version that the set's names are of.
    pub api_version: String,
    /// RFC 3339; empty where it was not recorded.
    pub time: String,
}

pub type Managers = BTreeMap<Manager, Owned>;

impl Manager {
    pub fn new(operation: Operation, name: &str, api_version: &str, subresource: &str) -> Manager {
        Manager {
            operation,
            name: if name.is_empty() { "unknown" } else { name }.to_owned(),
            api_version: if operation == Operation::Apply { "" } else { api_version }.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflicts name it.
    pub fn text(&self) -> String {
        let mut text = coracle_meta::field::quote(&self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", coracle_meta::field::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Reads the entries; an error names what makes them invalid.
pub fn decode(entries: &Value) -> Result<Managers, String> {
    let mut managers = Managers::new();
    for (index, entry) in entries.list_at(&[]).iter().enumerate() {
        let operation = match entry.str_at(&["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".into()),
        };
        let api_version = entry.str_at(&["apiVersion"]);
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match entry.str_at(&["fieldsType"]) {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}")),
        }
        let manager = Manager {
            operation,
            name: entry.str_at(&["manager"]).to_owned(),
            api_version: if operation == Operation::Apply { "" } else { api_version }.to_owned(),
            subresource: entry.str_at(&["subresource"]).to_owned(),
        };
        let owned = Owned {
            set: Set::decode(entry.get("fieldsV1"))?,
            api_version: api_version.to_owned(),
            time: entry.str_at(&["time"]).to_owned(),
        };
        managers.insert(manager, owned);
    }
    Ok(managers)
}

/// The entries, appliers first, then by time; null where there are none.
pub fn encode(managers: &Managers) -> Value {
    let mut ordered: Vec<(&Manager, &Owned)> = managers.iter().collect();
    // Times of one form order as text; the map's order settles the rest.
    ordered.sort_by(|left, right| {
        let by = |(manager, owned): &(&Manager, &Owned)| (manager.operation, owned.time.clone());
        by(left).cmp(&by(right))
    });
    if ordered.is_empty() { Value::Null } else { Value::List(ordered.into_iter().map(encode_entry).collect()) }
}

fn encode_entry((manager, owned): (&Manager, &Owned)) -> Value {
    let mut map = Map::default();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            map.push(key.into(), value.into());
        }
    };
    put("manager", &manager.name);
    put("operation", if manager.operation == Operation::Apply { "Apply" } else { "Update" });
    put("apiVersion", &owned.api_version);
    put("time", &owned.time);
    put("fieldsType", "FieldsV1");
    map.push("fieldsV1".into(), owned.set.encode());
    if !manager.subresource.is_empty() {
        map.push("subresource".into(), manager.subresource.as_str().into());
    }
    Value::Map(map)
}

/// Makes the oldest updaters of a version one, until few enough are left.
pub fn cap(managers: &mut Managers) {
    let mut updaters: Vec<(String, Manager)> = managers
        .iter()
        .filter(|(manager, _)| manager.operation == Operation::Update)
        .map(|(manager, owned)| (owned.time.clone(), manager.clone()))
        .collect();
    let mut count = updaters.len();
    updaters.sort();
    let mut firsts: BTreeMap<String, Manager> = BTreeMap::new();
    for (_, manager) in updaters {
        if count <= UPDATERS_MAX {
            return;
        }
        let Some(version) = managers.get(&manager).map(|owned| owned.api_version.clone()) else { continue };
        let Some(first) = firsts.get(&version) else {
            firsts.insert(version, manager);
            continue;
        };
        let bucket = Manager::new(Operation::Update, OLD_UPDATERS, &version, "");
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(first)
        {
            managers.insert(bucket.clone(), owned);
        }
        if let Some(owned) = managers.remove(&manager)
            && let Some(old) = managers.get_mut(&bucket)
        {
            old.set = std::mem::take(&mut old.set).union(&owned.set);
            old.time = owned.time;
            count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_updaters_become_one() {
        let mut managers = Managers::new();
        for index in 0..12 {
            let set = Set::of_fields(&[&["spec", &format!("f{index}")]]);
            let owned = Owned { set, api_version: "v1".into(), time: format!("2026-01-01T00:00:{index:02}Z") };
            managers.insert(Manager::new(Operation::Update, &format!("m{index}"), "v1", ""), owned);
        }
        cap(&mut managers);
        assert_eq!(managers.len(), UPDATERS_MAX);
        let old = &managers[&Manager::new(Operation::Update, OLD_UPDATERS, "v1", "")];
        assert_eq!(old.set, Set::of_fields(&[&["spec", "f0"], &["spec", "f1"], &["spec", "f2"]]));
        assert_eq!(decode(&encode(&managers)).unwrap(), managers);
    }
}
