//! `berth cni`: the links that make this program a node's CNI plugins, and what it says under their names.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use berth_tests::version;
use serde_json::Value;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        links_come_and_go,
        what_is_not_ours_stays,
        an_install_that_fails_leaves_nothing,
        a_plugin_says_who_it_is,
        a_plugin_refuses_as_the_go_plugins_do,
        a_plugin_starts_with_little,
    ]
}

fn bin_dir(stage: &Stage) -> PathBuf {
    stage.directory.join("cni")
}

fn install(stage: &Stage, more: &[&str]) -> Result<String> {
    let directory = stage.path("cni");
    let arguments = [&["cni", "install", "--bin-dir", &directory], more].concat();
    Ok(stage.run(&arguments)?.success()?.stdout)
}

fn names(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn links_come_and_go(stage: &Stage) -> Result<()> {
    let directory = bin_dir(stage);
    let said = install(stage, &[])?;
    let kinds = names(&directory)?;
    for kind in ["bridge", "host-local", "loopback", "portmap", "ptp", "static", "tuning"] {
        ensure!(kinds.iter().any(|name| name == kind), "{kind} is not among {kinds:?}");
        ensure!(said.contains(&format!("linked {}", directory.join(kind).display())), "{said}");
    }
    let shim = version::shim()?.canonicalize()?;
    for kind in &kinds {
        ensure!(fs::read_link(directory.join(kind))? == shim, "{kind}");
    }
    // Again, and where the program was elsewhere before.
    std::os::unix::fs::symlink("/old/place/containerd-shim-berth-v2", directory.join("moved"))?;
    fs::rename(directory.join("moved"), directory.join("ptp"))?;
    let said = install(stage, &[])?;
    ensure!(said.matches("kept ").count() == kinds.len() - 1 && said.contains("replaced "), "{said}");
    ensure!(fs::read_link(directory.join("ptp"))? == shim);
    let listed = stage.run(&["cni", "ls", "--bin-dir", &stage.path("cni")])?.success()?.stdout;
    ensure!(listed.lines().count() == kinds.len() && listed.lines().all(|line| line.ends_with(" Berth")), "{listed}");
    let said = stage.run(&["cni", "uninstall", "--bin-dir", &stage.path("cni")])?.success()?.stdout;
    ensure!(said.matches("removed ").count() == kinds.len(), "{said}");
    ensure!(names(&directory)?.is_empty());
    let said = stage.run(&["cni", "uninstall", "--bin-dir", &stage.path("cni")])?.success()?.stdout;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

fn what_is_not_ours_stays(stage: &Stage) -> Result<()> {
    let directory = bin_dir(stage);
    fs::create_dir(&directory)?;
    fs::write(directory.join("bridge"), "go")?;
    std::os::unix::fs::symlink("/opt/else", directory.join("ptp"))?;
    let refusal = stage.run(&["cni", "install", "--bin-dir", &stage.path("cni")])?;
    refused(refusal, 1, "not replaced without --force")?;
    ensure!(names(&directory)? == ["bridge", "ptp"]);
    let listed = stage.run(&["cni", "ls", "--bin-dir", &stage.path("cni")])?.success()?.stdout;
    ensure!(listed.contains("bridge       not Berth's") && listed.contains("loopback     absent"), "{listed}");
    let said = stage.run(&["cni", "uninstall", "--bin-dir", &stage.path("cni")])?.success()?.stdout;
    ensure!(said.matches("left ").count() == 2, "{said}");
    ensure!(fs::read_to_string(directory.join("bridge"))? == "go");
    install(stage, &["--force"])?;
    ensure!(fs::read_link(directory.join("bridge"))? == version::shim()?.canonicalize()?);
    Ok(())
}

fn an_install_that_fails_leaves_nothing(stage: &Stage) -> Result<()> {
    refused(stage.run(&["cni", "install"])?, 1, "--bin-dir is missing")?;
    refused(stage.run(&["cni", "paint", "--bin-dir", "/"])?, 1, "no such command: cni paint")?;
    let nowhere = stage.path("no/where");
    refused(stage.run(&["cni", "install", "--bin-dir", &nowhere])?, 1, &format!("make {nowhere}"))?;
    refused(stage.run(&["cni", "uninstall", "--bin-dir", &nowhere])?, 1, &format!("read {nowhere}"))?;
    // A directory is replaced by nobody; what was linked before it goes again.
    let directory = bin_dir(stage);
    fs::create_dir_all(directory.join("tuning/full"))?;
    let refusal = stage.run(&["cni", "install", "--force", "--bin-dir", &stage.path("cni")])?;
    refused(refusal, 1, &format!("link {}", directory.join("tuning").display()))?;
    ensure!(names(&directory)? == ["tuning"], "{:?}", names(&directory)?);
    Ok(())
}

/// A plugin's process with this environment and input: exit code, standard output, standard error.
fn plugin(stage: &Stage, kind: &str, variables: &[(&str, &str)], input: &str) -> Result<(i32, String, String)> {
    let mut command = Command::new(bin_dir(stage).join(kind));
    command.env_clear().envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // One that asks nothing of its input need not read it.
    let _ = child.stdin.take().context("no stdin")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code().context("killed")?, text(output.stdout), text(output.stderr)))
}

