//! Who the program is.

use std::fs;

use serde_json::{Value, json};

use super::bundle::{Bundle, shell};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("user_and_groups_are_the_specs", user),
    ("umask_is_0022_or_the_specs", umask),
    ("cwd_is_made_and_entered", cwd),
    ("cwd_that_only_the_user_may_enter_is_entered", private_cwd),
    ("environment_is_exactly_the_specs", environment),
    ("home_comes_from_the_images_passwd", home),
    ("rlimits_are_set_and_taken_over_by_exec", rlimits),
    ("five_capability_sets_are_the_specs", capabilities),
    ("capabilities_survive_execve_as_the_kernel_rules", ambient),
    ("exec_inherits_no_inheritable_capabilities", exec_inheritable),
    ("no_new_privileges_is_set_or_not", no_new_privileges),
    ("oom_score_is_set_or_the_refusal_names_it", oom_score),
    ("session_and_signals_are_fresh", fresh),
];

/// A field of a `/proc/<pid>/status`.
pub fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn user() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /proc/self/status; echo up; exec sleep 100");
    let mut live = bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]})).start()?;
    let status = live.init.up();
    assert_eq!(field(&status, "Uid"), "1000 1000 1000 1000");
    assert_eq!(field(&status, "Gid"), "1001 1001 1001 1001");
    assert_eq!(field(&status, "Groups"), "5 6");
    let mut process = shell("cat /proc/self/status");
    process["user"] = json!({"uid": 7, "gid": 8});
    let status = live.exec(&process)?.wait().success()?;
    assert_eq!((field(&status, "Uid"), field(&status, "Gid")), ("7 7 7 7".into(), "8 8 8 8".into()));
    assert_eq!(field(&status, "Groups"), "");
    Ok(())
}

fn umask() -> Result<(), Stop> {
    assert_eq!(Bundle::new().sh("umask").says()?, "0022");
    let mut live =
        Bundle::new().sh("umask; echo up; exec sleep 100").set("/process/user/umask", json!(0o77)).start()?;
    assert_eq!(live.init.up(), "0077");
    assert_eq!(live.sh("umask")?.success()?, "0077");
    Ok(())
}

fn cwd() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("pwd; stat -c %a .").set("/process/cwd", json!("/made/here"));
    assert_eq!(bundle.says()?, "/made/here\n755");
    assert!(bundle.image("/made/here").is_dir());
    let bundle = Bundle::new().set("/process/cwd", json!("/etc/file"));
    fs::write(bundle.image("/etc/file"), "")?;
    let text = bundle.refused()?;
    assert!(text.contains("/etc/file") && text.ends_with("not a directory"), "{text}");
    Ok(())
}

/// On a file system where root is nobody it is the user that may enter: here root without the right to.
fn private_cwd() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("pwd").set("/process/cwd", json!("/home"));
    let bundle = bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    fs::create_dir(bundle.image("/home"))?;
    std::os::unix::fs::chown(bundle.image("/home"), Some(1000), Some(1000))?;
    fs::set_permissions(bundle.image("/home"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    assert_eq!(bundle.says()?, "/home");
    Ok(())
}

fn environment() -> Result<(), Stop> {
    let bundle = Bundle::new().args(&["env"]);
    let bundle = bundle.set("/process/env", json!(["A=1", "PATH=/bin", "B=x y=z", "A=2", "HOME=/h", "EMPTY="]));
    assert_eq!(bundle.says()?, "PATH=/bin\nB=x y=z\nA=2\nHOME=/h\nEMPTY=");
    Ok(())
}

fn home() -> Result<(), Stop> {
    let home_of = |uid: u32| -> Result<String, Stop> {
        let bundle = Bundle::new().sh("echo $HOME").set("/process/env", json!(["PATH=/bin"]));
        let bundle = bundle.set("/process/user", json!({"uid": uid, "gid": 0}));
        fs::write(bundle.image("/etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:0::/srv/app:\n")?;
        Ok(bundle.says()?)
    };
    assert_eq!([home_of(0)?, home_of(1000)?, home_of(7)?], ["/root", "/srv/app", "/"]);
    Ok(())
}

fn rlimits() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /proc/self/limits; echo up; exec sleep 100");
    let limits =
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 5}]);
    let mut live = bundle.set("/process/rlimits", limits).start()?;
    let of_init = live.init.up();
    let of_exec = live.sh("cat /proc/self/limits")?.success()?;
    for limits in [of_init, of_exec] {
        let words: Vec<String> =
            limits.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(words.iter().any(|line| line == "Max open files 100 200 files"), "{limits}");
        assert!(words.iter().any(|line| line == "Max core file size 0 5 bytes"), "{limits}");
    }
    let mut process = shell("ulimit -n");
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]);
    assert_eq!(live.exec(&process)?.wait().success()?, "50");
    Ok(())
}

const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const SETUID: u64 = 1 << 7;
const NET_RAW: u64 = 1 << 13;

fn hex(mask: u64) -> String {
    format!("{mask:016x}")
}

