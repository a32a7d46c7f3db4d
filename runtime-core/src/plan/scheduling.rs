//! How the kernel shall treat a process: scheduler, I/O priority, CPUs, NUMA memory, personality.

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy as Policy, MemoryPolicyFlagType,
    MemoryPolicyModeType as Mode, Process, Scheduler,
};

use super::Error;
use super::draft::Draft;
use crate::step::{BitSet, SchedAttr, Step};

/// Bits of an I/O priority below its class. ioprio_set(2)
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// Everything but the CPUs. What an exec leaves open it has as its container.
pub(super) fn compile(
    process: &Process,
    container: Option<&Process>,
    linux: &Linux,
    draft: &mut Draft,
) -> Result<(), Error> {
    if let Some(scheduler) = of(process, container, |p| p.scheduler().as_ref()) {
        draft.step(Step::Scheduler(self::scheduler(scheduler)?));
    }
    if let Some(priority) = of(process, container, |p| p.io_priority().as_ref()) {
        draft.step(io_priority(priority)?);
    }
    if let Some(personality) = linux.personality() {
        draft.step(self::personality(personality)?);
    }
    if let Some(policy) = linux.memory_policy() {
        draft.step(memory_policy(policy)?);
    }
    Ok(())
}

fn of<'a, T>(
    process: &'a Process,
    container: Option<&'a Process>,
    get: impl Fn(&'a Process) -> Option<&'a T>,
) -> Option<&'a T> {
    get(process).or_else(|| get(container?))
}

/// `execCPUAffinity`: on which CPUs an exec runs before it is in the container's cgroup, and after. What an init has of it
/// is for its execs.
pub(super) fn affinity(
    process: &Process,
    container: Option<&Process>,
) -> Result<(Option<BitSet>, Option<BitSet>), Error> {
    let Some(affinity) = of(process, container, |p| p.exec_cpu_affinity().as_ref()) else { return Ok((None, None)) };
    let cpus = |field: &str, get: fn(&ExecCPUAffinity) -> &Option<String>| {
        let cpus = get(affinity).as_deref().filter(|cpus| !cpus.is_empty());
        let cpus = cpus.map(|list| {
            let reason = "must be numbers and ranges like \"0-3,7\"";
            BitSet::parse(list).ok_or_else(|| Error::invalid(format!("process.execCPUAffinity.{field}"), list, reason))
        });
        cpus.transpose()
    };
    Ok((cpus("initial", ExecCPUAffinity::initial)?, cpus("final", ExecCPUAffinity::cpu_affinity_final)?))
}

/// In runc's words.
fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr, Error> {
    let policy = *scheduler.policy();
    let conflict = |field: &str, reason| Err(Error::conflict(format!("process.scheduler.{field}"), reason));
    let (nice, priority) = (scheduler.nice().unwrap_or(0), scheduler.priority().unwrap_or(0));
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        return Err(Error::invalid("process.scheduler.nice", nice.to_string(), "must lie between -20 and 19"));
    }
    if priority != 0 && !matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        return conflict("priority", "can only be specified for SCHED_FIFO or SCHED_RR");
    }
    let number = |number: &Option<u64>| number.unwrap_or(0);
    let times = [number(scheduler.runtime()), number(scheduler.deadline()), number(scheduler.period())];
    if policy != Policy::SchedDeadline && times != [0; 3] {
        return conflict("runtime, deadline and period", "can only be specified for SCHED_DEADLINE");
    }
    let invalid = |_| Error::invalid("process.scheduler.priority", priority.to_string(), "must not be negative");
    let [runtime, deadline, period] = times;
    Ok(SchedAttr {
        policy: policy_number(policy),
        flags: scheduler.flags().iter().flatten().fold(0, |flags, flag| flags | scheduler_flag(*flag)),
        nice,
        priority: u32::try_from(priority).map_err(invalid)?,
        runtime,
        deadline,
        period,
    })
}

/// linux/sched.h
fn policy_number(policy: Policy) -> u32 {
    match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    }
}

fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn io_priority(priority: &LinuxIOPriority) -> Result<Step, Error> {
    let level = priority.priority();
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(level) {
        Ok(level @ 0..=7) => Ok(Step::IoPriority(class << IOPRIO_CLASS_SHIFT | level)),
        _ => Err(Error::invalid("process.ioPriority.priority", level.to_string(), "must lie between 0 and 7")),
    }
}

fn personality(personality: &LinuxPersonality) -> Result<Step, Error> {
    // No value is specified so far, and an unknown one has to be refused. config-linux.md
    if let Some(flag) = personality.flags().iter().flatten().next() {
        return Err(Error::invalid("linux.personality.flags", flag, "is not a flag of OCI"));
    }
    Ok(Step::Personality(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Step, Error> {
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let nodes = nodes.map(|list| {
        let reason = "invalid memory policy nodes: must be numbers and ranges like \"0-3,7\"";
        BitSet::parse(list).ok_or_else(|| Error::invalid("linux.memoryPolicy.nodes", list, reason))
    });
    let nodes = nodes.transpose()?;
    let wanted = match policy.mode() {
        Mode::MpolDefault | Mode::MpolLocal => Some(false),
        Mode::MpolPreferred => None,
        _ => Some(true),
    };
    match (wanted, &nodes) {
        (Some(false), Some(nodes)) => {
            return Err(Error::MemoryPolicyNodes { count: nodes.len() });
        }
        (Some(true), None) => return Err(Error::missing("linux.memoryPolicy.nodes")),
        _ => {}
    }
    // linux/mempolicy.h
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let mode = policy.flags().iter().flatten().fold(mode, |mode, given| mode | flag(given));
    Ok(Step::MemoryPolicy { mode, nodes: nodes.unwrap_or_default() })
}
