//! Values that outgrow what somebody once thought enough, and a cgroup tree that outgrows its container.

use serde_json::{Value, json};

use super::bundle::{Bundle, shell};
use super::namespaces::with_user_namespace;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("long_environment_arrives_whole", environment),
    ("many_id_mappings_arrive_whole_or_are_refused", mappings),
    ("cgroups_of_the_host_are_out_of_reach_of_a_user_namespace", cgroups),
];

/// CVE-2021-43784: lengths of 16 bits let what follows be taken from the value itself.
fn environment() -> Result<(), Stop> {
    // The kernel takes strings of up to 128 KiB.
    let long = format!("LONG={}", "x".repeat(100_000));
    let bundle = Bundle::new().sh("echo ${#LONG} $AFTER; id -u");
    assert_eq!(bundle.set("/process/env", json!(["PATH=/bin", long, "AFTER=1"])).says()?, "100000 1\n0");
    let live = Bundle::new().sh("exec sleep 100").start()?;
    let mut process = shell("echo ${#LONG} $AFTER; id -u");
    process["env"] = json!(["PATH=/bin", long, "AFTER=1"]);
    process["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(live.exec(&process)?.wait().success()?, "100000 1\n1000");
    // More than it takes: no process.
    let bundle = Bundle::new().set("/process/env", json!(["PATH=/bin", "x".repeat(200_000) + "=1"]));
    let text = bundle.run().err().ok_or("it ran")?.to_string();
    assert!(text.contains("argument list too long"), "{text}");
    Ok(())
}

/// Likewise: the kernel takes 340 lines and less than a page.
fn mappings() -> Result<(), Stop> {
    let maps = |count: u32, uid: u32| -> Value {
        (0..count).map(|id| json!({"containerID": id, "hostID": uid + 2 * id, "size": 1})).collect()
    };
    let bundle = |count: u32| {
        with_user_namespace(Bundle::new().sh("wc -l </proc/self/uid_map; tail -n 1 /proc/self/gid_map"))
            .set("/linux/uidMappings", maps(count, 100_000))
            .set("/linux/gidMappings", maps(count, 200_000))
    };
    let said = bundle(200).says()?;
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["200", "199", "200398", "1"]);
    let text = bundle(5000).refused()?;
    assert!(text.contains("map"), "{text}");
    Ok(())
}

/// CVE-2023-25809, as far as it concerns who is root here: where there is no cgroup namespace and the tree is the host's.
fn cgroups() -> Result<(), Stop> {
    let tree = [
        json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}),
        json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "rro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
    ];
    for mount in tree {
        let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do
            [ -d $d ] && mkdir $d/berth-made 2>/dev/null && echo made in $d; done; echo done";
        let bundle = with_user_namespace(Bundle::new().sh(script)).namespace("cgroup", None).with_mount(mount.clone());
        assert_eq!(bundle.says().map_err(|error| format!("{mount}: {error}"))?, "done", "{mount}");
    }
    Ok(())
}
