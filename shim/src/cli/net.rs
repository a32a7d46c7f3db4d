//! `net`: the networks of pods, from what is on disk. Shims may run beside it: what a live one owns is only looked at.

use std::io::Write;
use std::path::PathBuf;

use netns::cni::fault::Fault;
use netns::pod::{Found, Life, Pods};
use serde::Serialize;
use serde_json::Value;

use super::flags::{Given, Until, switch, text, value};
use super::home::Berth;
use super::{Command, Error};
use crate::options::CACHE_DIR;

pub const NET: Command = Command {
    name: "net",
    words: "ls | show POD | check [POD] | gc",
    about: "the networks that shims have made for pods: list, show, check, and take away what dead ones left",
    flags: &[
        switch("json", None, "print JSON"),
        value("cache-dir", None, "DIR", "the cache_dir of the runtime options (default: /var/lib/berth/cni)"),
    ],
    until: Until::End,
    clones: false,
    run: net,
};

/// A pod's network, in short.
#[derive(Debug, Serialize)]
struct Listed {
    pod: String,
    state: &'static str,
    namespace: PathBuf,
    addresses: Vec<String>,
    ports: Vec<String>,
}

/// The same, with all that is known.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    bundle: PathBuf,
    networks: Vec<Attached>,
}

/// One of its networks.
#[derive(Debug, Serialize)]
struct Attached {
    network: String,
    interface: String,
    /// None: its ADD has not ended.
    result: Option<Value>,
}

