//! Every crate that is linked in has a licence that `deny.toml` allows. Checked here too because it needs nothing
//! installed beside cargo.

use std::path::Path;

use anyhow::{Context, Result};

/// The crates whose licence expression cannot be met with the allowed ones, a line each.
pub fn violations(root: &Path) -> Result<Vec<String>> {
    let allowed = allowed(&std::fs::read_to_string(root.join("deny.toml")).context("reading deny.toml")?);
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-musl"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    Ok(packages
        .iter()
        .filter(|package| !is_met(package["license"].as_str().unwrap_or_default(), &allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect())
}

/// The strings of the list `allow` in `[licenses]`.
fn allowed(deny: &str) -> Vec<String> {
    let list = deny.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether one alternative of an SPDX expression consists of allowed licences. Handles what crates use: `OR`, `AND`,
/// the old `/`, and parentheses around alternatives.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let needs_each = flat
        .split(" AND ")
        .map(|part| part.split(" OR ").any(|licence| allowed.iter().any(|known| known == licence.trim())));
    !expression.is_empty() && needs_each.into_iter().all(|met| met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dependency_has_an_allowed_licence() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        assert_eq!(violations(&root).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_expression_needs_each_conjunct() {
        let allowed = ["MIT".to_owned(), "ISC".to_owned()];
        assert!(is_met("MIT OR GPL-3.0", &allowed));
        assert!(is_met("(MIT OR Apache-2.0) AND ISC", &allowed));
        assert!(!is_met("MIT AND GPL-3.0", &allowed));
        assert!(!is_met("", &allowed));
    }
}
