//! Seccomp filters: the default profile, equivalent to the one containerd and Docker ship, compiled to classic BPF.
//! Two programs: a floor that answers ENOSYS where a libc must be able to fall back (clone3, calls newer than this
//! list), and the allow-list, which answers EPERM.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::{Error, Result, capability};

#[path = "seccomp_table.rs"]
mod table;

/// Newest call in the table; later ones are unknown to this profile.
const NEWEST: u32 = 462;
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// The programs of the default profile for a container with these capabilities, in the order of loading.
pub fn default_profile(capabilities: u64) -> Result<Vec<Vec<u8>>> {
    let has = |name: &str| capability::bit(name).is_some_and(|bit| capabilities & bit != 0);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut allow = |names: &[&str]| {
        for name in names {
            if let Some(number) = table::number(name) {
                rules.insert(number, Vec::new());
            }
        }
    };
    allow(table::ALWAYS);
    for (name, calls) in table::BY_CAPABILITY {
        if has(name) {
            allow(calls);
        }
    }
    if let Some(personality) = table::number("personality") {
        let values = [0u64, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
        let any = values.iter().map(|value| rule(0, SeccompCmpOp::Eq, *value)).collect::<Result<_>>()?;
        rules.insert(personality, any);
    }
    if let Some(socket) = table::number("socket") {
        // Everything but AF_VSOCK, which reaches the hypervisor.
        rules.insert(socket, vec![rule(0, SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?]);
    }
    if !has("SYS_ADMIN")
        && let Some(clone) = table::number("clone")
    {
        rules.insert(clone, vec![rule(0, SeccompCmpOp::MaskedEq(NAMESPACE_FLAGS), 0)?]);
    }
    let program = compile(rules)?;
    Ok(vec![floor(!has("SYS_ADMIN")), bytes(&program)])
}

fn rule(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let invalid = |error: seccompiler::BackendError| Error::Invalid(format!("seccomp rule: {error}"));
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, comparison, value).map_err(invalid)?;
    SeccompRule::new(vec![condition]).map_err(invalid)
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<BpfProgram> {
    let invalid = |error: seccompiler::BackendError| Error::Invalid(format!("seccomp profile: {error}"));
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(invalid)?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).map_err(invalid)?;
    filter.try_into().map_err(invalid)
}

fn bytes(program: &BpfProgram) -> Vec<u8> {
    let mut all = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        push(&mut all, instruction.code, (instruction.jt, instruction.jf), instruction.k);
    }
    all
}

fn push(program: &mut Vec<u8>, code: u16, jumps: (u8, u8), value: u32) {
    program.extend(code.to_le_bytes());
    program.extend([jumps.0, jumps.1]);
    program.extend(value.to_le_bytes());
}

/// ENOSYS for what is newer than the table and, when new namespaces are not allowed, for clone3, whose flags a filter
/// cannot see; everything else passes on to the next filter.
fn floor(refuse_clone3: bool) -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let mut program = Vec::new();
    push(&mut program, LOAD, (0, 0), 0);
    push(&mut program, JUMP_GREATER, (2, 0), NEWEST);
    let clone3 = if refuse_clone3 { libc::SYS_clone3 as u32 } else { u32::MAX };
    push(&mut program, JUMP_EQUAL, (1, 0), clone3);
    push(&mut program, RETURN, (0, 0), ALLOW);
    push(&mut program, RETURN, (0, 0), ERRNO | libc::ENOSYS as u32);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_compiles_and_widens_with_capabilities() {
        let narrow = default_profile(capability::default_mask()).unwrap();
        let wide = default_profile(capability::ALL).unwrap();
        assert!(narrow[1].len() > 1000);
        assert!(wide[1].len() > narrow[1].len());
        assert_ne!(narrow[0], wide[0]);
    }

    #[test]
    fn every_call_of_the_profile_is_known_on_this_machine() {
        let known = table::ALWAYS.iter().filter(|name| table::number(name).is_some()).count();
        assert!(known > 250, "only {known} calls are known");
    }
}
