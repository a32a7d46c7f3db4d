//! Labels of the kernel's security modules. Each needs its own: tests/guest boots them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::bundle::{Bundle, shell};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("apparmor_profile_confines_init_and_exec", apparmor),
    ("apparmor_profile_of_an_exec_is_its_own", apparmor_exec),
    ("apparmor_profile_that_is_not_loaded_is_named", apparmor_missing),
    ("apparmor_profile_cannot_be_faked_by_a_mount_over_proc", apparmor_faked),
    ("selinux_label_is_that_of_init_and_exec", selinux),
    ("selinux_type_rules_over_files", selinux_type),
    ("selinux_categories_keep_containers_apart", selinux_categories),
    ("selinux_mount_label_is_on_what_is_mounted", selinux_mounts),
    ("selinux_label_that_the_policy_does_not_know_is_named", selinux_unknown),
];

fn has(module: &str) -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.trim().split(',').any(|name| name == module))
}

fn needs_apparmor() -> Result<(), Stop> {
    if !has("apparmor") || !Path::new("/sys/kernel/security/apparmor/policy").exists() {
        return Err(Stop::CannotRun("needs AppArmor"));
    }
    Ok(())
}

/// A profile in the kernel, by a name of ours; gone at the end.
struct Profile(&'static str);

impl Profile {
    /// It allows all but to read these paths.
    fn load(name: &'static str, denied: &[&str]) -> Result<Profile, Stop> {
        let denied: String = denied.iter().map(|path| format!("  deny {path} rwklx,\n")).collect();
        let allowed =
            "  file,\n  capability,\n  network,\n  mount,\n  umount,\n  pivot_root,\n  signal,\n  ptrace,\n  unix,\n";
        let text = format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{allowed}{denied}}}\n");
        parser("--replace", &text)?;
        Ok(Profile(name))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = parser("--remove", &format!("profile {} {{}}\n", self.0));
    }
}

fn parser(act: &str, text: &str) -> Result<(), Stop> {
    let mut command = Command::new("apparmor_parser");
    command.args(["--skip-cache", "--quiet", act]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

/// A container with two secrets, of which one is denied to it.
fn secretive(profile: &str) -> Result<Bundle, Stop> {
    let bundle = Bundle::new().set("/process/apparmorProfile", json!(profile));
    for name in ["secret", "other"] {
        fs::write(bundle.image("/etc").join(name), name)?;
    }
    Ok(bundle)
}

const SCRIPT: &str = "cat /proc/self/attr/apparmor/current; cat /etc/secret /etc/other 2>&1";

fn apparmor() -> Result<(), Stop> {
    needs_apparmor()?;
    let _profile = Profile::load("berth-trial", &["/etc/secret"])?;
    let expected = "berth-trial (enforce)\ncat: can't open '/etc/secret': Permission denied\nother";
    for no_new_privileges in [true, false] {
        let bundle = secretive("berth-trial")?.set("/process/noNewPrivileges", json!(no_new_privileges));
        let mut live = bundle.sh(&format!("{SCRIPT}; echo; echo up; exec sleep 100")).start()?;
        assert_eq!(live.init.up(), expected, "{no_new_privileges}");
        let mut exec = shell(SCRIPT);
        exec["apparmorProfile"] = json!("berth-trial");
        exec["noNewPrivileges"] = json!(no_new_privileges);
        assert_eq!(live.exec(&exec)?.wait().stdout, expected, "{no_new_privileges}");
    }
    Ok(())
}

fn apparmor_exec() -> Result<(), Stop> {
    needs_apparmor()?;
    let _profile = Profile::load("berth-trial", &["/etc/secret"])?;
    let _other = Profile::load("berth-other", &["/etc/other"])?;
    let live = secretive("berth-trial")?.args(&["sleep", "100"]).start()?;
    let mut exec = shell(SCRIPT);
    exec["apparmorProfile"] = json!("berth-other");
    let said = live.exec(&exec)?.wait().stdout;
    assert_eq!(said, "berth-other (enforce)\nsecretcat: can't open '/etc/other': Permission denied\n");
    Ok(())
}

fn apparmor_missing() -> Result<(), Stop> {
    needs_apparmor()?;
    let expected = "apply apparmor profile no-such-profile: no such file or directory";
    assert_eq!(secretive("no-such-profile")?.args(&["true"]).refused()?, expected);
    let live = Bundle::new().args(&["sleep", "100"]).start()?;
    let mut exec = shell("true");
    exec["apparmorProfile"] = json!("no-such-profile");
    assert_eq!(live.exec(&exec).err().ok_or("it ran")?.to_string(), expected);
    Ok(())
}

/// What stands at /proc in the image's own mounts must not swallow the label. CVE-2019-16884, CVE-2023-28642
fn apparmor_faked() -> Result<(), Stop> {
    needs_apparmor()?;
    let _profile = Profile::load("berth-trial", &["/etc/secret"])?;
    let bundle = secretive("berth-trial")?.without_mount("/proc");
    let fake = json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"});
    match bundle.with_mount(fake).sh("cat /etc/secret /etc/other 2>&1").run() {
        Ok(output) => assert_eq!(output.stdout, "cat: can't open '/etc/secret': Permission denied\nother"),
        // Refused is as good.
        Err(error) => assert!(error.to_string().contains("/proc"), "{error}"),
    }
    Ok(())
}

fn needs_selinux() -> Result<(), Stop> {
    if !fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1") {
        return Err(Stop::CannotRun("needs SELinux"));
    }
    Ok(())
}

/// Of tests/guest/selinux.cil.
fn process_label(categories: &str) -> String {
    format!("system_u:system_r:container_t:{categories}")
}

fn file_label(kind: &str, categories: &str) -> String {
    format!("system_u:object_r:{kind}:{categories}")
}

fn set_label(path: &Path, label: &str) -> Result<(), Stop> {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), flags)?;
    Ok(())
}

