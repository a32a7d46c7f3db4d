//! Who a process is and what it may use: ids, umask, limits.

use oci_spec::runtime::{Linux, PosixRlimit, PosixRlimitType, Process, User};

use super::Error;
use super::draft::{Draft, c_string};
use super::namespaces::is_mapped;
use crate::host::Host;
use crate::step::Step;

/// What runc gives a process whose spec has none.
const UMASK: u32 = 0o022;

pub(super) fn umask(user: &User, container: Option<&User>) -> Step {
    Step::Umask(user.umask().or(container.and_then(User::umask)).unwrap_or(UMASK) & 0o777)
}

/// The ids. An id that the user namespace does not map could not be taken on. Whoever has entered a user namespace without
/// a right over groups, as podman does for an ordinary user, may not know, and the image names groups: as with runc, those
/// are left out then.
pub(super) fn ids(user: &User, linux: &Linux, host: &Host, draft: &mut Draft) -> Result<(), Error> {
    let groups = user.additional_gids().clone().unwrap_or_default();
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())] {
        check(name, id)?;
    }
    for gid in &groups {
        check("additionalGids", *gid)?;
    }
    if !is_mapped(linux.uid_mappings(), user.uid()) {
        return Err(unmapped("uid", user.uid()));
    }
    if let Some(gid) = [user.gid()].iter().chain(&groups).find(|gid| !is_mapped(linux.gid_mappings(), **gid)) {
        return Err(unmapped("gid", *gid));
    }
    if host.setgroups_denied && !groups.is_empty() {
        draft.warn("process.user.additionalGids: ignored, this user namespace has no right over groups");
    }
    let groups = (!host.setgroups_denied).then_some(groups);
    draft.step(Step::Ids { uid: user.uid(), gid: user.gid(), groups });
    Ok(())
}

/// -1 means "unchanged" to setresuid(2), and nobody.
fn check(name: &str, id: u32) -> Result<(), Error> {
    if id == u32::MAX {
        return Err(Error::invalid(format!("process.user.{name}"), id.to_string(), "out of range"));
    }
    Ok(())
}

fn unmapped(name: &str, id: u32) -> Error {
    Error::invalid(format!("process.user.{name}"), id.to_string(), "is not mapped in the user namespace")
}

/// Limits that are raised to the hard limit before a user namespace takes the right to do so.
pub(super) fn early_rlimits(process: &Process, draft: &mut Draft) {
    for limit in process.rlimits().iter().flatten() {
        draft.step(Step::Rlimit { resource: resource(limit.typ()), soft: limit.hard(), hard: limit.hard() });
    }
}

pub(super) fn rlimits(limits: &[PosixRlimit], draft: &mut Draft) -> Result<(), Error> {
    for (index, limit) in limits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if limits[..index].iter().any(|earlier| earlier.typ() == limit.typ()) {
            return Err(Error::invalid(field, limit.typ().to_string(), "duplicated rlimit"));
        }
        if limit.soft() > limit.hard() {
            let reason = "the soft limit is above the hard limit";
            return Err(Error::invalid(field, limit.typ().to_string(), reason));
        }
        draft.step(Step::Rlimit { resource: resource(limit.typ()), soft: limit.soft(), hard: limit.hard() });
    }
    Ok(())
}

fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

pub(super) fn oom_score_adj(process: &Process, draft: &mut Draft) -> Result<(), Error> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    let text = score.to_string();
    if !(-1000..=1000).contains(&score) {
        return Err(Error::invalid("process.oomScoreAdj", text, "must lie between -1000 and 1000"));
    }
    draft.step(Step::OomScoreAdj(c_string("process.oomScoreAdj", &text)?));
    Ok(())
}
