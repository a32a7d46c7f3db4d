//! What a pod's containers may do: users, capabilities, seccomp, masked paths, read-only roots, devices, privileges.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::command::poll;
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::v1::{
    Capability, Device, Int64Value, LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType,
};
use berth_tests::cri::{Container, Pod};

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Pods:
        users_and_groups_are_set,
        capabilities_are_added_and_dropped,
        seccomp_profiles_are_applied,
        new_privileges_can_be_refused,
        the_root_can_be_read_only,
        paths_are_masked_and_read_only,
        a_privileged_container_may_do_more,
        devices_are_given,
        the_pause_container_has_a_security_context_too,
        the_surroundings_of_a_process_are_as_with_runc,
    ]
}

/// What a process is told about itself, without what changes from run to run.
const IDENTITY: &str = "id; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Sig(Blk|Ign)|Umask|Cpus_allowed_list|\
    Speculation)' /proc/self/status; ";

fn value(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

/// A name and a change of the security context.
type Variant = (&'static str, fn(&mut LinuxContainerSecurityContext));

/// Runs the script once for each variant of the security context and writes down what it tells.
fn each(k: &Kubelet<'_>, script: &str, variants: &[Variant]) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    for (name, change) in variants {
        let container = k.script(&pod, &name.replace(' ', "-"), script).secured(change);
        k.see(name, told_or_refused(k, &sandbox, &pod, &container)?);
    }
    Ok(())
}

/// What the container told, or the kind of the refusal.
fn told_or_refused(k: &Kubelet<'_>, sandbox: &str, pod: &Pod, container: &Container) -> Result<String> {
    match k.told(sandbox, pod, container) {
        Ok(told) => Ok(told),
        Err(error) => match error.downcast_ref::<berth_tests::cri::Error>() {
            Some(refused) => Ok(format!("refused: {} {:?}", refused.method, refused.code)),
            None => Err(error),
        },
    }
}

fn users_and_groups_are_set(k: &Kubelet<'_>) -> Result<()> {
    each(
        k,
        &format!("{IDENTITY} echo $HOME; touch /tmp/mine && stat -c '%u:%g' /tmp/mine; stat -c '%u:%g' /proc/1/root"),
        &[
            ("root", |_| ()),
            ("user", |s| s.run_as_user = value(1000)),
            ("user and group", |s| (s.run_as_user, s.run_as_group) = (value(1000), value(2000))),
            ("name", |s| s.run_as_username = "guest".to_owned()),
            ("groups", |s| (s.run_as_user, s.supplemental_groups) = (value(1000), vec![3000, 3001])),
            ("root in groups", |s| s.supplemental_groups = vec![3000]),
            ("nobody knows", |s| s.run_as_user = value(123_456)),
            ("unknown name", |s| s.run_as_username = "nobody-knows".to_owned()),
        ],
    )
}

fn caps(add: &[&str], drop: &[&str]) -> Option<Capability> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Some(Capability { add_capabilities: names(add), drop_capabilities: names(drop), ..Default::default() })
}

fn capabilities_are_added_and_dropped(k: &Kubelet<'_>) -> Result<()> {
    let script = format!("{IDENTITY} chown 1000 /tmp && echo chown; hostname x 2>&1; mknod /tmp/x c 1 3 && echo mknod");
    each(
        k,
        &script,
        &[
            ("default", |_| ()),
            ("added", |s| s.capabilities = caps(&["NET_ADMIN", "SYS_PTRACE"], &[])),
            ("dropped", |s| s.capabilities = caps(&[], &["CHOWN", "MKNOD"])),
            ("none", |s| s.capabilities = caps(&[], &["ALL"])),
            ("one", |s| s.capabilities = caps(&["CHOWN"], &["ALL"])),
            ("all but one", |s| s.capabilities = caps(&["ALL"], &["SYS_ADMIN"])),
            ("of a user", |s| (s.run_as_user, s.capabilities) = (value(1000), caps(&["NET_ADMIN"], &[]))),
        ],
    )
}

