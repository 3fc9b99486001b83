//! How the host knows a pod: its host name, its resolver configuration, its hosts file.

use k8s_openapi::api::core::v1::Pod;

use coracle_proto::cri;

use crate::options::Options;

const HOST_NAME_BYTES_MAX: usize = 63;
const SEARCHES_MAX: usize = 32;
const SERVERS_MAX: usize = 3;

/// The host name inside of the pod; a pod in the host's network has the node's.
pub(crate) fn hostname(pod: &Pod, options: &Options) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(name) = spec.hostname_override.filter(|name| !name.is_empty()) {
        return name;
    }
    if spec.host_network == Some(true) {
        return options.node_name.clone();
    }
    let short = short_name(pod);
    match domain(pod, options) {
        Some(domain) if spec.set_hostname_as_fqdn == Some(true) => format!("{short}.{domain}"),
        _ => short,
    }
}

fn short_name(pod: &Pod) -> String {
    let asked = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = asked.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(HOST_NAME_BYTES_MAX);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// `subdomain.namespace.svc.cluster.local`, of pods that have a subdomain.
fn domain(pod: &Pod, options: &Options) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{subdomain}.{namespace}.svc.{}", options.cluster_domain))
}

/// The resolver configuration by dnsPolicy, completed by dnsConfig.
pub(crate) fn dns_config(pod: &Pod, options: &Options) -> cri::DnsConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = match (spec.dns_policy.as_deref(), spec.host_network) {
        (Some("None"), _) => Policy::Nothing,
        (Some("Default"), _) => Policy::Host,
        (Some("ClusterFirstWithHostNet"), _) => Policy::Cluster,
        (_, Some(true)) => Policy::Host,
        _ if options.cluster_dns.is_empty() => Policy::Host,
        _ => Policy::Cluster,
    };
    let host = || read_resolv_conf(&std::fs::read_to_string(&options.resolv_conf).unwrap_or_default());
    let mut config = match policy {
        Policy::Nothing => cri::DnsConfig::default(),
        Policy::Host => host(),
        Policy::Cluster => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &options.cluster_domain;
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(host().searches);
            cri::DnsConfig { servers: options.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
        }
    };
    if let Some(more) = spec.dns_config {
        config.servers.extend(more.nameservers.unwrap_or_default());
        config.searches.extend(more.searches.unwrap_or_default());
        for option in more.options.unwrap_or_default() {
            let name = option.name.unwrap_or_default();
            config.options.retain(|have| have.split(':').next() != Some(&name));
            config.options.push(match option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    unique(&mut config.servers, SERVERS_MAX);
    unique(&mut config.searches, SEARCHES_MAX);
    config
}

enum Policy {
    Nothing,
    Host,
    Cluster,
}

fn read_resolv_conf(text: &str) -> cri::DnsConfig {
    let mut config = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config.searches.retain(|search| !search.is_empty());
    config
}

fn unique(list: &mut Vec<String>, max: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list.truncate(max);
}

/// The hosts file of a pod.
pub(crate) fn hosts_file(pod: &Pod, options: &Options, ips: &[String]) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text;
    if spec.host_network == Some(true) {
        text = "# Kubernetes-managed hosts file (host network).\n".to_owned();
        text.push_str(&std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    } else {
        text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned();
        let short = short_name(pod);
        let names = domain(pod, options).map_or(short.clone(), |domain| format!("{short}.{domain}\t{short}"));
        for ip in ips {
            text.push_str(&format!("{ip}\t{names}\n"));
        }
    }
    let aliases = spec.host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
    }
    text
}
