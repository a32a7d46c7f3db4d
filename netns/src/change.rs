//! What a plugin does to the kernel, as a list of changes: plain data that says what it is, one loop that applies it,
//! and what takes each change back when a later one fails.

mod apply;
mod message;

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use rustix::io::Errno;

use crate::cni::cidr::Cidr;
use crate::cni::fault::Fault;
use crate::cni::result::Route;
use crate::iptables::{self, Edit, Edits};
use crate::netlink::{Bucket, Family, Refused, Via};
use crate::nft::{Batch, Nft, Rule};
use crate::plugin::Call;

pub(crate) use apply::{Shared, Work, attempt};

/// The namespace where something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Host,
    Pod,
}

/// One change. Links go by name, and by number only to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new link.
    Create(NewLink),
    /// A link goes, if it is there.
    Delete(Place, String),
    /// A property of a link.
    Set(Place, String, Set),
    /// Properties of a bridge's port.
    Port { link: String, hairpin: bool, isolated: bool },
    /// A link of the pod's gets a master of the pod's, or has none any more.
    Master { link: String, master: Option<String> },
    /// A device goes there.
    Move(Place, Device),
    /// VLANs of a bridge's port, or of the bridge itself: added, or taken away.
    Vlan { link: String, id: u16, pvid: bool, add: bool },
    /// A link's address. `again`: it may be there already.
    Address { place: Place, link: String, cidr: Cidr, again: bool },
    /// A link's address goes, if it is there.
    Unaddress { place: Place, link: String, cidr: Cidr },
    /// A route by a link.
    Route { place: Place, link: String, route: Route, source: Option<IpAddr>, again: bool },
    /// The kernel's own route to a link's network goes.
    Unroute { place: Place, link: String, destination: Cidr },
    /// A route of the pod's, as the kernel said it, is there, or is not.
    Via { via: Via, there: bool },
    /// What comes from an address looks into that table of the pod's, or does not any more.
    Rule { source: IpAddr, table: u32, there: bool },
    /// Files below /proc/sys.
    Sysctls(Place, Vec<Sysctl>),
    /// What leaves by a link of the host is held to a rate.
    Shape { link: String, bucket: Bucket },
    /// What comes in by a link of the host goes out by another.
    Redirect { link: String, to: String },
    /// A link's queue goes, of what comes in or of what goes out, if it is there.
    Release { link: String, incoming: bool },
    /// Rules of the host's packet filter, and what takes them away.
    Rules { what: String, batch: Batch, forget: Forget },
    /// Rules of the host's packet filter go, if they are there.
    Forget(Forget),
    /// Rules of the host's iptables, and what takes them away.
    Tables { what: &'static str, edits: Edits, forget: Edits },
}

/// A link that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewLink {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// 0: the kernel's choice.
    pub(crate) mtu: u32,
    pub(crate) mac: Option<Vec<u8>>,
    /// Others use it as well, so that it stays, and may be there already.
    pub(crate) shared: bool,
}

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its other end is there. It is made up, the other end down. The MAC is the other end's.
    Veth {
        peer: String,
        of: Place,
        master: Option<String>,
    },
    Bridge {
        vlan_filtering: bool,
    },
    /// It sends back what it is sent. It is made up, and without a queue of its own.
    Ifb,
    /// In the pod, on a link of the host's or of the pod's own.
    Upon {
        master: String,
        of: Place,
        layer: Layer,
    },
    /// In the pod.
    Dummy,
    /// In the pod.
    Vrf {
        table: u32,
    },
}

/// What is made on another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    MacVlan { mode: u32, queue: Option<u32> },
    IpVlan { mode: u16 },
    Vlan { id: u16 },
}

/// A device that a pod has for a while: its name in both places, and whether it is up on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) host: String,
    pub(crate) pod: String,
    pub(crate) up: bool,
}

impl Kind {
    /// Where it is made.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Veth { .. } | Self::Bridge { .. } | Self::Ifb => Place::Host,
            Self::Upon { .. } | Self::Dummy | Self::Vrf { .. } => Place::Pod,
        }
    }

    /// Where the kernel is asked for it, and knows the links that it refers to.
    pub(crate) fn from(&self) -> Place {
        match self {
            Self::Upon { of, .. } => *of,
            _ => self.place(),
        }
    }

    /// The link that it is put under or on.
    pub(crate) fn master(&self) -> Option<&str> {
        match self {
            Self::Veth { master, .. } => master.as_deref(),
            Self::Upon { master, .. } => Some(master),
            _ => None,
        }
    }
}