fn a_plugin_says_who_it_is(stage: &Stage) -> Result<()> {
    install(stage, &[])?;
    for kind in names(&bin_dir(stage))? {
        let (code, stdout, stderr) = plugin(stage, &kind, &[], "")?;
        ensure!(code == 0 && stdout.is_empty(), "{kind}: {code} {stdout}");
        // nerdctl reads exactly this of firewall.
        let version = stderr.lines().next().and_then(|line| line.strip_prefix(&format!("CNI {kind} plugin v")));
        let numbers: Vec<u32> =
            version.with_context(|| stderr.clone())?.split('.').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(numbers.len() == 3, "{stderr}");
        ensure!(stderr.contains("\nCNI protocol versions supported: ") && stderr.contains("1.1.0\n"), "{stderr}");
        let (code, stdout, _) = plugin(stage, &kind, &[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"1.0.0"}"#)?;
        let said: Value = serde_json::from_str(&stdout)?;
        ensure!(code == 0 && said["cniVersion"] == "1.1.0", "{kind}: {stdout}");
        ensure!(said["supportedVersions"].as_array().is_some_and(|list| list.contains(&"1.0.0".into())), "{stdout}");
    }
    Ok(())
}

fn a_plugin_refuses_as_the_go_plugins_do(stage: &Stage) -> Result<()> {
    install(stage, &[])?;
    let attached = [
        ("CNI_CONTAINERID", "pod"),
        ("CNI_NETNS", "/nonexistent"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nonexistent"),
    ];
    let with = |command: &'static str| [&[("CNI_COMMAND", command)][..], &attached].concat();
    let own = with("ADD").into_iter().chain([("CNI_NETNS", "/proc/self/ns/net")]).collect();
    for (kind, variables, input, code) in [
        ("bridge", vec![("CNI_COMMAND", "ADD")], "{}", 4),
        ("bridge", with("PAINT"), "{}", 4),
        ("bridge", with("ADD"), "{", 6),
        ("bridge", with("ADD"), "{}", 7),
        ("bridge", with("ADD"), r#"{"name":"net","cniVersion":"9.0.0"}"#, 1),
        ("bridge", with("CHECK"), r#"{"name":"net","cniVersion":"0.3.1"}"#, 1),
        ("bridge", with("GC"), r#"{"name":"net","cniVersion":"1.0.0"}"#, 1),
        ("loopback", own, r#"{"name":"net","cniVersion":"1.0.0"}"#, 8),
        ("loopback", with("ADD"), r#"{"name":"net","cniVersion":"1.0.0"}"#, 8),
        // What ours cannot, where nobody else can.
        ("bandwidth", with("ADD"), r#"{"name":"net","cniVersion":"1.0.0","shapedSubnets":["10.0.0.0/8"]}"#, 2),
    ] {
        let (exit, stdout, stderr) = plugin(stage, kind, &variables, input)?;
        let fault: Value =
            serde_json::from_str(&stdout).with_context(|| format!("{kind} {input}: {stdout} {stderr}"))?;
        ensure!(exit == 1 && fault["code"] == code && fault["msg"].is_string(), "{kind} {input}: {exit} {fault:#}");
    }
    let (code, stdout, _) = plugin(stage, "loopback", &with("DEL"), r#"{"name":"net","cniVersion":"1.0.0"}"#)?;
    ensure!(code == 0 && stdout.is_empty(), "a namespace that is gone: {stdout}");
    // The genuine plugin gets what ours cannot, with all that came; another copy of ours does not hand it on again.
    let (genuine, copy) = (stage.directory.join("genuine"), stage.directory.join("copy"));
    for directory in [&genuine, &copy] {
        fs::create_dir(directory)?;
    }
    fs::write(genuine.join("bandwidth"), "#!/bin/sh\necho $CNI_COMMAND $(cat)\nexit 3\n")?;
    fs::set_permissions(genuine.join("bandwidth"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::copy(version::shim()?, copy.join("bandwidth"))?;
    let input = r#"{"name":"net","cniVersion":"1.0.0","shapedSubnets":["10.0.0.0/8"]}"#;
    let through = |path: String| {
        let path = [("CNI_PATH", path.as_str())];
        plugin(stage, "bandwidth", &[&with("ADD")[..], &[("PATH", "/bin:/usr/bin")], &path].concat(), input)
    };
    let own = bin_dir(stage).display().to_string();
    let (code, stdout, _) = through(format!("{own}:{}", genuine.display()))?;
    ensure!(code == 3 && stdout.trim() == format!("ADD {input}"), "{code} {stdout}");
    let (code, stdout, _) = through(format!("{own}:{}", copy.display()))?;
    ensure!(code == 1 && serde_json::from_str::<Value>(&stdout)?["code"] == 2, "{code} {stdout}");
    Ok(())
}

/// containerd runs two of them for each pod, so they begin without a runtime of threads and without reading what they
/// do not need.
fn a_plugin_starts_with_little(stage: &Stage) -> Result<()> {
    install(stage, &[])?;
    let trace = stage.directory.join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace).arg(bin_dir(stage).join("host-local"));
    command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null()).stdout(Stdio::null());
    match command.status() {
        Ok(status) => ensure!(status.success(), "{status}"),
        Err(error) => return Err(berth_tests::scene::Skip(format!("no strace: {error}")).into()),
    }
    let trace = fs::read_to_string(&trace)?;
    ensure!(!trace.contains("clone") && !trace.contains("epoll") && !trace.contains("socket("), "{trace}");
    ensure!(trace.lines().count() < 60, "{} system calls:\n{trace}", trace.lines().count());
    Ok(())
}
