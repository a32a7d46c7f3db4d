//! What the configuration asks of port mappings, and of which backend. Pure.

use super::super::Call;
use super::config;
use crate::cni::fault::Fault;
use crate::cni::json::Fields;
use crate::iptables::{foreign, foreign_chain};

/// Whose rules they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Iptables,
    Nftables,
}

/// What says that a packet is to be masqueraded: a bit of its mark, or a chain of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marks {
    Bit(u32),
    External(String),
}

/// The configuration. nftables needs no marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) snat: Option<Marks>,
    pub(super) masq_all: bool,
    pub(super) conditions_v4: Vec<String>,
    pub(super) conditions_v6: Vec<String>,
}

/// Kubernetes has 14 and 15, Calico 20 to 31.
const MARK_BIT: u32 = 13;

impl Settings {
    pub(super) fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let external = fields.string("externalSetMarkChain")?;
        let bit = fields.integer("markMasqBit")?;
        let marks = match (external, bit) {
            (Some(_), Some(_)) => return Err(config("Cannot specify externalSetMarkChain and markMasqBit")),
            (Some(chain), None) => {
                foreign_chain("externalSetMarkChain", &chain)?;
                Marks::External(chain)
            }
            (None, bit) => {
                let bit = u32::try_from(bit.unwrap_or(MARK_BIT.into())).ok().filter(|bit| *bit < 32);
                Marks::Bit(bit.ok_or_else(|| config("MasqMarkBit must be between 0 and 31"))?)
            }
        };
        let snat = fields.get("snat").is_none() || fields.boolean("snat")?;
        let this = Self {
            snat: snat.then_some(marks),
            masq_all: fields.boolean("masqAll")?,
            conditions_v4: fields.strings("conditionsV4")?,
            conditions_v6: fields.strings("conditionsV6")?,
        };
        foreign("conditionsV4", &this.conditions_v4)?;
        foreign("conditionsV6", &this.conditions_v6)?;
        Ok(this)
    }
}

/// Which of the backends has to be there for a condition: no word of nft(8)'s begins so.
fn backend_of(condition: &str) -> Option<Backend> {
    match condition.bytes().next()? {
        b'-' | b'!' => Some(Backend::Iptables),
        _ => Some(Backend::Nftables),
    }
}

/// The one that is named, else the one that the other options are of, else nftables. And whether it is asked for what
/// only nft(8) can read. Pure.
pub(super) fn backend(fields: Fields<'_>) -> Result<(Backend, bool), Fault> {
    let mut of = vec![("externalSetMarkChain", fields.string("externalSetMarkChain")?.map(|_| Backend::Iptables))];
    for field in ["conditionsV4", "conditionsV6"] {
        of.push((field, fields.strings(field)?.first().and_then(|condition| backend_of(condition))));
    }
    let options = |backend| of.iter().filter(move |(_, its)| *its == Some(backend)).map(|(field, _)| *field);
    let backend = match fields.string("backend")?.as_deref() {
        Some("iptables") => Backend::Iptables,
        Some("nftables") => Backend::Nftables,
        Some(other) => return Err(config(format!("unrecognized backend {other:?}"))),
        None if options(Backend::Iptables).next().is_some() => Backend::Iptables,
        None => Backend::Nftables,
    };
    let (name, other, wrong) = match backend {
        Backend::Iptables => ("iptables", "nftables", Backend::Nftables),
        Backend::Nftables => ("nftables", "iptables", Backend::Iptables),
    };
    let wrong: Vec<_> = options(wrong).collect();
    if !wrong.is_empty() {
        let message =
            format!("{name} backend was requested but configuration contains {other}-specific options {wrong:?}");
        return Err(config(message));
    }
    Ok((backend, options(Backend::Nftables).next().is_some()))
}

/// Conditions of nftables are text in the language of nft(8).
pub(super) fn beyond(call: &Call<'_>) -> bool {
    matches!(backend(call.fields()), Ok((Backend::Nftables, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<(Backend, bool), Fault> {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        backend(Fields(value.as_object().unwrap()))
    }

    #[test]
    fn a_backend_is_the_one_that_is_asked_for() {
        assert_eq!(asked("{}"), Ok((Backend::Nftables, false)));
        assert_eq!(asked(r#"{"backend":"iptables"}"#), Ok((Backend::Iptables, false)));
        assert_eq!(asked(r#"{"conditionsV4":["!","-s","10.0.0.0/8"]}"#), Ok((Backend::Iptables, false)));
        assert_eq!(asked(r#"{"externalSetMarkChain":"X"}"#), Ok((Backend::Iptables, false)));
        assert_eq!(asked(r#"{"conditionsV6":["ip6 saddr fd00::/8"]}"#), Ok((Backend::Nftables, true)));
        for text in [
            r#"{"backend":"ipfw"}"#,
            r#"{"backend":"nftables","externalSetMarkChain":"X"}"#,
            r#"{"backend":"iptables","conditionsV4":["ip saddr 10.0.0.0/8"]}"#,
            r#"{"conditionsV4":["-s","10.0.0.0/8"],"conditionsV6":["ip6 saddr fd00::/8"]}"#,
        ] {
            assert!(asked(text).is_err(), "{text}");
        }
    }
}