fn seccomp_profiles_are_applied(k: &Kubelet<'_>) -> Result<()> {
    let script = format!(
        "{IDENTITY} unshare -U true 2>/dev/null && echo unshared; unshare -m true 2>/dev/null && echo mounts; \
         mkdir /tmp/d || echo no directory; chmod 700 /tmp || echo no mode; sync; echo done"
    );
    each(
        k,
        &script,
        &[
            ("unconfined", |s| s.seccomp = profile(ProfileType::Unconfined, "")),
            ("default", |s| s.seccomp = profile(ProfileType::RuntimeDefault, "")),
            ("default for a user", |s| {
                (s.seccomp, s.run_as_user) = (profile(ProfileType::RuntimeDefault, ""), value(1000));
            }),
            ("default with a capability", |s| {
                s.seccomp = profile(ProfileType::RuntimeDefault, "");
                s.capabilities = caps(&["SYS_ADMIN"], &[]);
            }),
        ],
    )?;
    // A profile of the user's own: two calls fail with errors of their own, and sync passes.
    let file = k.scene.scratch()?.join("profile.json");
    let own = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
        {"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(&file, own)?;
    let pod = k.pod("own")?;
    let sandbox = k.run(&pod)?;
    let container = k
        .script(&pod, "own", &script)
        .secured(|s| s.seccomp = profile(ProfileType::Localhost, &file.to_string_lossy()));
    k.see("own", k.told(&sandbox, &pod, &container)?);
    Ok(())
}

fn profile(kind: ProfileType, file: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: file.to_owned() })
}

fn new_privileges_can_be_refused(k: &Kubelet<'_>) -> Result<()> {
    each(
        k,
        IDENTITY,
        &[
            ("refused", |s| s.no_new_privs = true),
            ("refused to a user", |s| (s.no_new_privs, s.run_as_user) = (true, value(1000))),
        ],
    )
}

fn the_root_can_be_read_only(k: &Kubelet<'_>) -> Result<()> {
    let script = "touch /file 2>&1; touch /tmp/file 2>&1; touch /dev/file && echo dev; touch /dev/shm/file && echo shm; \
                  touch /sys/file 2>&1; mount -o remount,rw / 2>&1; grep ' / ' /proc/mounts | cut -d' ' -f1-3";
    each(k, script, &[("read-only", |s| s.readonly_rootfs = true), ("writable", |s| s.readonly_rootfs = false)])
}

