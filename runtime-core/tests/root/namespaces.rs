//! Namespaces: new, joined, and the host's.

use std::fs;
use std::os::unix::fs::{chown, lchown};
use std::path::Path;

use serde_json::{Value, json};

use super::bundle::{Bundle, Live};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("namespaces_are_new_or_the_hosts", new_or_host),
    ("every_combination_of_joined_and_new_namespaces", joined),
    ("every_combination_of_joined_and_host_namespaces", joined_or_host),
    ("every_combination_with_a_joined_user_namespace", joined_user),
    ("every_combination_with_a_new_user_namespace", new_user_combinations),
    ("user_namespace_maps_ids", user),
    ("user_namespace_has_devices_and_sysctls", user_devices),
    ("joined_pid_namespace_is_the_one_that_proc_shows", joined_pid),
    ("joined_mount_namespace_is_entered", joined_mount),
    ("hosts_pid_namespace_is_seen", host_pid),
    ("cgroup_namespace_is_rooted_at_the_cgroup", cgroup),
    ("loopback_is_up", loopback),
    ("path_of_another_kind_is_refused", wrong_kind),
    ("id_that_is_not_mapped_is_refused", unmapped),
];

/// OCI's names and those of /proc.
const KINDS: [(&str, &str); 5] =
    [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"), ("cgroup", "cgroup")];

/// A new user namespace, and an image that belongs to its ids.
pub fn with_user_namespace(bundle: Bundle) -> Bundle {
    give(&bundle.image("/"), 100_000);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let bundle = bundle.namespace("user", Some(json!({"type": "user"})));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
}

fn give(path: &Path, id: u32) {
    let file = path.symlink_metadata().unwrap();
    lchown(path, Some(id), Some(id)).unwrap();
    for entry in fs::read_dir(path).ok().filter(|_| file.is_dir()).into_iter().flatten() {
        give(&entry.unwrap().path(), id);
    }
}

fn namespace_of(pid: i32, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_string_lossy().into_owned()
}

fn by_path(kind: &str, holder: &Live, name: &str) -> Value {
    json!({"type": kind, "path": format!("/proc/{}/ns/{name}", holder.init.pid())})
}

fn new_or_host() -> Result<(), Stop> {
    let own = std::process::id() as i32;
    let live = Bundle::new().namespace("cgroup", Some(json!({"type": "cgroup"}))).sh("sleep 100").start()?;
    for (_, name) in KINDS.into_iter().chain([("mount", "mnt")]) {
        assert_ne!(namespace_of(live.init.pid(), name), namespace_of(own, name), "{name}");
    }
    assert_eq!(namespace_of(live.init.pid(), "user"), namespace_of(own, "user"));
    let mut bundle = Bundle::new().without_mount("/sys").without_mount("/dev/mqueue").sh("sleep 100");
    for (kind, _) in KINDS {
        bundle = bundle.namespace(kind, None);
    }
    let live = bundle.start()?;
    assert!(live.container.shares_pid_namespace());
    for (_, name) in KINDS {
        assert_eq!(namespace_of(live.init.pid(), name), namespace_of(own, name), "{name}");
    }
    Ok(())
}

/// Makes a container for every subset of the kinds, whose members are joined; `prepare` makes the rest.
fn combinations(holder: &Live, user: bool, prepare: fn(Bundle, &str) -> Bundle) -> Result<(), Stop> {
    for subset in 0..1 << KINDS.len() {
        let mut bundle = Bundle::new().sh("echo up; exec sleep 100");
        if user {
            give(&bundle.image("/"), 100_000);
            bundle = bundle.namespace("user", Some(by_path("user", holder, "user")));
        }
        for (bit, (kind, name)) in KINDS.into_iter().enumerate() {
            bundle = match subset >> bit & 1 {
                1 => bundle.namespace(kind, Some(by_path(kind, holder, name))),
                _ => prepare(bundle, kind),
            };
        }
        let mut live = bundle.start().map_err(|error| format!("{subset:05b}: {error}"))?;
        assert_eq!(live.init.up(), "", "{subset:05b}");
        let own = std::process::id() as i32;
        for (bit, (_, name)) in KINDS.into_iter().enumerate() {
            let [of_live, of_holder, of_host] =
                [live.init.pid(), holder.init.pid(), own].map(|pid| namespace_of(pid, name));
            if subset >> bit & 1 == 1 {
                assert_eq!(of_live, of_holder, "{subset:05b} {name}");
            } else {
                assert_ne!(of_live, of_holder, "{subset:05b} {name}");
                let spec = bundle.spec["linux"]["namespaces"].to_string();
                assert_eq!(of_live == of_host, !spec.contains(&format!("\"{}\"", KINDS[bit].0)), "{subset:05b} {name}");
            }
        }
        // An exec goes to the very same place.
        assert_eq!(live.sh("readlink /proc/self/ns/pid")?.success()?, namespace_of(live.init.pid(), "pid"));
    }
    Ok(())
}

fn new(bundle: Bundle, kind: &str) -> Bundle {
    bundle.namespace(kind, Some(json!({"type": kind})))
}

fn absent(bundle: Bundle, kind: &str) -> Bundle {
    bundle.namespace(kind, None)
}

fn holder() -> Bundle {
    Bundle::new().namespace("cgroup", Some(json!({"type": "cgroup"}))).sh("exec sleep 1000")
}

fn joined() -> Result<(), Stop> {
    combinations(&holder().start()?, false, new)
}

fn joined_or_host() -> Result<(), Stop> {
    combinations(&holder().start()?, false, absent)
}

fn joined_user() -> Result<(), Stop> {
    combinations(&with_user_namespace(holder()).start()?, true, new)
}

/// What a new user namespace does not own is joined before it, or was the host's: mounts that need to own it are left out.
fn new_user_combinations() -> Result<(), Stop> {
    let holder = holder().start()?;
    for subset in 0..1 << KINDS.len() {
        let mut bundle = with_user_namespace(Bundle::new().sh("echo up; exec sleep 100"));
        for (bit, (kind, name)) in KINDS.into_iter().enumerate() {
            let joined = subset >> bit & 1 == 1;
            let entry = if joined { by_path(kind, &holder, name) } else { json!({"type": kind}) };
            bundle = bundle.namespace(kind, Some(entry));
            bundle = match (joined, kind) {
                (true, "network") => bundle.without_mount("/sys"),
                (true, "ipc") => bundle.without_mount("/dev/mqueue"),
                (true, "pid") => bundle.without_mount("/proc"),
                _ => bundle,
            };
        }
        let mut live = bundle.start().map_err(|error| format!("{subset:05b}: {error}"))?;
        assert_eq!(live.init.up(), "", "{subset:05b}");
        for (bit, (_, name)) in KINDS.into_iter().enumerate() {
            let same = namespace_of(live.init.pid(), name) == namespace_of(holder.init.pid(), name);
            assert_eq!(same, subset >> bit & 1 == 1, "{subset:05b} {name}");
        }
        assert_eq!(live.sh("id -u")?.success()?, "0", "{subset:05b}");
    }
    Ok(())
}

fn user() -> Result<(), Stop> {
    let script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; touch /made; echo up; exec sleep 100";
    let bundle = with_user_namespace(Bundle::new().sh(script));
    let mut live = bundle.start()?;
    let said: Vec<String> = live.init.up().split_whitespace().map(str::to_owned).collect();
    assert_eq!(said.join(" "), "0 100000 65536 0 100000 65536 0");
    let made = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.image("/made"))?);
    assert_eq!(made, 100_000);
    assert_eq!(
        live.sh("id -u; cat /proc/self/setgroups; readlink /proc/self/ns/user")?.success()?.lines().last().unwrap(),
        namespace_of(live.init.pid(), "user")
    );
    // A user of the namespace, with groups.
    let mut process = super::bundle::shell("grep -E '^(Uid|Groups)' /proc/self/status; touch /tmp/file");
    process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    chown(bundle.image("/tmp"), Some(101_000), None)?;
    let said = live.exec(&process)?.wait().success()?;
    assert_eq!(super::identity::field(&said, "Groups"), "7");
    let made = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.image("/tmp/file"))?);
    assert_eq!(made, 101_000);
    Ok(())
}