/// How something went with a pod.
#[derive(Debug, Serialize)]
struct Told {
    pod: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Listed {
    fn of(found: &Found) -> Self {
        let Found { record, life, outcomes } = found;
        let ips = outcomes.iter().flatten().flat_map(|outcome| &outcome.ips);
        let mapped =
            record.networks.iter().filter_map(|(_, attachment)| attachment.capability_args.get("portMappings"));
        Self {
            pod: record.id.clone(),
            state: life.word(),
            namespace: record.namespace.clone(),
            addresses: ips.map(|ip| ip.address.to_string()).collect(),
            ports: mapped.filter_map(Value::as_array).flatten().map(port).collect(),
        }
    }
}

impl Shown {
    fn of(found: &Found) -> Result<Self, Error> {
        let networks = found.record.networks.iter().zip(&found.outcomes).map(|((list, attachment), outcome)| {
            let result = outcome.as_ref().map(|outcome| outcome.to_json(&list.version)).transpose()?;
            Ok(Attached { network: list.name.clone(), interface: attachment.if_name.clone(), result })
        });
        let networks = networks.collect::<Result<_, Fault>>()?;
        Ok(Self { listed: Listed::of(found), bundle: found.record.bundle.clone(), networks })
    }
}

/// As `ps` of container engines has it: `127.0.0.1:8080->80/tcp`.
fn port(mapping: &Value) -> String {
    let of = |name: &str| mapping.get(name).map(|value| value.to_string().trim_matches('"').to_owned());
    let ip = of("hostIP").map(|ip| if ip.contains(':') { format!("[{ip}]:") } else { format!("{ip}:") });
    let (host, container) = (of("hostPort").unwrap_or_default(), of("containerPort").unwrap_or_default());
    format!("{}{host}->{container}/{}", ip.unwrap_or_default(), of("protocol").unwrap_or("tcp".to_owned()))
}

fn net(_: &Berth, given: &Given) -> Result<u8, Error> {
    let pods = Pods::new(given.path("cache-dir").unwrap_or_else(|| CACHE_DIR.into()));
    let words = given.words.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    let as_json = given.is_on("json");
    match words[..] {
        ["ls"] => list(&pods, as_json),
        ["show", id] => show(&pods, id, as_json),
        ["check"] => tell(check(&pods, pods.ids()?), "as it was made", as_json),
        ["check", id] => tell(check(&pods, vec![id.to_owned()]), "as it was made", as_json),
        ["gc"] => {
            let told = |(pod, removed): (String, Result<(), Fault>)| Told {
                pod,
                error: removed.err().map(|fault| fault.to_string()),
            };
            tell(pods.collect()?.into_iter().map(told).collect(), "taken away", as_json)
        }
        _ => Err(Error::Usage("berth net: one of ls, show POD, check [POD], gc".to_owned())),
    }
}

fn list(pods: &Pods, as_json: bool) -> Result<u8, Error> {
    let mut listed = Vec::new();
    for id in pods.ids()? {
        // Taken away just now.
        let Some(found) = pods.find(&id)? else { continue };
        listed.push(Listed::of(&found));
    }
    if as_json { print(&json(&listed)?) } else { print(&table(&listed)) }
}

fn show(pods: &Pods, id: &str, as_json: bool) -> Result<u8, Error> {
    let found = pods.find(id)?.ok_or_else(|| Error::NoPod(id.to_owned()))?;
    let shown = Shown::of(&found)?;
    if as_json {
        return print(&json(&shown)?);
    }
    let Listed { pod, state, namespace, addresses, ports } = &shown.listed;
    let mut lines = vec![
        ("pod", pod.clone()),
        ("state", (*state).to_owned()),
        ("namespace", namespace.display().to_string()),
        ("bundle", shown.bundle.display().to_string()),
    ];
    lines.extend(shown.networks.iter().map(|one| ("network", format!("{} on {}", one.network, one.interface))));
    lines.extend(addresses.iter().map(|address| ("address", address.clone())));
    lines.extend(ports.iter().map(|port| ("port", port.clone())));
    print(&lines.iter().map(|(what, is)| format!("{what:<10} {is}\n")).collect::<String>())
}

fn check(pods: &Pods, ids: Vec<String>) -> Vec<Told> {
    let error = |id: &str| match pods.find(id) {
        Ok(Some(Found { life: Life::Gone, .. })) => Some("it is gone; berth net gc takes away what it left".to_owned()),
        Ok(Some(found)) => pods.check(&found.record).err().map(|fault| fault.to_string()),
        Ok(None) => Some("no such pod".to_owned()),
        Err(fault) => Some(fault.to_string()),
    };
    ids.into_iter().map(|pod| Told { error: error(&pod), pod }).collect()
}

/// Prints how it went with each; one error makes it the command's.
fn tell(told: Vec<Told>, well: &str, as_json: bool) -> Result<u8, Error> {
    if as_json {
        print(&json(&told)?)?;
    } else {
        let line = |told: &Told| format!("{}: {}\n", told.pod, told.error.as_deref().unwrap_or(well));
        print(&told.iter().map(line).collect::<String>())?;
    }
    Ok(u8::from(told.iter().any(|told| told.error.is_some())))
}

fn table(listed: &[Listed]) -> String {
    let mut rows = vec![["POD", "STATE", "NAMESPACE", "ADDRESSES", "PORTS"].map(str::to_owned)];
    rows.extend(listed.iter().map(|one| {
        let namespace = one.namespace.display().to_string();
        [one.pod.clone(), one.state.to_owned(), namespace, one.addresses.join(","), one.ports.join(",")]
    }));
    let widths: Vec<usize> =
        (0..4).map(|column| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0)).collect();
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        (cells.collect::<String>() + &row[4]).trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|source| Error::Json { what: "our own state".to_owned(), source })
}

fn print(text: &str) -> Result<u8, Error> {
    let printed = std::io::stdout().write_all(text.as_bytes());
    printed.map_err(|source| Error::System { act: "write to standard output", source })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_read_as_container_engines_write_them() {
        let mapping = json!({"hostPort":8080,"containerPort":80,"protocol":"tcp"});
        assert_eq!(port(&mapping), "8080->80/tcp");
        assert_eq!(port(&json!({"hostPort":1,"containerPort":2,"hostIP":"::1","protocol":"udp"})), "[::1]:1->2/udp");
        assert_eq!(port(&json!({"hostPort":1,"containerPort":2,"hostIP":"10.0.0.1"})), "10.0.0.1:1->2/tcp");
    }

    #[test]
    fn a_table_has_columns() {
        let listed = Listed {
            pod: "default-web".to_owned(),
            state: "live",
            namespace: "/run/netns/default-web".into(),
            addresses: vec!["10.0.0.2/16".to_owned()],
            ports: Vec::new(),
        };
        let lines = table(&[listed]);
        assert_eq!(
            lines,
            "POD           STATE   NAMESPACE                ADDRESSES     PORTS\n\
             default-web   live    /run/netns/default-web   10.0.0.2/16\n"
        );
    }
}