/// As kubelet asks for every container that is not to see more.
fn hide(s: &mut LinuxContainerSecurityContext) {
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let masked = ["acpi", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"];
    s.masked_paths = masked.iter().map(|name| format!("/proc/{name}")).collect();
    s.masked_paths.extend(["/sys/firmware".to_owned(), "/no/such/path".to_owned()]);
    s.readonly_paths = paths(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/none"]);
}

fn paths_are_masked_and_read_only(k: &Kubelet<'_>) -> Result<()> {
    let script = "cd /proc; for f in kcore keys timer_list acpi scsi /sys/firmware; do echo $f; \
                  if [ -d $f ]; then ls -A $f | wc -l; else head -c 100 $f 2>&1 | wc -c; fi; done; \
                  for f in sysrq-trigger irq/default_smp_affinity; do echo x 2>&1 >$f; done; \
                  f=sys/kernel/domainname; read name <$f; echo $name 2>&1 >$f; \
                  umount /proc/kcore 2>&1; \
                  sed -E 's/,(noexec|relatime)//g; s#( /null [^ ]+) ro#\\1 rw#' /proc/self/mountinfo | \
                  cut -d' ' -f5,6 | sort | grep -E '/(proc|sys/firm)'"; // a mask that is noexec or ro masks as well
    each(k, script, &[("hidden", hide), ("not hidden", |_| ())])
}

fn privileged(pod: Pod) -> Pod {
    pod.secured(|s| s.privileged = true)
}

fn a_privileged_container_may_do_more(k: &Kubelet<'_>) -> Result<()> {
    let pod = privileged(k.pod("pod")?);
    let sandbox = k.run(&pod)?;
    let script = format!(
        "{IDENTITY} mount -t tmpfs none /mnt 2>&1 || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted; \
         ls /dev | wc -l; ls -l /dev/vda 2>/dev/null | cut -c1-10; grep -E ' /(sys|proc)' /proc/mounts | cut -d' ' -f2,4 | sort; \
         sort /sys/fs/cgroup/devices/devices.list; head -c 16 /dev/vda 2>/dev/null | wc -c"
    );
    let container = k.script(&pod, "privileged", &script).secured(|s| s.privileged = true);
    k.see("privileged", k.told(&sandbox, &pod, &container)?);
    Ok(())
}

fn devices_are_given(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "ls -l /dev | awk '{print $1, $3, $4, $5, $6, $NF}'; stat -c '%n %F %t:%T %a' /dev/given /dev/full; \
                  sort /sys/fs/cgroup/devices/devices.list; echo x >/dev/given && echo written; head -c1 /dev/given 2>&1 \
                  | wc -c; ls -ld /dev/shm /dev/pts /dev/mqueue | cut -c1-10; mknod /tmp/disk b 254 0; head -c1 /tmp/disk";
    for (name, permissions) in [("all", "rwm"), ("write", "w")] {
        let mut container = k.script(&pod, name, script);
        container.config.devices = vec![Device {
            container_path: "/dev/given".to_owned(),
            host_path: "/dev/null".to_owned(),
            permissions: permissions.to_owned(),
        }];
        k.see(name, k.told(&sandbox, &pod, &container)?);
    }
    let mut container = k.script(&pod, "missing", "true");
    container.config.devices =
        vec![Device { host_path: "/dev/no-such".into(), container_path: "/dev/x".into(), permissions: "rw".into() }];
    ensure!(k.told(&sandbox, &pod, &container).is_err(), "a device that is not there was given");
    Ok(())
}

fn the_pause_container_has_a_security_context_too(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?.secured(|s| {
        (s.run_as_user, s.run_as_group) = (value(1000), value(2000));
        s.supplemental_groups = vec![3000];
        s.readonly_rootfs = true;
        s.seccomp = profile(ProfileType::RuntimeDefault, "");
    });
    let sandbox = k.run(&pod)?;
    let process = format!("/proc/{}", k.pause_pid(&sandbox)?);
    // What a start waits for is the runtime's word, not the end of its execve.
    let executed = || (fs::read_to_string(format!("{process}/comm")).ok()?.trim() == "sleep").then_some(());
    poll(Duration::from_secs(5), executed).context("the pause process never ran its program")?;
    let status = fs::read_to_string(format!("{process}/status"))?;
    let wanted = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "SigIgn", "SigBlk"];
    let lines: Vec<&str> = status.lines().filter(|line| wanted.iter().any(|field| line.starts_with(field))).collect();
    k.see("pause", lines.join("\n"));
    k.start(&sandbox, &pod, &k.sleeper(&pod, "one"))?;
    Ok(())
}

fn the_surroundings_of_a_process_are_as_with_runc(k: &Kubelet<'_>) -> Result<()> {
    // Numbers of file descriptors, not what they are; a pipe's is its own.
    let script = "env | sort; pwd; umask; ulimit -a; ls /proc/1/fd; cut -d' ' -f4-7 /proc/1/stat; cat /proc/1/cmdline | \
                  tr '\\0' ' ' | wc -c; cut -d: -f2- /proc/1/cgroup; cat /proc/1/oom_score_adj; grep -E '^(Sig(Blk|Ign|Cgt)|Umask|\
                  Speculation|THP_enabled|CoreDumping)' /proc/1/status; cat /proc/1/timerslack_ns; cat /proc/1/comm; \
                  stat -c '%a %u:%g' / /dev /dev/shm /dev/pts /proc /sys /etc/hosts /etc/resolv.conf /etc/hostname; \
                  cat /proc/1/uid_map /proc/1/gid_map /proc/1/setgroups; dd if=/dev/zero of=/dev/null count=1 2>&1 | head -1";
    each(k, script, &[("root", hide), ("user", |s| s.run_as_user = value(1000))])
}
