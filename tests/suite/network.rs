//! Networks that the shim makes itself. A namespace plays the host: the daemon, its shims and the trial live in it, so
//! that no bridge, rule or port of the machine is touched.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use berth_tests::command::{self, DEADLINE, Outcome, poll};
use berth_tests::containerd::{Config, Containerd, unique_name};
use berth_tests::leftovers::Leftovers;
use berth_tests::scene::{Runtime, Scene, strs};
use berth_tests::version::{self, Version};
use netns::Namespace;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Alone:
        the_walk_through_works,
        a_pod_is_wired_before_its_program_starts_and_unwired_with_it,
        what_cannot_be_wired_is_one_error_and_leaves_nothing,
        who_wires_it_otherwise_is_left_alone,
        plugins_that_are_programs_are_run_by_the_shim,
    ]
}

/// The example, as a user runs it; it checks each thing that it says.
fn the_walk_through_works(version: Version) -> Result<()> {
    let mut command = Command::new(version::workspace().join("examples/network/walk-through"));
    command.env("BERTH_SHIM", version::shim()?).env("BERTH_CACHE", version::cache());
    // Its files, processes and mounts bear this name.
    let name = unique_name();
    let directory = std::env::temp_dir().join(&name);
    fs::create_dir(&directory)?;
    command.env("BERTH_CONTAINERD", version.name()).env("TMPDIR", &directory);
    let walked = command::run(&mut command, Duration::from_secs(120))?.success()?;
    // Fails if there is a file left.
    fs::remove_dir(&directory)?;
    let left = Leftovers::wait_until_empty(Duration::from_secs(15), || Leftovers::find(&[&name], &[], &directory));
    ensure!(left.is_empty(), "left behind:\n{left}");
    ensure!(walked.stdout.trim_end().ends_with("nobody answers at port 8080."), "{walked}");
    Ok(())
}

/// A daemon in a network namespace, with a network and options that have Berth make it.
pub struct Stage<'a> {
    pub scene: &'a Scene<'a>,
    pub directory: PathBuf,
}