/// A property of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Set {
    Up(bool),
    Mtu(u32),
    Mac(Vec<u8>),
    Promiscuous(bool),
    AllMulticast(bool),
    Queue(u32),
    Name(String),
    /// What people are told of it.
    Alias(String),
}

/// A file below /proc/sys, without that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    pub(crate) path: String,
    pub(crate) value: String,
    /// A kernel that has it not, or will not, need not.
    pub(crate) optional: bool,
}

impl Sysctl {
    pub(crate) fn must(path: impl Into<String>, value: impl Into<String>) -> Self {
        Self { path: path.into(), value: value.into(), optional: false }
    }

    pub(crate) fn may(path: impl Into<String>, value: impl Into<String>) -> Self {
        Self { optional: true, ..Self::must(path, value) }
    }
}

impl Change {
    /// What takes it back. Nothing does where the kernel will when a link goes that was made with it, or where the
    /// thing is shared with other pods.
    fn undo(&self) -> Option<Self> {
        match self {
            Self::Create(link) if !link.shared => Some(Self::Delete(link.kind.place(), link.name.clone())),
            Self::Set(place, link, Set::Name(name)) => Some(Self::Set(*place, name.clone(), Set::Name(link.clone()))),
            Self::Master { link, master: Some(_) } => Some(Self::Master { link: link.clone(), master: None }),
            Self::Move(to, device) => Some(Self::Move(to.other(), device.clone())),
            Self::Via { via, there } => Some(Self::Via { via: via.clone(), there: !there }),
            Self::Rule { source, table, there } => Some(Self::Rule { source: *source, table: *table, there: !there }),
            Self::Shape { link, .. } => Some(Self::Release { link: link.clone(), incoming: false }),
            Self::Redirect { link, .. } => Some(Self::Release { link: link.clone(), incoming: true }),
            Self::Rules { forget, .. } => Some(Self::Forget(forget.clone())),
            Self::Tables { what, forget, .. } => {
                let nothing = Edits { edits: Vec::new(), ..forget.clone() };
                Some(Self::Tables { what, edits: forget.clone(), forget: nothing })
            }
            _ => None,
        }
    }

    /// Whether a name may be another link's, or nobody's, afterwards.
    fn moves_names(&self) -> bool {
        matches!(self, Self::Delete(..) | Self::Move(..) | Self::Set(_, _, Set::Name(_)))
    }
}

/// How often rules are looked for again that somebody else took away before we could.
const MEANWHILE: usize = 5;