fn user_devices() -> Result<(), Stop> {
    let script = "echo x >/dev/null && head -c 4 /dev/zero | wc -c; stat -c %t:%T /dev/null /dev/random; \
         cat /proc/sys/user/max_user_namespaces /proc/sys/net/ipv4/ip_forward; hostname";
    let bundle = with_user_namespace(Bundle::new().sh(script)).set("/hostname", json!("inside"));
    let bundle = bundle.set("/linux/sysctl", json!({"user.max_user_namespaces": "5", "net.ipv4.ip_forward": "1"}));
    assert_eq!(bundle.says()?, "4\n1:3\n1:8\n5\n1\ninside");
    Ok(())
}

fn joined_pid() -> Result<(), Stop> {
    let holder = holder().start()?;
    let bundle = Bundle::new().namespace("pid", Some(by_path("pid", &holder, "pid")));
    let mut live = bundle.sh("cat /proc/1/comm; readlink /proc/self; echo $$; echo up; sleep 100").start()?;
    assert!(live.container.shares_pid_namespace());
    let said = live.init.up();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "sleep");
    assert!(lines[2].parse::<i32>()? > 1, "{said}");
    assert!(holder.sh("ps")?.success()?.contains("sleep 100"));
    // Deleting it leaves the other's processes alone, and takes its own.
    live.container.delete()?;
    assert_eq!(live.init.wait().status, 137);
    assert!(!holder.sh("ps")?.success()?.contains("sleep 100\n"));
    Ok(())
}

