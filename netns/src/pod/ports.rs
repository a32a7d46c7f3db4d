//! Ports of the host that pods map: one of them is one pod's. The portmap plugins look at nothing: whoever comes last
//! would have no traffic, or take somebody else's.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::Record;
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::plugin::Mapping;

/// The ports of the host that a pod maps.
pub(super) fn of(record: &Record) -> Result<Vec<Mapping>, Fault> {
    let attachments = record.networks.iter().map(|(_, attachment)| attachment);
    let objects = attachments.map(|attachment| Fields(&attachment.capability_args).objects("portMappings"));
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    objects.into_iter().flatten().map(Mapping::parse).collect()
}

fn taken(port: &Mapping, by: &str) -> Fault {
    Fault::new(Code::CONFIG, format!("port {port} of the host is taken by {by}"))
}

/// Refuses ports that another pod maps too, and ports that are asked for twice.
pub(super) fn refuse_shared(ports: &[Mapping], others: &[Mapping], other: &str) -> Result<(), Fault> {
    let shared = ports.iter().find(|port| others.iter().any(|other| port.meets(other)));
    shared.map_or(Ok(()), |port| Err(taken(port, &format!("pod {other}"))))
}

/// Refuses ports that a program of the host listens at: it would not be reached any more.
pub(super) fn refuse_bound(ports: &[Mapping]) -> Result<(), Fault> {
    for (at, port) in ports.iter().enumerate() {
        if ports[..at].iter().any(|before| before.meets(port)) {
            return Err(Fault::new(Code::CONFIG, format!("port {port} of the host is mapped twice")));
        }
        let at = (port.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port.host);
        let bound = match port.protocol {
            Mapping::TCP => TcpListener::bind(at).err(),
            Mapping::UDP => UdpSocket::bind(at).err(),
            _ => None,
        };
        // An address that is not the host's now is one that traffic may still come for.
        if bound.is_some_and(|error| error.kind() == ErrorKind::AddrInUse) {
            return Err(taken(port, "a program of the host"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapping(value: &serde_json::Value) -> Mapping {
        Mapping::parse(Fields(value.as_object().unwrap())).unwrap()
    }

    #[test]
    fn ports_overlap_where_traffic_could_be_of_both() {
        let port = |port: u16, protocol: &str, ip: &str| {
            mapping(&json!({"hostPort": port, "containerPort": 80, "protocol": protocol, "hostIP": ip}))
        };
        assert!(port(80, "tcp", "").meets(&port(80, "TCP", "127.0.0.1")));
        assert!(port(80, "tcp", "0.0.0.0").meets(&port(80, "tcp", "127.0.0.1")));
        assert!(!port(80, "tcp", "10.0.0.1").meets(&port(80, "tcp", "127.0.0.1")));
        assert!(!port(80, "tcp", "").meets(&port(80, "udp", "")));
        assert!(!port(80, "tcp", "").meets(&port(81, "tcp", "")));
        let error = refuse_shared(&[port(80, "tcp", "")], &[port(80, "tcp", "127.0.0.1")], "x").unwrap_err();
        assert_eq!(error.to_string(), "port 80/tcp of the host is taken by pod x");
        let error = refuse_bound(&[port(80, "sctp", ""), port(80, "sctp", "::1")]).unwrap_err();
        assert_eq!(error.to_string(), "port [::1]:80/sctp of the host is mapped twice");
    }

    #[test]
    fn a_port_that_a_program_listens_at_is_taken() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let wanted = [mapping(&json!({"hostPort": port, "containerPort": 80, "hostIP": "127.0.0.1"}))];
        assert!(refuse_bound(&wanted).unwrap_err().message.ends_with("is taken by a program of the host"));
        drop(listener);
        refuse_bound(&wanted).unwrap();
    }
}