/// Plays with one, which ends with nothing left.
pub fn on_stage(version: Version, play: impl Fn(&Stage<'_>) -> Result<()> + Send + Sync) -> Result<()> {
    let host = Namespace::create()?;
    host.bring_loopback_up()?;
    let played = host.enter(|| {
        let containerd = Containerd::start(version, &Config::default())?;
        let scene = Scene::new(&containerd, Runtime::Berth);
        scene.leave_fifos_to_clients();
        let outcome = Stage::new(&scene).and_then(|stage| {
            play(&stage)?;
            stage.nothing_left()
        });
        scene.finish(outcome).map(drop)
    });
    played?
}

impl<'a> Stage<'a> {
    fn new(scene: &'a Scene<'a>) -> Result<Stage<'a>> {
        let directory = scene.scratch()?.join("network");
        let stage = Stage { scene, directory };
        fs::create_dir_all(stage.directory.join("net.d"))?;
        fs::create_dir_all(stage.directory.join("bin"))?;
        let ipam = json!({"type":"host-local","dataDir":stage.directory.join("leases"),
            "ranges":[[{"subnet":"10.88.65.0/24"}]]});
        let bridge = json!({"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,"ipam":ipam});
        stage.network("10-net", json!([bridge, {"type":"portmap","capabilities":{"portMappings":true}}]))?;
        stage.options("options", "mode = \"cni\"")?;
        Ok(stage)
    }

    pub fn network(&self, file: &str, plugins: Value) -> Result<()> {
        let name = file.split_once('-').map_or(file, |(_, name)| name);
        let list = json!({"cniVersion":"1.0.0","name":name,"plugins":plugins});
        Ok(fs::write(self.directory.join("net.d").join(format!("{file}.conflist")), list.to_string())?)
    }

    /// Writes options; `keys` are those of `[network]` beside the directories.
    pub fn options(&self, name: &str, keys: &str) -> Result<()> {
        let directory = self.directory.display();
        let text = format!(
            "[network]\nconf_dir = \"{directory}/net.d\"\ncache_dir = \"{directory}/cache\"\nbin_dirs = [\"{directory}/bin\"]\n{keys}\n"
        );
        Ok(fs::write(self.directory.join(name), text)?)
    }

    /// The flags of `ctr run` with these options and annotations.
    pub fn flags(&self, options: &str, annotations: &[&str]) -> Vec<String> {
        let path = self.directory.join(options).display().to_string();
        let mut flags = vec!["--runtime-config-path".to_owned(), path];
        flags.extend(annotations.iter().flat_map(|one| ["--annotation".to_owned(), (*one).to_owned()]));
        flags
    }

    pub fn run(&self, flags: &[String], name: &str, script: &str) -> Result<Outcome> {
        self.scene.run(&strs(flags), name, &["sh", "-c", script])
    }

    pub fn berth(&self, words: &[&str]) -> Result<Outcome> {
        let berth = self.directory.join("berth");
        if !berth.exists() {
            symlink(self.scene.containerd.shim(), &berth)?;
        }
        command::run(Command::new(berth).args(words).arg("--cache-dir").arg(self.directory.join("cache")), DEADLINE)
    }

    /// What there is of networks in the namespace that plays the host, and on disk. The bridge and the tables stay.
    fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let links = command::run(Command::new("ip").args(["-j", "link"]), DEADLINE)?.success()?;
        let links: Value = serde_json::from_str(&links.stdout)?;
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        left.extend(names.filter(|name| !["lo", "br0"].contains(name)).map(|name| format!("link {name}")));
        for (directory, is_ours) in [
            ("leases/net", (|name| name.starts_with("10.")) as fn(&str) -> bool),
            ("cache/results", |_| true),
            ("cache/pods", |_| true),
        ] {
            let entries = fs::read_dir(self.directory.join(directory)).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            left.extend(names.filter(|name| is_ours(name)).map(|name| format!("{directory}/{name}")));
        }
        let pins = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let pins = pins.map(|entry| entry.file_name().to_string_lossy().into_owned());
        left.extend(pins.filter(|name| name.contains(self.scene.tag())).map(|name| format!("namespace {name}")));
        let rules = self.rules()?;
        left.extend(rules.lines().filter(|line| line.contains(self.scene.tag())).map(|line| format!("rule {line}")));
        Ok(left)
    }

    fn rules(&self) -> Result<String> {
        let network = version::cache().join("network/usr");
        let libraries = fs::read_dir(network.join("lib"))?.flatten().map(|entry| entry.path());
        let libraries = libraries.filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
        let libraries = std::env::join_paths(libraries)?;
        let mut nft = Command::new(network.join("sbin/nft"));
        let listed = command::run(nft.args(["list", "ruleset"]).env("LD_LIBRARY_PATH", libraries), DEADLINE)?;
        Ok(listed.success()?.stdout)
    }

    pub fn nothing_left(&self) -> Result<()> {
        let mut last = Ok(Vec::new());
        poll(Duration::from_secs(15), || {
            last = self.left();
            last.as_ref().is_ok_and(Vec::is_empty).then_some(())
        });
        let left = last?;
        ensure!(left.is_empty(), "of networks is left: {left:?}");
        Ok(())
    }

    pub fn pod(&self, name: &str) -> String {
        format!("{}-{}", self.scene.containerd.namespace(), self.scene.id(name))
    }
}

fn a_pod_is_wired_before_its_program_starts_and_unwired_with_it(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        let scene = stage.scene;
        let script = "ip -o -4 address show eth0; cat /etc/hosts /etc/hostname; hostname; cat /sys/class/net/lo/operstate; \
            grep -c /etc/resolv.conf /proc/mounts; ip route; cat /etc/resolv.conf";
        let annotations = [
            "io.berth.network.hostname=web",
            "io.berth.network.ip=10.88.65.77",
            "io.berth.network.mac=02:00:00:00:00:77",
            "io.berth.network.dns=10.0.0.53",
            "io.berth.network.ports=18080:80",
        ];
        let mut flags = stage.flags("options", &annotations);
        flags.push("--rm".to_owned());
        let seen = stage.run(&flags, "once", script)?.success()?.stdout;
        for wanted in
            ["10.88.65.77/24", "10.88.65.77\tweb", "\nweb\nweb\n", "default via 10.88.65.1", "nameserver 10.0.0.53"]
        {
            ensure!(seen.contains(wanted), "no {wanted:?} in {seen}");
        }
        stage.nothing_left()?;
        // A pod of two, and what others see of it.
        let mut flags = stage.flags("options", &["io.berth.network.ports=18080:80"]);
        flags.push("-d".to_owned());
        stage.run(&flags, "pod", "exec sleep 1000")?.success()?;
        let group = format!("io.containerd.runc.v2.group={}", scene.id("pod"));
        let member = stage.flags("options", &[&group]);
        let alone = scene.sh(&strs(&member), "member", "ip -o -4 address show eth0; cat /etc/hosts")?.success()?;
        ensure!(alone.stdout.contains("10.88.65.") && alone.stdout.contains("localhost"), "{alone}");
        let listed = stage.berth(&["net", "ls", "--json"])?.success()?;
        let listed: Value = serde_json::from_str(&listed.stdout)?;
        ensure!(listed[0]["pod"] == stage.pod("pod") && listed[0]["state"] == "live", "{listed}");
        ensure!(listed[0]["ports"] == json!(["18080->80/tcp"]), "{listed}");
        stage.berth(&["net", "check", &stage.pod("pod")])?.success()?;
        let collected = stage.berth(&["net", "gc"])?.success()?;
        ensure!(collected.stdout.is_empty(), "a live pod was collected: {collected}");
        ensure!(stage.berth(&["net", "show", "nobody"])?.failure()?.stderr.contains("pod nobody has no network"));
        // Its port is its own.
        let flags = stage.flags("options", &["io.berth.network.ports=127.0.0.1:18080:80"]);
        let refused = stage.run(&flags, "second", "true")?.failure()?;
        ensure!(refused.stderr.contains("port 127.0.0.1:18080/tcp of the host is taken by pod"), "{refused}");
        scene.ctr(&["container", "delete", &scene.id("second")])?.success_or("not found")?;
        scene.discard("pod")
    })
}

