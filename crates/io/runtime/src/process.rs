//! The process of a container: arguments, environment, identity and rights, out of the configuration and the image.

use std::fs;
use std::path::PathBuf;

use coracle_image::Image;
use coracle_image::users::Identity;
use coracle_linux::plan::ProcessPlan;
use coracle_linux::{capability, seccomp};
use coracle_proto::cri::{self, SupplementalGroupsPolicy, security_profile::ProfileType};
use tonic::Status;

use crate::sandbox::has_network;
use crate::state::Sandbox;
use crate::{EmbeddedRuntime, internal};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn plan(
    runtime: &EmbeddedRuntime,
    sandbox: &Sandbox,
    config: &cri::ContainerConfig,
    image: &Image,
) -> Result<ProcessPlan, Status> {
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let identity = identity(runtime, &context, image)?;
    let groups = groups(&context, &identity);
    let capabilities = capabilities(&context)?;
    let ambient = context.capabilities.as_ref().map(|c| c.add_ambient_capabilities.as_slice()).unwrap_or_default();
    let args = arguments(config, image);
    if args.is_empty() {
        return Err(Status::invalid_argument("no command specified"));
    }
    Ok(ProcessPlan {
        args,
        env: environment(sandbox, config, image, &identity),
        cwd: [&config.working_dir, &image.config.working_dir]
            .into_iter()
            .find(|dir| !dir.is_empty())
            .cloned()
            .unwrap_or("/".into()),
        uid: identity.uid,
        gid: identity.gid,
        groups,
        capabilities,
        ambient: capability::adjust(0, ambient, &[]).map_err(Status::invalid_argument)? & capabilities,
        no_new_privileges: context.no_new_privs,
        seccomp: seccomp_files(runtime, &context, capabilities)?,
        rlimits: Vec::new(),
        oom_score_adj: linux.resources.map_or(0, |resources| resources.oom_score_adj as i32),
        terminal: config.tty,
    })
}

/// A command of the pod's replaces the image's entrypoint and its arguments; arguments alone replace the arguments.
fn arguments(config: &cri::ContainerConfig, image: &Image) -> Vec<String> {
    let mut args = config.command.clone();
    if args.is_empty() {
        args = image.config.entrypoint.clone();
        args.extend(if config.args.is_empty() { image.config.cmd.clone() } else { config.args.clone() });
    } else {
        args.extend(config.args.clone());
    }
    args
}

fn environment(sandbox: &Sandbox, config: &cri::ContainerConfig, image: &Image, identity: &Identity) -> Vec<String> {
    let mut env: Vec<String> = vec![PATH.into()];
    if has_network(&sandbox.config) && !sandbox.config.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", sandbox.config.hostname));
    }
    if config.tty {
        env.push("TERM=xterm".into());
    }
    env.push(format!("HOME={}", if identity.home.is_empty() { "/" } else { &identity.home }));
    env.extend(image.config.env.iter().cloned());
    env.extend(config.envs.iter().map(|entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))));
    last_wins(env)
}

fn last_wins(env: Vec<String>) -> Vec<String> {
    let mut merged: Vec<String> = Vec::with_capacity(env.len());
    for entry in env {
        let name = entry.split('=').next().unwrap_or_default();
        match merged.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = entry,
            None => merged.push(entry),
        }
    }
    merged
}

fn identity(
    runtime: &EmbeddedRuntime,
    context: &cri::LinuxContainerSecurityContext,
    image: &Image,
) -> Result<Identity, Status> {
    let mut user = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(uid), _) => uid.value.to_string(),
        (None, "") => image.config.user.clone(),
        (None, name) => name.to_owned(),
    };
    if let Some(gid) = &context.run_as_group {
        user = format!("{}:{}", user.split(':').next().unwrap_or_default(), gid.value);
    }
    let found = runtime.options.images.identity(image, &user);
    found.ok_or_else(|| {
        Status::invalid_argument(format!("unable to find user {user}: no matching entries in passwd file"))
    })
}

fn groups(context: &cri::LinuxContainerSecurityContext, identity: &Identity) -> Vec<u32> {
    let mut groups = vec![identity.gid];
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge {
        groups.extend(&identity.groups);
    }
    groups.extend(context.supplemental_groups.iter().filter_map(|group| u32::try_from(*group).ok()));
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn capabilities(context: &cri::LinuxContainerSecurityContext) -> Result<u64, Status> {
    if context.privileged {
        return Ok(capability::ALL);
    }
    let asked = context.capabilities.clone().unwrap_or_default();
    capability::adjust(capability::default_mask(), &asked.add_capabilities, &asked.drop_capabilities)
        .map_err(Status::invalid_argument)
}

/// Filters lie in the state folder, one set per set of capabilities, and are compiled once.
fn seccomp_files(
    runtime: &EmbeddedRuntime,
    context: &cri::LinuxContainerSecurityContext,
    capabilities: u64,
) -> Result<Vec<PathBuf>, Status> {
    let profile = match &context.seccomp {
        Some(profile) if !context.privileged => profile,
        _ => return Ok(Vec::new()),
    };
    match profile.profile_type() {
        ProfileType::Unconfined => return Ok(Vec::new()),
        ProfileType::RuntimeDefault => {}
        ProfileType::Localhost => {
            return Err(Status::unimplemented(format!(
                "the seccomp profile {:?}: profiles of the node are not supported",
                profile.localhost_ref
            )));
        }
    }
    let folder = runtime.options.state_dir.join("seccomp");
    let files: Vec<PathBuf> = (0..2).map(|n| folder.join(format!("default-{capabilities:x}-{n}.bpf"))).collect();
    if files.iter().all(|file| file.exists()) {
        return Ok(files);
    }
    let failed = |error: std::io::Error| Status::internal(format!("writing seccomp filters: {error}"));
    fs::create_dir_all(&folder).map_err(failed)?;
    for (file, program) in files.iter().zip(seccomp::default_profile(capabilities).map_err(internal)?) {
        let beside = file.with_extension("new");
        fs::write(&beside, program).and_then(|()| fs::rename(&beside, file)).map_err(failed)?;
    }
    Ok(files)
}

/// The signal that asks a container to end: the pod's, else the image's, else SIGTERM.
pub fn stop_signal(config: &cri::ContainerConfig, image: &Image) -> i32 {
    let asked = config.stop_signal();
    let name =
        if asked == cri::Signal::RuntimeDefault { image.config.stop_signal.as_str() } else { asked.as_str_name() };
    signal_number(name).unwrap_or(libc::SIGTERM)
}

fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let offset = rest.trim_start_matches("PLUS").trim_start_matches('+');
        return Some(34 + if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? });
    }
    if let Some(rest) = bare.strip_prefix("RTMAX") {
        let offset = rest.trim_start_matches("MINUS").trim_start_matches('-');
        return Some(64 - if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? });
    }
    let known = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("IOT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("POLL", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];
    known.iter().find(|(known, _)| *known == bare).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_every_spelling() {
        let numbers =
            ["SIGTERM", "QUIT", "9", "SIGRTMINPLUS3", "SIGRTMIN+3", "SIGRTMAX", "SIGRTMAXMINUS1"].map(signal_number);
        assert_eq!(numbers, [15, 3, 9, 37, 37, 64, 63].map(Some));
        assert_eq!(signal_number("SIGNONSENSE"), None);
    }

    #[test]
    fn the_pods_environment_wins_over_the_images() {
        let env = ["A=1", "B=2", "A=3"].map(String::from).to_vec();
        assert_eq!(last_wins(env), ["A=3", "B=2"]);
    }
}