/// A container with a label and a file of another.
fn labelled(categories: &str, file: &str) -> Result<Bundle, Stop> {
    let bundle = Bundle::new().set("/process/selinuxLabel", json!(process_label(categories)));
    fs::write(bundle.image("/etc/data"), "data")?;
    set_label(&bundle.image("/etc/data"), file)?;
    Ok(bundle)
}

const DENIED: &str = "cat: can't open '/etc/data': Permission denied";

fn selinux() -> Result<(), Stop> {
    needs_selinux()?;
    let own = process_label("s0:c1,c2");
    let script = "tr -d '\\0' </proc/self/attr/current; echo";
    for no_new_privileges in [true, false] {
        let bundle = labelled("s0:c1,c2", &file_label("container_file_t", "s0"))?;
        let bundle = bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let mut live = bundle.sh(&format!("{script}; echo up; exec sleep 100")).start()?;
        assert_eq!(live.init.up(), own);
        let mut exec = shell(script);
        exec["noNewPrivileges"] = json!(no_new_privileges);
        for label in [own.clone(), process_label("s0:c1")] {
            exec["selinuxLabel"] = json!(label);
            assert_eq!(live.exec(&exec)?.wait().success()?, label);
        }
    }
    Ok(())
}

fn selinux_type() -> Result<(), Stop> {
    needs_selinux()?;
    for (kind, expected) in [("container_file_t", "data"), ("secret_t", DENIED)] {
        let bundle = labelled("s0:c1,c2", &file_label(kind, "s0"))?;
        assert_eq!(bundle.sh("cat /etc/data 2>&1; echo").says()?, expected, "{kind}");
    }
    Ok(())
}

fn selinux_categories() -> Result<(), Stop> {
    needs_selinux()?;
    let file = file_label("container_file_t", "s0:c1,c2");
    for (categories, expected) in [("s0:c1,c2", "data"), ("s0:c3,c4", DENIED), ("s0:c1", DENIED)] {
        let live = labelled(categories, &file)?.args(&["sleep", "100"]).start()?;
        let mut exec = shell("cat /etc/data 2>&1; echo");
        exec["selinuxLabel"] = json!(process_label(categories));
        assert_eq!(live.exec(&exec)?.wait().success()?, expected, "{categories}");
        let bundle = labelled(categories, &file)?;
        assert_eq!(bundle.sh("cat /etc/data 2>&1; echo").says()?, expected, "{categories}");
    }
    Ok(())
}

fn selinux_mounts() -> Result<(), Stop> {
    needs_selinux()?;
    let label = file_label("container_file_t", "s0:c1,c2");
    let bundle = labelled("s0:c1,c2", &label)?.set("/linux/mountLabel", json!(label));
    let volume = json!({"destination": "/volume", "type": "tmpfs", "source": "tmpfs"});
    let script = "grep -E ' /(volume|dev|dev/shm) ' /proc/self/mounts; echo x >/volume/x && cat /volume/x";
    let said = bundle.with_mount(volume).sh(script).says()?;
    let context = format!("context=\"{label}\"");
    assert_eq!(said.lines().filter(|line| line.contains(&context)).count(), 3, "{said}");
    assert!(said.ends_with("\nx"), "{said}");
    Ok(())
}

fn selinux_unknown() -> Result<(), Stop> {
    needs_selinux()?;
    let label = "system_u:system_r:no_such_t:s0";
    let text = Bundle::new().set("/process/selinuxLabel", json!(label)).refused()?;
    assert_eq!(text, format!("set exec label {label}: invalid argument"));
    let text = Bundle::new().set("/linux/mountLabel", json!(label)).refused()?;
    assert!(text.contains("context") || text.contains("mount"), "{text}");
    Ok(())
}