fn what_cannot_be_wired_is_one_error_and_leaves_nothing(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        stage.options("unknown-mode", "mode = \"bridge\"")?;
        stage.options("no-such-key", "mode = \"cni\"\nbindirs = []")?;
        fs::write(stage.directory.join("broken"), "[network\n")?;
        fs::write(stage.directory.join("no-directory"), "[network]\nmode = \"cni\"\nconf_dir = \"/not/there\"\n")?;
        stage.network("20-typeless", json!([{"type":"no-such-plugin"}]))?;
        stage.network("30-portless", json!([{"type":"ptp","ipam":{"type":"host-local","dataDir":"/not/there","ranges":[[{"subnet":"10.88.66.0/24"}]]}}]))?;
        let listener = TcpListener::bind(("127.0.0.1", 18081))?;
        let group = format!("io.containerd.runc.v2.group={}", stage.scene.id("nobody"));
        let refused = [
            ("unknown-mode", "", "unknown variant `bridge`"),
            ("no-such-key", "", "unknown field `bindirs`"),
            ("broken", "", "parse runtime options of"),
            ("not-there", "", "no such file or directory"),
            ("no-directory", "", "no network config found in /not/there"),
            ("options", "io.berth.network=nowhere", "no net configuration with name \"nowhere\""),
            ("options", "io.berth.network=typeless", "failed to find plugin \"no-such-plugin\""),
            ("options", "io.berth.network.prots=1:1", "annotation io.berth.network.prots is unknown"),
            ("options", "io.berth.network.ports=80", "is not [HOSTIP:]HOSTPORT:PORT"),
            ("options", "io.berth.network.ip=10.99.0.1", "10.99.0.1"),
            ("options", "io.berth.network.mode=pod", "no annotation names a pod"),
            ("options", &group, "has no network to share"),
            ("options", "io.berth.network=portless io.berth.network.ports=1:1", "capability portMappings"),
            (
                "options",
                "io.berth.network.ports=18081:80",
                "port 18081/tcp of the host is taken by a program of the host",
            ),
        ];
        for (number, (options, annotation, words)) in refused.into_iter().enumerate() {
            let annotations: Vec<&str> = annotation.split_whitespace().collect();
            let name = format!("r{number}");
            let outcome = stage.run(&stage.flags(options, &annotations), &name, "true")?.failure()?;
            ensure!(outcome.stderr.contains(words), "{options} {annotation}: no {words:?} in {outcome}");
            stage.scene.ctr(&["container", "delete", &stage.scene.id(&name)])?.success_or("not found")?;
            stage.nothing_left().with_context(|| format!("{options} {annotation}"))?;
        }
        drop(listener);
        Ok(())
    })
}