fn joined_mount() -> Result<(), Stop> {
    let mount = json!({"destination": "/mark", "type": "tmpfs", "source": "mark"});
    let holder = holder().with_mount(mount).start()?;
    let bundle = Bundle::new().namespace("mount", Some(by_path("mount", &holder, "mnt")));
    match bundle.sh("sleep 100").start() {
        Ok(live) => assert_eq!(namespace_of(live.init.pid(), "mnt"), namespace_of(holder.init.pid(), "mnt")),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn host_pid() -> Result<(), Stop> {
    let own = std::process::id();
    let bundle = Bundle::new().namespace("pid", None).sh(&format!("cat /proc/{own}/comm; cat /proc/$$/comm"));
    assert_eq!(bundle.says()?.lines().count(), 2);
    Ok(())
}

fn cgroup() -> Result<(), Stop> {
    let mount =
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]});
    let script = "cat /proc/self/cgroup | cut -d: -f3 | sort -u; cat /sys/fs/cgroup/pids/tasks; \
         (mkdir /sys/fs/cgroup/pids/x 2>&1; mkdir /sys/fs/cgroup/x 2>&1) | grep -c Read-only";
    if !Path::new("/sys/fs/cgroup/pids").exists() {
        return Err(Stop::CannotRun("needs cgroup v1"));
    }
    for (own, path) in [(true, "/"), (false, "/berth-root-")] {
        let bundle = Bundle::new().with_mount(mount.clone()).sh(script);
        let bundle = bundle.namespace("cgroup", own.then(|| json!({"type": "cgroup"})));
        let said = bundle.says()?;
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with(path) && (own || lines[0].len() > 3), "{said}");
        assert!(lines.contains(&"1") && lines.last() == Some(&"2"), "{said}");
        assert_eq!(lines[0] == "/", own, "{said}");
    }
    Ok(())
}

fn loopback() -> Result<(), Stop> {
    let up = "ip addr show lo | grep -c '127.0.0.1/8'; ping -c 1 -W 2 127.0.0.1 | grep -c '1 packets received'";
    assert_eq!(Bundle::new().sh(up).says()?, "1\n1");
    assert_eq!(with_user_namespace(Bundle::new().sh("ip addr show lo | grep -c '127.0.0.1/8'")).says()?, "1");
    Ok(())
}

fn wrong_kind() -> Result<(), Stop> {
    let bundle = Bundle::new().namespace("ipc", Some(json!({"type": "ipc", "path": "/proc/self/ns/net"})));
    assert_eq!(bundle.refused()?, "join the ipc namespace /proc/self/ns/net: invalid argument");
    let bundle = Bundle::new().namespace("network", Some(json!({"type": "network", "path": "/no/such"})));
    assert_eq!(bundle.refused()?, "join the net namespace /no/such: no such file or directory");
    let bundle = Bundle::new().namespace("network", Some(json!({"type": "network", "path": "/dev/null"})));
    assert_eq!(bundle.refused()?, "join the net namespace /dev/null: invalid argument");
    Ok(())
}

fn unmapped() -> Result<(), Stop> {
    let text = with_user_namespace(Bundle::new()).set("/process/user/uid", json!(70_000)).refused()?;
    assert_eq!(text, "process.user.uid \"70000\": is not mapped in the user namespace");
    Ok(())
}
