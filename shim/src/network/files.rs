//! /etc/resolv.conf, /etc/hosts and /etc/hostname: written into the bundle, and mounted over whatever the image has, unless
//! the spec mounts something there itself.

use super::Error;
use netns::cni::result::{Dns, Outcome};
use oci_spec::runtime::{Mount, Spec};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A file and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    file: PathBuf,
    target: &'static str,
}

/// systemd-resolved's upstream servers: the host's resolv.conf then names a server that only the host reaches.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Writes them. `dns` are the servers that were asked for.
pub fn write(bundle: &Path, outcomes: &[Outcome], dns: &[String], hostname: Option<&str>) -> Result<Vec<Shown>, Error> {
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let answered = outcomes.iter().map(|outcome| &outcome.dns).find(|dns| !dns.is_empty());
    let resolv = match answered {
        _ if !dns.is_empty() => {
            resolv_conf(&Dns { nameservers: dns.to_vec(), ..answered.cloned().unwrap_or_default() })
        }
        Some(dns) => resolv_conf(dns),
        None => reachable(&host("/etc/resolv.conf")).or_else(|| reachable(&host(RESOLVED))).unwrap_or_default(),
    };
    let addresses: Vec<IpAddr> =
        outcomes.iter().flat_map(|outcome| &outcome.ips).map(|ip| ip.address.address).collect();
    let mut texts = vec![("/etc/resolv.conf", resolv), ("/etc/hosts", hosts(&addresses, hostname))];
    texts.extend(hostname.map(|name| ("/etc/hostname", format!("{name}\n"))));
    let write = |(target, text): (&'static str, String)| {
        let file = bundle.join(target.trim_start_matches("/etc/"));
        match fs::write(&file, text) {
            Ok(()) => Ok(Shown { file, target }),
            Err(source) => Err(Error::Write { path: file, source }),
        }
    };
    texts.into_iter().map(write).collect()
}

/// Has the spec mount them, last.
pub fn mount(files: &[Shown], spec: &mut Spec) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let taken: Vec<PathBuf> = mounts.iter().map(|mount| mount.destination().components().collect()).collect();
    for shown in files.iter().filter(|shown| is_free(&taken, Path::new(shown.target))) {
        let options = ["bind", "rprivate", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
        let mut mount = Mount::default();
        mount.set_destination(shown.target.into());
        mount.set_typ(Some("bind".to_owned()));
        mount.set_source(Some(shown.file.clone()));
        mount.set_options(Some(options));
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
}

/// Where the spec mounts a directory above, the file would be made in what is mounted there.
fn is_free(taken: &[PathBuf], target: &Path) -> bool {
    !taken.iter().any(|mounted| target.starts_with(mounted) && mounted != Path::new("/"))
}

/// resolv.conf(5)
fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    let mut line = |key: &str, words: &[String]| {
        if !words.is_empty() {
            text += &format!("{key} {}\n", words.join(" "));
        }
    };
    // The one that comes last of these two counts.
    line("domain", Some(&dns.domain).filter(|domain| !domain.is_empty()).cloned().as_slice());
    line("search", &dns.search);
    for server in &dns.nameservers {
        line("nameserver", std::slice::from_ref(server));
    }
    line("options", &dns.options);
    text
}

/// The host's, without servers that listen on its loopback alone; None if it has no others.
fn reachable(host: &str) -> Option<String> {
    let server = |line: &str| line.trim().strip_prefix("nameserver").map(|server| server.trim().parse::<IpAddr>());
    let is_loopback = |line: &str| matches!(server(line), Some(Ok(address)) if address.is_loopback());
    let lines: Vec<&str> = host.lines().filter(|line| !is_loopback(line)).collect();
    let has_server = lines.iter().any(|line| server(line).is_some());
    has_server.then(|| lines.iter().map(|line| format!("{line}\n")).collect())
}

/// hosts(5)
fn hosts(addresses: &[IpAddr], hostname: Option<&str>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if let Some(name) = hostname {
        for address in addresses {
            text += &format!("{address}\t{name}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_of_the_hosts_loopback_are_left_out() {
        assert_eq!(reachable("nameserver 127.0.0.53\nsearch x\n"), None);
        assert_eq!(
            reachable("# c\nnameserver ::1\nnameserver 10.0.0.1\nsearch x").as_deref(),
            Some("# c\nnameserver 10.0.0.1\nsearch x\n")
        );
    }

    #[test]
    fn files_say_what_the_network_gave() {
        let dns = Dns {
            nameservers: vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
            domain: "d".to_owned(),
            search: vec!["a".to_owned(), "b".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        let text = "domain d\nsearch a b\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:2\n";
        assert_eq!(resolv_conf(&dns), text);
        assert_eq!(resolv_conf(&Dns::default()), "");
        let text = hosts(&["10.0.0.7".parse().unwrap()], Some("web"));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n") && text.ends_with("10.0.0.7\tweb\n"), "{text}");
    }

    #[test]
    fn what_the_spec_mounts_stays() {
        let shown = |target| Shown { file: "/b/f".into(), target };
        let files = [shown("/etc/resolv.conf"), shown("/etc/hosts")];
        let mounted = |destination: &str| {
            let mut spec: Spec = serde_json::from_value(
                json!({"ociVersion":"1.1.0","mounts":[{"destination":destination,"source":"/x"}]}),
            )
            .unwrap();
            mount(&files, &mut spec);
            spec.mounts().as_ref().unwrap().len() - 1
        };
        assert_eq!(["/proc", "/etc/hosts", "/etc/hosts/", "/etc", "/"].map(mounted), [2, 1, 1, 0, 2]);
    }
}