/// Under CRI a namespace is given, under nerdctl hooks make the network: with these options too, nothing is done.
fn who_wires_it_otherwise_is_left_alone(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        fs::write(stage.directory.join("would-fail"), "[network]\nmode = \"cni\"\nconf_dir = \"/not/there\"\n")?;
        let flags = stage.flags("would-fail", &[]);
        let hooked = |spec: &mut Value| spec["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
        let mut rm = strs(&flags);
        rm.insert(0, "--rm");
        let script = ["sh", "-c", "ls /sys/class/net; grep -c /etc/ /proc/mounts"];
        let outcome = stage.scene.run_spec(&rm, "hooked", &script, hooked)?;
        ensure!(outcome.stdout == "lo\n0\n", "{outcome}");
        let given = Namespace::create()?;
        let pin = given.pin(&stage.directory.join("netns"), "given")?;
        let path = format!("network:{}", pin.display());
        let with = [&strs(&flags)[..], &["--with-ns", &path]].concat();
        let outcome = stage.scene.sh(&with, "given", script[2]);
        netns::remove(&pin)?;
        let outcome = outcome?;
        ensure!(outcome.stdout == "lo\n0\n", "{outcome}");
        let outcome = stage.scene.sh(&[&strs(&flags)[..], &["--net-host"]].concat(), "host", "ls /sys/class/net")?;
        ensure!(outcome.stdout.contains("lo"), "{outcome}");
        Ok(())
    })
}

/// Writes a plugin that is a script: ADD answers an address that it does not make, after what the script does.
pub fn script_plugin(stage: &Stage<'_>, name: &str, script: &str) -> Result<()> {
    let path = stage.directory.join("bin").join(name);
    let text = format!(
        "#!/bin/sh\ncat >/dev/null\n{script}\n[ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"192.0.2.7/24\"}}]}}'\n"
    );
    fs::write(&path, text)?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

/// The shim reaps orphans, and the plugins' statuses are not among them.
fn plugins_that_are_programs_are_run_by_the_shim(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        let log = stage.directory.join("calls");
        script_plugin(
            stage,
            "tells",
            &format!("echo $CNI_COMMAND $CNI_IFNAME >>{}; sh -c 'sleep .05 &'", log.display()),
        )?;
        script_plugin(
            stage,
            "refuses",
            "[ $CNI_COMMAND != ADD ] || { echo '{\"code\":100,\"msg\":\"not today\"}'; exit 1; }",
        )?;
        stage.network("20-told", json!([{"type":"tells"}]))?;
        stage.network("30-refused", json!([{"type":"tells"},{"type":"refuses"}]))?;
        for number in 0..5 {
            let mut flags = stage.flags("options", &["io.berth.network=told", "io.berth.network.hostname=h"]);
            flags.push("--rm".to_owned());
            let seen = stage.run(&flags, &format!("t{number}"), "cat /etc/hosts")?.success()?;
            ensure!(seen.stdout.contains("192.0.2.7\th"), "{seen}");
        }
        ensure!(fs::read_to_string(&log)? == "ADD eth0\nDEL eth0\n".repeat(5), "{}", fs::read_to_string(&log)?);
        fs::remove_file(&log)?;
        let flags = stage.flags("options", &["io.berth.network=net,refused"]);
        let refused = stage.run(&flags, "r", "true")?.failure()?;
        ensure!(refused.stderr.contains("plugin type=\"refuses\" failed (add): not today"), "{refused}");
        ensure!(fs::read_to_string(&log)? == "ADD eth1\nDEL eth1\n", "{}", fs::read_to_string(&log)?);
        stage.scene.ctr(&["container", "delete", &stage.scene.id("r")])?.success_or("not found")?;
        Ok(())
    })
}