/// Which rules go: those whose comment is so, or goes on behind a comma, and chains of others' with what leads to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forget {
    /// Family, table and comment.
    pub(crate) comments: Vec<(u8, &'static str, String)>,
    /// Family, table and chain.
    pub(crate) chains: Vec<(u8, &'static str, String)>,
}

impl Forget {
    /// The same, by the packet filter that the call's plugins share; and what is of an iptables that is not nf_tables'.
    pub(crate) fn apply_for(&self, call: &Call<'_>) -> Result<(), Fault> {
        let mut nft = call.afterwards.nft()?;
        let done = self.apply(&mut nft).map_err(Fault::from).and_then(|()| self.apply_legacy(&mut nft, call.deadline));
        call.afterwards.keep(nft);
        done
    }

    fn apply_legacy(&self, nft: &mut Nft, deadline: Instant) -> Result<(), Fault> {
        let has = |family: &Family| iptables::is_legacy(*family, "nat") && iptables::reachable(*family, "nat");
        for family in Family::BOTH.into_iter().filter(has) {
            let its = self.chains.iter().filter(|(of, ..)| *of == family.table());
            let edits = its.map(|(_, _, chain)| Edit::Drop(chain.clone())).collect();
            Edits { family, table: "nat", edits }.apply(nft, deadline)?;
        }
        Ok(())
    }

    /// Finds what is to go and takes it away in one transaction; again, if somebody else took some of it meanwhile.
    pub(crate) fn apply(&self, nft: &mut Nft) -> Result<(), Refused> {
        for _ in 0..MEANWHILE {
            match self.try_apply(nft) {
                Err(Refused { errno: Errno::NOENT, .. }) => {}
                done => return done,
            }
        }
        self.try_apply(nft)
    }

    fn try_apply(&self, nft: &mut Nft) -> Result<(), Refused> {
        let mut batch = Batch::default();
        for (family, table, comment) in &self.comments {
            // The id of one container may begin with that of another.
            let ends = |rest: &str| rest.is_empty() || rest.starts_with(',');
            let its =
                |rule: &Rule| !comment.is_empty() && rule.comment.strip_prefix(comment.as_str()).is_some_and(ends);
            for rule in nft.rules(*family, table)?.into_iter().filter(its) {
                batch.delete_rule(*family, table, &rule.chain, Some(rule.handle));
            }
        }
        for (family, table, chain) in &self.chains {
            if !nft.has(*family, table, chain)? {
                continue;
            }
            let leads = |rule: &Rule| rule.leads_to.as_ref() == Some(chain);
            for rule in nft.rules(*family, table)?.into_iter().filter(leads) {
                batch.delete_rule(*family, table, &rule.chain, Some(rule.handle));
            }
            batch.delete_rule(*family, table, chain, None);
            batch.delete_chain(*family, table, chain);
        }
        nft.commit(&batch, None)
    }
}

impl Place {
    fn other(self) -> Self {
        match self {
            Self::Host => Self::Pod,
            Self::Pod => Self::Host,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "",
            Self::Pod => " in the pod",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(NewLink { name, kind, .. }) => match kind {
                Kind::Veth { peer, of, .. } => write!(f, "create veth {name} with peer {peer}{of}"),
                Kind::Bridge { .. } => write!(f, "create bridge {name}"),
                Kind::Ifb => write!(f, "create ifb {name}"),
                Kind::Upon { master, of, layer: Layer::MacVlan { .. } } => {
                    write!(f, "create macvlan {name} on {master}{of}")
                }
                Kind::Upon { master, of, layer: Layer::IpVlan { .. } } => {
                    write!(f, "create ipvlan {name} on {master}{of}")
                }
                Kind::Upon { master, of, layer: Layer::Vlan { id } } => {
                    write!(f, "create vlan {name} with id {id} on {master}{of}")
                }
                Kind::Dummy => write!(f, "create dummy {name} in the pod"),
                Kind::Vrf { table } => write!(f, "create vrf {name} of table {table} in the pod"),
            },
            Self::Delete(place, link) => write!(f, "delete {link}{place}"),
            Self::Set(place, link, set) => write!(f, "set {set:?} on {link}{place}"),
            Self::Port { link, hairpin, isolated } => {
                write!(f, "set hairpin {hairpin}, isolated {isolated} on the bridge's port {link}")
            }
            Self::Master { link, master: Some(master) } => write!(f, "put {link} into {master}{}", Place::Pod),
            Self::Master { link, master: None } => write!(f, "take {link} from its master{}", Place::Pod),
            Self::Move(Place::Pod, device) => write!(f, "move {} into the pod as {}", device.host, device.pod),
            Self::Move(Place::Host, device) => write!(f, "move {} out of the pod as {}", device.pod, device.host),
            Self::Vlan { link, id, add: true, .. } => write!(f, "add vlan {id} to {link}"),
            Self::Vlan { link, id, .. } => write!(f, "take vlan {id} from {link}"),
            Self::Address { place, link, cidr, .. } => write!(f, "add address {cidr} to {link}{place}"),
            Self::Unaddress { place, link, cidr } => write!(f, "take address {cidr} from {link}{place}"),
            Self::Route { place, link, route, .. } => {
                write!(f, "add route {}", route.dst)?;
                route.gw.map_or(Ok(()), |gw| write!(f, " via {gw}"))?;
                write!(f, " dev {link}{place}")
            }
            Self::Unroute { place, link, destination } => write!(f, "take route {destination} from {link}{place}"),
            Self::Via { via, there } => {
                let act = if *there { "add route" } else { "take route" };
                write!(f, "{act} {} of table {}{}", via.destination, via.table, Place::Pod)
            }
            Self::Rule { source, table, there } => {
                let act = if *there { "add" } else { "take" };
                write!(f, "{act} the rule from {source} to table {table}{}", Place::Pod)
            }
            Self::Sysctls(place, sysctls) => {
                let settings: Vec<_> = sysctls.iter().map(|one| format!("{}={}", one.path, one.value)).collect();
                write!(f, "set sysctl {}{place}", settings.join(" "))
            }
            Self::Shape { link, .. } => write!(f, "limit the rate of {link}"),
            Self::Redirect { link, to } => write!(f, "redirect what comes in by {link} to {to}"),
            Self::Release { link, .. } => write!(f, "take a queue from {link}"),
            Self::Rules { what, .. } => write!(f, "add rules for {what}"),
            Self::Forget(_) => write!(f, "take away rules"),
            Self::Tables { what, edits, .. } => write!(f, "change the table {} of iptables for {what}", edits.table),
        }
    }
}