fn sets(bounding: Value, permitted: Value, effective: Value, inheritable: Value, ambient: Value) -> Value {
    json!({"bounding": bounding, "permitted": permitted, "effective": effective, "inheritable": inheritable, "ambient": ambient})
}

/// At its gate a container has the sets that its program is executed with.
fn capabilities() -> Result<(), Stop> {
    let wanted = sets(
        json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"]),
        json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]),
        json!(["CAP_KILL"]),
        json!(["CAP_CHOWN", "CAP_NET_RAW"]),
        json!(["CAP_NET_RAW"]),
    );
    for uid in [0, 1000] {
        let bundle = Bundle::new().set("/process/capabilities", wanted.clone());
        let live = bundle.set("/process/user/uid", json!(uid)).create()?;
        let status = fs::read_to_string(format!("/proc/{}/status", live.init.pid()))?;
        let found = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(|name| field(&status, name));
        let masks = [CHOWN | KILL | SETUID | NET_RAW, CHOWN | KILL | NET_RAW, KILL, CHOWN | NET_RAW, NET_RAW];
        assert_eq!(found, masks.map(hex), "uid {uid}");
    }
    Ok(())
}

fn ambient() -> Result<(), Stop> {
    let one = || json!(["CAP_NET_RAW"]);
    let bundle = Bundle::new().sh("cat /proc/self/status");
    let bundle = bundle.set("/process/capabilities", sets(one(), one(), one(), one(), one()));
    let status = bundle.set("/process/user/uid", json!(1000)).says()?;
    for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(field(&status, name), hex(NET_RAW), "{name}");
    }
    // Without a word about capabilities there are none.
    let mut bundle = Bundle::new().sh("cat /proc/self/status");
    bundle.spec["process"].as_object_mut().unwrap().remove("capabilities");
    let status = bundle.says()?;
    for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(field(&status, name), hex(0), "{name}");
    }
    Ok(())
}

/// CVE-2022-29162
fn exec_inheritable() -> Result<(), Stop> {
    let live = Bundle::new().sh("sleep 100").start()?;
    let mut process = shell("cat /proc/self/status");
    let raw = || json!(["CAP_NET_RAW"]);
    process["capabilities"] = json!({"bounding": raw(), "permitted": raw(), "effective": raw()});
    let status = live.exec(&process)?.wait().success()?;
    assert_eq!((field(&status, "CapInh"), field(&status, "CapAmb")), (hex(0), hex(0)));
    assert_eq!((field(&status, "CapBnd"), field(&status, "CapPrm")), (hex(NET_RAW), hex(NET_RAW)));
    let status = live.sh("cat /proc/self/status")?.success()?;
    assert_eq!(field(&status, "CapInh"), hex(0));
    Ok(())
}

fn no_new_privileges() -> Result<(), Stop> {
    for (set, shown) in [(true, "1"), (false, "0")] {
        let bundle = Bundle::new().sh("grep NoNewPrivs /proc/self/status; echo up; exec sleep 100");
        let mut live = bundle.set("/process/noNewPrivileges", json!(set)).start()?;
        assert_eq!(field(&live.init.up(), "NoNewPrivs"), shown);
        assert_eq!(field(&live.sh("cat /proc/self/status")?.success()?, "NoNewPrivs"), shown);
    }
    Ok(())
}

fn oom_score() -> Result<(), Stop> {
    let score = |value: i32| Bundle::new().sh("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(value));
    assert_eq!(score(500).says()?, "500");
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
    assert_eq!(score(own).says()?, own.to_string());
    match score(-999).says() {
        Ok(said) => assert_eq!(said, "-999"),
        Err(text) => assert!(text.starts_with("write -999 to /proc/self/oom_score_adj: "), "{text}"),
    }
    let live = Bundle::new().sh("sleep 100").start()?;
    let mut process = shell("cat /proc/self/oom_score_adj");
    process["oomScoreAdj"] = json!(300);
    assert_eq!(live.exec(&process)?.wait().success()?, "300");
    Ok(())
}

/// A session of its own, and no signal blocked or ignored, whatever we ignore ourselves.
fn fresh() -> Result<(), Stop> {
    let _ignored = super::sys::IgnoredHangup::new();
    let bundle = Bundle::new().args(&["cat", "/proc/self/status", "/proc/self/stat"]);
    let of_init = bundle.says()?;
    let live = Bundle::new().args(&["sleep", "100"]).start()?;
    let mut process = shell("");
    process["args"] = bundle.spec["process"]["args"].clone();
    let of_exec = live.exec(&process)?.wait().success()?;
    for said in [of_init, of_exec] {
        assert_eq!(field(&said, "SigBlk"), hex(0));
        assert_eq!(u64::from_str_radix(&field(&said, "SigIgn"), 16)? & 0x7fff_ffff, 0, "{said}");
        let stat = said.lines().last().unwrap_or_default();
        let words: Vec<&str> = stat.split_whitespace().collect();
        assert_eq!(words[0], words[5], "it leads no session: {stat}");
    }
    Ok(())
}
