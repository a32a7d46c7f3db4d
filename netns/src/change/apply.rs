use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use super::message::{self, Numbers};
use super::{Change, Device, Forget, NewLink, Place, Set, Sysctl};
use crate::Namespace;
use crate::cni::fault::{Code, Fault};
use crate::netlink::{Link, Netlink, Refused, Via, queue};
use crate::nft::{Batch, Nft};
use crate::plugin::{Call, Command};

/// Changes that were made and what takes them back.
pub(crate) struct Work<'a> {
    call: &'a Call<'a>,
    /// The namespace of whoever calls.
    pub(crate) host: Netlink,
    /// The namespace that is being wired, where it was needed so far.
    pod: Option<Netlink>,
    nft: Option<Nft>,
    namespace: Namespace,
    /// The numbers of links that are known: to ask for one waits for whoever changes links of any namespace.
    numbers: HashMap<(Place, String), u32>,
    undo: Vec<Undo>,
}

/// Why a change could not be made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Obstacle {
    Refused(#[from] Refused),
    Told(#[from] Fault),
}

/// Whether others use what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    Yes,
    No,
}

enum Undo {
    Change(Change),
    Ipam,
}

/// Runs an ADD; where it fails, all that it did is taken back before the error is returned.
pub(crate) fn attempt<T>(call: &Call<'_>, act: impl FnOnce(&mut Work<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
    let mut work = Work::begin(call)?;
    act(&mut work).inspect_err(|_| work.take_back())
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(nft) = self.nft.take() {
            self.call.afterwards.keep(nft);
        }
    }
}

impl<'a> Work<'a> {
    /// Opens the host's side, and the pod's namespace.
    pub(crate) fn begin(call: &'a Call<'a>) -> Result<Self, Fault> {
        let missing =
            || Fault::new(Code::NETNS, format!("failed to open netns {:?}: there is no network namespace", call.netns));
        let namespace = crate::plugin::namespace(call.netns)?.ok_or_else(missing)?;
        let (host, numbers) = (Netlink::here()?, HashMap::new());
        Ok(Self { call, host, pod: None, nft: None, namespace, numbers, undo: Vec::new() })
    }

    /// Keeps others away who look for what is free in this pod. The Go plugins lock the same file.
    pub(crate) fn lock(&self) -> Result<(), Fault> {
        let locked = retry_on_intr(|| flock(&self.namespace, FlockOperation::LockExclusive));
        locked.map_err(|errno| Fault::errno(format!("failed to lock netns {:?}", self.call.netns), errno))
    }

    /// The pod's side.
    pub(crate) fn pod(&mut self) -> Result<&mut Netlink, Refused> {
        Ok(self.both()?.1)
    }

    /// The host's side and the pod's.
    pub(crate) fn both(&mut self) -> Result<(&mut Netlink, &mut Netlink), Refused> {
        if self.pod.is_none() {
            self.pod = Some(Netlink::inside(&self.namespace)?);
        }
        Ok((&mut self.host, self.pod.as_mut().ok_or(Errno::IO)?))
    }

    /// The side.
    pub(crate) fn at(&mut self, place: Place) -> Result<&mut Netlink, Refused> {
        match place {
            Place::Host => Ok(&mut self.host),
            Place::Pod => self.pod(),
        }
    }

    /// A link that has to be there.
    pub(crate) fn link(&mut self, place: Place, name: &str) -> Result<Link, Fault> {
        let missing = || Fault::new(Code::INTERNAL, format!("failed to lookup {name:?}{place}: Link not found"));
        let link = self.at(place)?.link(name)?.ok_or_else(missing)?;
        self.numbers.insert((place, name.to_owned()), link.index);
        Ok(link)
    }

