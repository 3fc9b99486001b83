//! Which etcd can be trusted to report a watch's progress on request: from 3.4.31 and 3.5.13 on. Before, it could report
//! a revision whose events were still on their way.

pub fn reports_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    match (part(), part(), part()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        (major, minor, _) => (major, minor) > (3, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::reports_progress;

    #[test]
    fn progress_is_trusted_from_the_repaired_versions_on() {
        let trusted = ["3.4.31", "3.5.13", "3.6.0", "3.6.0-rc.1", "4.0.0"];
        assert!(trusted.iter().all(|version| reports_progress(version)));
        let distrusted = ["3.4.30", "3.4.23", "3.5.12", "3.3.99", "2.3.8", ""];
        assert!(!distrusted.iter().any(|version| reports_progress(version)));
    }
}
