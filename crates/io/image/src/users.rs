//! Who a name is inside an image: its /etc/passwd and /etc/group, read from the layers without mounting them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Larger ones are not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Numbers and home of a user as `user[:group]`, by name or number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Groups in which the user is listed.
    pub groups: Vec<u32>,
    pub home: String,
}

/// `None`: a name that the image does not know. Layers come topmost first.
pub fn identity(layers: &[PathBuf], user: &str) -> Option<Identity> {
    resolve(&read(layers, "etc/passwd"), &read(layers, "etc/group"), user)
}

fn resolve(passwd: &str, group: &str, user: &str) -> Option<Identity> {
    let (user, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let lines = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 6);
    let entry = lines().find(|fields| fields[0] == user || number.is_some_and(|n| fields[2].parse() == Ok(n)));
    let mut identity = match (&entry, number) {
        (Some(fields), _) => Identity {
            uid: fields[2].parse().ok()?,
            gid: fields[3].parse().ok()?,
            groups: Vec::new(),
            home: fields[5].to_owned(),
        },
        (None, Some(uid)) => Identity { uid, home: "/".into(), ..Identity::default() },
        (None, None) => return None,
    };
    let groups: Vec<Vec<&str>> =
        group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4).collect();
    if let Some(fields) = &entry {
        let member = |group: &&Vec<&str>| group[3].split(',').any(|name| name == fields[0]);
        identity.groups = groups.iter().filter(member).filter_map(|group| group[2].parse().ok()).collect();
    }
    if !wanted_group.is_empty() {
        let named = groups.iter().find(|group| group[0] == wanted_group).and_then(|group| group[2].parse().ok());
        identity.gid = wanted_group.parse().ok().or(named)?;
    }
    Some(identity)
}

/// The file as the merged layers show it; empty when there is none. Links lead no further than the layer's own root.
fn read(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        if fs::symlink_metadata(layer.join(path)).is_ok_and(|found| found.file_type().is_char_device()) {
            return String::new();
        }
        let Ok(root) = File::open(layer) else { continue };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if let Ok(file) = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            let mut text = String::new();
            let _ = File::from(file).take(FILE_BYTES_MAX).read_to_string(&mut text);
            return text;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n";

    #[test]
    fn users_resolve_by_name_and_number() {
        let web = Identity { uid: 33, gid: 34, groups: vec![50], home: "/srv".into() };
        assert_eq!(resolve(PASSWD, GROUP, "web"), Some(web.clone()));
        assert_eq!(resolve(PASSWD, GROUP, "33"), Some(web));
        assert_eq!(resolve(PASSWD, GROUP, "web:extra").unwrap().gid, 50);
        assert_eq!(resolve(PASSWD, GROUP, "1000").unwrap().uid, 1000);
        assert_eq!(resolve(PASSWD, GROUP, "").unwrap().home, "/root");
        assert_eq!(resolve(PASSWD, GROUP, "nobody"), None);
    }
}