    /// Applies changes in order, up to the first that fails.
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), Fault> {
        for change in changes {
            let applied = self.one(&change);
            if change.moves_names() {
                self.numbers.clear();
            }
            applied.map_err(|obstacle| Fault::new(Code::INTERNAL, format!("failed to {change}: {obstacle}")))?;
            self.undo.extend(change.undo().map(Undo::Change));
        }
        Ok(())
    }

    /// Decides upon what the packet filter has, and changes it: where something is made that is shared, only as long as it
    /// has that.
    pub(crate) fn settle(
        &mut self,
        what: &str,
        forget: &Forget,
        decide: impl Fn(&mut Nft) -> Result<(Batch, Shared), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let nft = self.nft()?;
            let generation = nft.generation()?;
            let (batch, shared) = decide(nft)?;
            match nft.commit(&batch, (shared == Shared::Yes).then_some(generation)) {
                Err(Refused { errno: Errno::RESTART, .. }) if Instant::now() < self.call.deadline => {}
                done => {
                    let failed =
                        |refused| Fault::new(Code::INTERNAL, format!("failed to add rules for {what}: {refused}"));
                    done.map_err(failed)?;
                    self.undo.push(Undo::Change(Change::Forget(forget.clone())));
                    return Ok(());
                }
            }
        }
    }

    /// Asks for addresses; they are given back where what follows fails. None: the configuration wants none.
    pub(crate) fn ipam(&mut self) -> Result<Option<crate::cni::result::Outcome>, Fault> {
        // Before, as one that fails or is killed may have given one all the same.
        self.undo.push(Undo::Ipam);
        match self.call.ipam()? {
            Some(outcome) if outcome.ips.is_empty() => {
                Err(Fault::new(Code::INTERNAL, "IPAM plugin returned missing IP config"))
            }
            outcome => Ok(outcome),
        }
    }

    fn take_back(&mut self) {
        self.numbers.clear();
        while let Some(undo) = self.undo.pop() {
            // What fails here is found by the DEL that the caller owes.
            match undo {
                Undo::Change(change) => drop(self.one(&change)),
                Undo::Ipam => drop(self.call.with(Command::Delete).ipam()),
            }
        }
    }

    /// The host's packet filter.
    pub(crate) fn nft(&mut self) -> Result<&mut Nft, Refused> {
        if self.nft.is_none() {
            self.nft = Some(self.call.afterwards.nft()?);
        }
        Ok(self.nft.as_mut().ok_or(Errno::IO)?)
    }

    /// The number of a link.
    pub(crate) fn number(&mut self, place: Place, name: &str) -> Result<u32, Refused> {
        let key = (place, name.to_owned());
        if let Some(number) = self.numbers.get(&key) {
            return Ok(*number);
        }
        let number = self.at(place)?.link(name)?.ok_or(Errno::NODEV)?.index;
        self.numbers.insert(key, number);
        Ok(number)
    }

    fn one(&mut self, change: &Change) -> Result<(), Obstacle> {
        match change {
            Change::Create(link) => self.create(link)?,
            Change::Delete(place, link) => self.delete(*place, link)?,
            Change::Set(place, link, set) => self.set(*place, link, set)?,
            Change::Port { link, hairpin, isolated } => self.port(link, *hairpin, *isolated)?,
            Change::Master { link, master } => {
                let index = self.number(Place::Pod, link)?;
                let master = master.as_ref().map(|master| self.number(Place::Pod, master)).transpose()?;
                self.pod()?.ask(message::master(index, master), 0)?;
            }
            Change::Move(to, device) => self.hand_over(*to, device)?,
            Change::Vlan { link, id, pvid, add } => {
                let index = self.number(Place::Host, link)?;
                let done = self.host.ask(message::vlan(index, *id, *pvid, *add), 0);
                if *add { drop(done?) } else { absent_is_fine(done)? }
            }
            Change::Address { place, link, cidr, again } => {
                let index = self.number(*place, link)?;
                let done = self.at(*place)?.ask(message::address(index, *cidr, true), NLM_F_CREATE | NLM_F_EXCL);
                if *again { present_is_fine(done)? } else { drop(done?) }
            }
            Change::Unaddress { place, link, cidr } => {
                let index = self.number(*place, link)?;
                absent_is_fine(self.at(*place)?.ask(message::address(index, *cidr, false), 0))?;
            }
            Change::Route { place, link, route, source, again } => {
                let index = self.number(*place, link)?;
                let message = RouteNetlinkMessage::NewRoute(message::route(index, route, *source));
                // Not exclusive: a second gateway to the same destination is another path to it. The very same route
                // comes twice where both the bridge and the address management say the default one.
                let flags = if *again { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE };
                present_is_fine(self.at(*place)?.ask(message, flags))?;
            }
            Change::Unroute { place, link, destination } => {
                let index = self.number(*place, link)?;
                absent_is_fine(self.at(*place)?.ask(message::unroute(index, *destination), 0))?;
            }
            Change::Via { via, there } => self.via(via, *there)?,
            Change::Rule { source, table, there } => self.rule(*source, *table, *there)?,
            Change::Sysctls(place, sysctls) => self.sysctls(*place, sysctls)?,
            Change::Shape { link, bucket } => {
                let index = self.number(Place::Host, link)?;
                self.host.ask(queue::shape(index, *bucket), NLM_F_CREATE | NLM_F_EXCL)?;
            }
            Change::Redirect { link, to } => self.redirect(link, to)?,
            Change::Release { link, incoming } => {
                let index = self.number(Place::Host, link)?;
                absent_is_fine(self.host.ask(queue::release(index, *incoming), 0))?;
            }
            Change::Rules { batch, .. } => self.nft()?.commit(batch, None)?,
            Change::Forget(forget) => forget.apply(self.nft()?)?,
            Change::Tables { edits, .. } => {
                let deadline = self.call.deadline;
                edits.apply(self.nft()?, deadline)?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, place: Place, link: &str) -> Result<(), Refused> {
        match self.number(place, link) {
            Ok(index) => absent_is_fine(self.at(place)?.ask(message::delete_link(index), 0)),
            missing => absent_is_fine(missing),
        }
    }

    fn port(&mut self, link: &str, hairpin: bool, isolated: bool) -> Result<(), Refused> {
        let index = self.number(Place::Host, link)?;
        match self.host.ask(message::port(index, hairpin, Some(isolated)), 0) {
            // Kernels before 4.18 have no isolation.
            Err(Refused { errno: Errno::INVAL | Errno::OPNOTSUPP, .. }) if !isolated => {
                self.host.ask(message::port(index, hairpin, None), 0).map(drop)
            }
            done => done.map(drop),
        }
    }

    fn via(&mut self, via: &Via, there: bool) -> Result<(), Refused> {
        let message = via.message.clone();
        if there {
            return self.pod()?.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop);
        }
        absent_is_fine(self.pod()?.ask(RouteNetlinkMessage::DelRoute(message), 0))
    }

    fn rule(&mut self, source: IpAddr, table: u32, there: bool) -> Result<(), Refused> {
        let message = message::rule(source, table, there);
        if there {
            return self.pod()?.ask(message, NLM_F_CREATE | NLM_F_EXCL).map(drop);
        }
        absent_is_fine(self.pod()?.ask(message, 0))
    }

    fn redirect(&mut self, link: &str, to: &str) -> Result<(), Refused> {
        let (index, to) = (self.number(Place::Host, link)?, self.number(Place::Host, to)?);
        self.host.ask(queue::incoming(index), NLM_F_CREATE | NLM_F_EXCL)?;
        let done = self.host.ask(queue::redirect(index, to), NLM_F_CREATE | NLM_F_EXCL);
        done.map(drop).inspect_err(|_| drop(self.host.ask(queue::release(index, true), 0)))
    }

    fn create(&mut self, link: &NewLink) -> Result<(), Refused> {
        let from = link.kind.from();
        let master = link.kind.master().map(|master| self.number(from, master)).transpose()?;
        let pod = self.namespace.as_fd().as_raw_fd();
        let message = message::create(link, Numbers { master, pod });
        let done = self.at(from)?.ask(message, NLM_F_CREATE | NLM_F_EXCL);
        if link.shared { present_is_fine(done) } else { done.map(drop) }
    }

    /// In one message, so that nobody sees a device that has gone half of the way, and no crash leaves one.
    fn hand_over(&mut self, to: Place, device: &Device) -> Result<(), Refused> {
        let own;
        let (now, then, alias, namespace) = match to {
            Place::Pod => (&device.host, &device.pod, device.host.as_str(), &self.namespace),
            Place::Host => {
                own = Namespace::own()?;
                (&device.pod, &device.host, "", &own)
            }
        };
        let namespace = namespace.as_fd().as_raw_fd();
        // The kernel would move it first, and then find that the name is taken.
        if self.at(to)?.link(then)?.is_some() {
            return Err(Errno::EXIST.into());
        }
        let index = self.number(to.other(), now)?;
        self.at(to.other())?.ask(message::hand_over(index, namespace, then, alias), 0)?;
        if to == Place::Host && device.up { self.set(to, then, &Set::Up(true)) } else { Ok(()) }
    }

    fn set(&mut self, place: Place, link: &str, set: &Set) -> Result<(), Refused> {
        let index = self.number(place, link)?;
        self.at(place)?.ask(message::set(index, set), 0).map(drop)
    }

    fn sysctls(&mut self, place: Place, sysctls: &[Sysctl]) -> Result<(), Refused> {
        match place {
            Place::Host => write_all(sysctls),
            // /proc/sys/net is that of the thread which opens it. It opens the socket on the way.
            Place::Pod => {
                let open = self.pod.is_none();
                let act = || (open.then(Netlink::here), write_all(sysctls));
                let (socket, written) = self.namespace.enter(act).map_err(|_| Errno::IO)?;
                self.pod = socket.transpose()?.or(self.pod.take());
                written
            }
        }
    }
}

fn present_is_fine<T>(done: Result<T, Refused>) -> Result<(), Refused> {
    match done {
        Err(Refused { errno: Errno::EXIST, .. }) => Ok(()),
        done => done.map(drop),
    }
}

fn absent_is_fine<T>(done: Result<T, Refused>) -> Result<(), Refused> {
    match done {
        Err(Refused { errno: Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL | Errno::NOENT, .. }) => Ok(()),
        done => done.map(drop),
    }
}

fn write_all(sysctls: &[Sysctl]) -> Result<(), Refused> {
    for Sysctl { path, value, optional } in sysctls {
        let file = format!("/proc/sys/{path}");
        // Writing what is there already costs some of them a walk over all interfaces, and others may not be written.
        if fs::read_to_string(&file).is_ok_and(|old| old.trim_end() == value) {
            continue;
        }
        let opened = fs::OpenOptions::new().write(true).open(&file);
        let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
        let failed =
            |error: io::Error| Refused { errno: Errno::from_io_error(&error).unwrap_or(Errno::IO), why: file.clone() };
        match written {
            Err(_) if *optional => {}
            written => written.map_err(failed)?,
        }
    }
    Ok(())
}
