//! Namespaces: new ones, the host's, another container's, and user namespaces.

use crate::Scenario;
use anyhow::{Result, ensure};
use berth_tests::scene::{Scene, shifting_ids};
use berth_tests::version::Version;
use serde_json::{Value, json};
use std::fs;

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Both:
        each_namespace_is_new_or_the_hosts,
        the_host_network_is_the_hosts,
        namespaces_of_another_container_are_joined,
        without_a_pid_namespace_children_die_with_init,
        a_network_namespace_has_loopback_up,
        ids_are_mapped_in_a_user_namespace,
        layers_are_idmapped_where_the_snapshotter_says_so,
        a_user_namespace_is_root_only_inside,
        the_inside_looks_the_same,
    ];
    all.extend(crate::scenarios![Berth: a_privileged_container_has_what_the_host_can_give]);
    all
}

const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Which of a container's namespaces are the host's, and which its own.
fn see_namespaces(scene: &Scene<'_>, name: &str) -> Result<()> {
    let pid = scene.pid(name)?;
    for kind in KINDS {
        let own = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        scene.see(kind, if own == host { "the host's" } else { "its own" });
    }
    Ok(())
}

fn each_namespace_is_new_or_the_hosts(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    see_namespaces(scene, "a")?;
    scene.discard("a")
}

fn the_host_network_is_the_hosts(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&["--net-host"], "a")?;
    see_namespaces(scene, "a")?;
    scene.discard("a")?;
    scene.see("seen", scene.sh(&["--net-host"], "b", "ls /sys/class/net; cat /etc/resolv.conf /etc/hosts; hostname")?);
    Ok(())
}

fn namespaces_of_another_container_are_joined(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let pid = scene.pid("a")?;
    let join: Vec<String> = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")]
        .iter()
        .flat_map(|(kind, file)| ["--with-ns".to_owned(), format!("{kind}:/proc/{pid}/ns/{file}")])
        .collect();
    let join: Vec<&str> = join.iter().map(String::as_str).collect();
    scene.sleeper(&join, "b")?;
    let member = scene.pid("b")?;
    for kind in KINDS {
        let same =
            fs::read_link(format!("/proc/{pid}/ns/{kind}"))? == fs::read_link(format!("/proc/{member}/ns/{kind}"))?;
        scene.see(kind, if same { "joined" } else { "its own" });
    }
    let seen = fs::read_to_string(format!("/proc/{member}/status"))?;
    ensure!(!seen.contains(&format!("NSpid:\t{member}\t1\n")), "the member is init of the pid namespace:\n{seen}");
    scene.see(
        "exec in the member",
        scene.ctr(&[
            "task",
            "exec",
            "--exec-id",
            "e",
            &scene.id("b"),
            "sh",
            "-c",
            "ps -o args | grep -c 'sleep 1000$'",
        ])?,
    );
    scene.discard("b")?;
    scene.see("the first still runs", scene.status("a")?);
    scene.discard("a")?;
    scene.see("a path that is none", scene.sh(&["--with-ns", "network:/etc/passwd"], "c", "true")?.code);
    scene.see("a path that is not there", scene.sh(&["--with-ns", "network:/not/there"], "d", "true")?.code);
    Ok(())
}

fn without_a_pid_namespace_children_die_with_init(scene: &Scene<'_>) -> Result<()> {
    let host_pid = |spec: &mut Value| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
    };
    let script = "sleep 1000 </dev/null >/dev/null 2>&1 & setsid sleep 1000 </dev/null >/dev/null 2>&1 & [ $$ != 1 ] && echo not 1; exit 3";
    scene.see("run", scene.run_spec(&["--rm"], "a", &["sh", "-c", script], host_pid)?);
    scene.check_nothing_left()
}

fn a_network_namespace_has_loopback_up(scene: &Scene<'_>) -> Result<()> {
    scene.see("interfaces", scene.sh(&[], "a", "cat /sys/class/net/lo/operstate /sys/class/net/lo/flags; ls /sys/class/net; ping -c1 -W1 127.0.0.1 | head -n 1; echo hi | nc -l -p 7 127.0.0.1 & sleep .2; nc 127.0.0.1 7 </dev/null; cat /proc/net/route")?);
    Ok(())
}

fn ids_are_mapped_in_a_user_namespace(scene: &Scene<'_>) -> Result<()> {
    let _turn = shifting_ids();
    let flags = ["--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000"];
    let script = "id; cat /proc/self/uid_map /proc/self/gid_map; ls -ln /bin/busybox /etc/passwd | cut -c1-25; touch /tmp/new; ls -ln /tmp/new | cut -c1-25; echo $$";
    scene.see("inside", scene.sh(&flags, "a", script)?);
    let with_config = |spec: &mut Value| map_ids(spec);
    let script = "id; cat /proc/self/uid_map /proc/self/gid_map; grep -E 'Cap|Groups' /proc/self/status; cat /proc/self/setgroups; ls -ln /dev | awk '{ print $1, $3, $4, $5, $6 }' | head -5";
    scene.see("of the spec", scene.run_spec(&["--rm"], "b", &["sh", "-c", script], with_config)?);
    Ok(())
}

/// `ctr` hands the maps to the snapshotter, and that one to who mounts: nothing is copied and shifted.
fn layers_are_idmapped_where_the_snapshotter_says_so(scene: &Scene<'_>) -> Result<()> {
    if scene.version() != Version::V2 {
        return crate::skip("the overlayfs snapshotter of containerd 1.x does not idmap");
    }
    let flags = ["--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000", "--remap-labels"];
    let script = "ls -ln /bin/busybox /etc/passwd | cut -c1-25; touch /tmp/new; ls -ln /tmp/new | cut -c1-25; echo $$";
    scene.see("inside", scene.sh(&flags, "a", script)?.success()?);
    Ok(())
}

