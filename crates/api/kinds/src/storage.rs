//! The storage.k8s.io group.

pub mod csidriver;
pub mod csinode;
pub mod csistoragecapacity;
pub mod storageclass;
pub mod volumeattachment;
pub mod volumeattributesclass;

#[cfg(test)]
mod tests {
    use coracle_meta::{ErrorList, Resource};

    use crate::shapes::tree;

    #[test]
    fn what_is_left_out_is_refused() {
        let table = [
            ("storage.k8s.io", "csinodes", r#"{"spec":{"drivers":[{"name":"","nodeID":""}]}}"#, 2),
            ("storage.k8s.io", "csistoragecapacities", r#"{"storageClassName":""}"#, 1),
            ("storage.k8s.io", "volumeattachments", r#"{"spec":{"attacher":"","nodeName":"","source":{}}}"#, 3),
            ("storage.k8s.io", "volumeattributesclasses", r#"{"driverName":""}"#, 2),
            ("networking.k8s.io", "ipaddresses", r#"{"spec":{}}"#, 1),
        ];
        for (group, plural, json, wrong) in table {
            let kind = crate::find(&Resource::new(group, plural)).unwrap();
            let mut errors = ErrorList::default();
            (kind.rules.validate)(&tree(json), &mut errors);
            assert_eq!(errors.len(), wrong, "{plural}: {errors}");
        }
    }
}