/// A user namespace in which every id is the host's, shifted.
fn map_ids(spec: &mut Value) {
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "user" }));
    }
    let map = json!([{ "containerID": 0, "hostID": 0, "size": 2000 }, { "containerID": 2000, "hostID": 300_000, "size": 1000 }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
}

fn a_user_namespace_is_root_only_inside(scene: &Scene<'_>) -> Result<()> {
    if scene.version() == Version::V1_6 {
        // The same without ctr's own shifting of the image.
        scene.see(
            "limits",
            scene.run_spec(
                &["--rm"],
                "a",
                &["sh", "-c", "hostname inside && hostname; date -s 10:00; mknod /tmp/x b 7 0"],
                map_ids,
            )?,
        );
        return Ok(());
    }
    let _turn = shifting_ids();
    let script = "hostname inside && hostname; mount -t tmpfs x /tmp && echo mounted; date -s 10:00; mknod /tmp/x b 7 0; chown 1 /srv && ls -lnd /srv | cut -c1-20";
    scene.see(
        "limits",
        scene.sh(
            &["--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000", "--cap-add", "CAP_SYS_ADMIN"],
            "a",
            script,
        )?,
    );
    Ok(())
}

fn the_inside_looks_the_same(scene: &Scene<'_>) -> Result<()> {
    let questions = [
        (
            "status",
            "grep -E '^(Uid|Gid|Groups|NSpid|Cap|NoNew|Seccomp:|Threads|SigBlk|SigIgn|Umask)' /proc/self/status",
        ),
        ("signals of init", "grep -E '^(SigBlk|SigIgn|ShdPnd)' /proc/1/status"),
        ("cgroup", "cat /proc/self/cgroup"),
        ("limits", "cat /proc/self/limits"),
        ("ids", "id; umask; cat /proc/self/loginuid; cat /proc/self/sessionid"),
        ("environment", "env; tr '\\0' '\\n' </proc/1/environ"),
        ("session", "ps -o ppid,pgid,sid,tty,args > /tmp/ps; sed 's/ *$//' /tmp/ps"),
        ("processes", "ls /proc | grep -E '^[0-9]+$' | sort -n | head -1; cat /proc/1/cmdline | tr '\\0' ' '"),
        ("oom", "cat /proc/self/oom_score_adj /proc/self/coredump_filter /proc/self/timerslack_ns"),
        (
            "scheduling",
            "cut -d' ' -f18,19,40,41 /proc/1/stat; grep -E 'Cpus_allowed_list|Mems_allowed_list' /proc/self/status",
        ),
        (
            "sysctl",
            "for f in kernel/hostname kernel/domainname kernel/shmmax net/ipv4/ip_forward net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range kernel/msgmax; do echo $f $(cat /proc/sys/$f | sed 's/[0-9a-f]\\{12\\}/ID/'); done",
        ),
        ("keyring", "cat /proc/keys 2>&1 | wc -l"),
        ("root", "ls -la / | awk '{ print $1, $3, $4, $9, $10, $11 }'; stat -f -c %T /"),
        (
            "links of /proc",
            "readlink /proc/self/root /proc/self/cwd; readlink /proc/1/exe; ls -l /dev/fd /dev/stdin /dev/core /dev/ptmx 2>&1 | awk '{ print $9, $10, $11 }'",
        ),
        ("dumpable", "ls -ld /proc/1/fd | awk '{ print $1, $3 }'; cat /proc/1/comm"),
        ("/dev/shm", "df -k /dev/shm /dev | awk '{ print $2, $6 }'"),
    ];
    for (index, (what, script)) in questions.iter().enumerate() {
        scene.see(what, scene.sh(&[], &format!("q{index}"), script)?);
    }
    scene.see(
        "as init",
        scene.run(&["--rm"], "init", &["cat", "/proc/self/stat"]).map(|outcome| fields_of_stat(&outcome.stdout))?,
    );
    Ok(())
}

/// Of /proc/pid/stat what does not change from run to run: pid, ppid, pgrp, session, tty, flags, priority, nice, threads.
fn fields_of_stat(stat: &str) -> String {
    let fields: Vec<&str> = stat.split_whitespace().collect();
    [0, 3, 4, 5, 6, 17, 18, 19].iter().filter_map(|index| fields.get(*index).copied()).collect::<Vec<_>>().join(" ")
}

fn a_privileged_container_has_what_the_host_can_give(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.sh(&["--privileged"], "a", "grep CapEff /proc/self/status; ls /dev/loop0; echo x > /proc/sys/kernel/domainname && echo writable; cat /proc/self/mounts")?;
    let host = fs::read_to_string("/proc/self/status")?;
    let bounding = |text: &str, name: &str| {
        text.lines().find(|line| line.starts_with(name)).map(|line| line[7..].trim().to_owned())
    };
    if outcome.code != 0 && bounding(&host, "CapBnd") != Some("000001ffffffffff".into()) {
        // This host cannot give every capability. runc says: unable to apply caps: operation not permitted.
        ensure!(outcome.stderr.contains("cap"), "the error does not name the capabilities: {outcome}");
        return Ok(());
    }
    let outcome = outcome.success()?;
    ensure!(
        bounding(&outcome.stdout, "CapEff") == bounding(&host, "CapBnd"),
        "not all of the host's capabilities: {outcome}"
    );
    ensure!(outcome.stdout.contains("/dev/loop0"), "no devices of the host: {outcome}");
    Ok(())
}
