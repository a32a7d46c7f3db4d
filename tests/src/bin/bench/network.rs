//! Pod networks: ADD and DEL by Berth's plugins in the caller's process, by the same as binaries, and by the Go plugins with
//! either of their backends. Each contender is a process (netns/examples/stage.rs) whose own namespace plays the host; the
//! engine that runs the binaries is the same for all, and does what libcni does.

use anyhow::{Context, Result, bail, ensure};
use berth_tests::containerd::Containerd;
use berth_tests::version;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::blocks::{self, Spacing};
use crate::counts;
use crate::report::Report;
use crate::statistics::{Random, Ratio, median};

/// Who attaches pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Inside,
    Binaries,
    /// With this backend for whatever has one.
    Go(&'static str),
}

/// A network, without and with what every node has in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Bridge,
    Full,
}

const LEASES: [usize; 2] = [10, 5000];
const AT_ONCE: [usize; 2] = [1, 16];

/// Where programs are.
struct Places {
    directory: PathBuf,
    stage: PathBuf,
    ours: PathBuf,
    go: PathBuf,
    /// iptables(8) by this name, nft(8), and their libraries.
    iptables: PathBuf,
    nft: PathBuf,
    libraries: PathBuf,
}

/// Measures both networks. Sixteen at once take as long as many, so that a fifth of the blocks has to do.
pub fn measure(containerd: &Containerd, blocks: usize, random: &mut Random, report: &mut Report) -> Result<()> {
    let places = Places::find(containerd)?;
    for chain in [Chain::Bridge, Chain::Full] {
        let contenders = chain.contenders();
        report.table_of(chain.title(), columns(contenders));
        for leases in LEASES {
            let mut stages = (contenders.iter().enumerate())
                .map(|(at, contender)| Stage::start(&places, *contender, chain, leases, &format!("{leases}-{at}")))
                .collect::<Result<Vec<_>>>()?;
            for count in AT_ONCE {
                let blocks = if count == 1 { blocks } else { blocks.div_ceil(5) };
                let mut sample = |contender: usize, _| stages[contender].play(count);
                let [add, delete, gone] =
                    blocks::measure(contenders.len(), blocks, Spacing::BackToBack, random, &mut sample)?;
                for (what, samples) in [("ADD", add), ("DEL", delete), ("DEL, until the interface is gone", gone)] {
                    let of = if count == 1 { "one by one".to_owned() } else { format!("{count} at once") };
                    report.row(format!("{what}, {leases} leases, {of}"), cells(contenders, &samples, random));
                }
            }
            stages.into_iter().try_for_each(Stage::end)?;
        }
        for contender in contenders {
            report.note(programs(&places, *contender, chain)?);
        }
    }
    if has_firewall() {
        report.note("Without firewall: \"Go, nftables\", as the Go firewall knows iptables alone.".to_owned());
    }
    report.note(
        "Times of sixteen at once are those until the last is done. When Berth has answered a DEL, the pod's veth pair is \
         down and no port of the bridge any more, and its address is free; the kernel then needs a while to delete it."
            .to_owned(),
    );
    Ok(())
}

/// Whether ours is there to be compared.
fn has_firewall() -> bool {
    netns::plugin::native("firewall").is_some()
}

impl Contender {
    fn is_ours(self) -> bool {
        !matches!(self, Self::Go(_))
    }

    fn name(self, chain: Chain) -> String {
        match self {
            Self::Inside => "Berth, in-process".to_owned(),
            Self::Binaries => "Berth, binaries".to_owned(),
            Self::Go(_) if chain == Chain::Bridge => "Go".to_owned(),
            Self::Go(backend) => format!("Go, {backend}"),
        }
    }
}

impl Chain {
    fn contenders(self) -> &'static [Contender] {
        const ALL: [Contender; 4] =
            [Contender::Inside, Contender::Binaries, Contender::Go("iptables"), Contender::Go("nftables")];
        match self {
            Self::Bridge => &ALL[..3],
            Self::Full => &ALL,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Bridge => "Pod networks: bridge and host-local".to_owned(),
            Self::Full => {
                let firewall = if has_firewall() { ", firewall" } else { "" };
                format!("Pod networks: bridge with ipMasq and host-local, portmap{firewall}")
            }
        }
    }

    fn plugins(self, contender: Contender) -> Value {
        let mut bridge = json!({"type":"bridge","bridge":"br0","isDefaultGateway":true,
            "ipam":{"type":"host-local","subnet":"10.7.0.0/16"}});
        if self == Self::Bridge {
            return json!([bridge]);
        }
        bridge["ipMasq"] = true.into();
        let mut portmap = json!({"type":"portmap","capabilities":{"portMappings":true}});
        if let Contender::Go(backend) = contender {
            bridge["ipMasqBackend"] = backend.into();
            portmap["backend"] = backend.into();
        }
        // The Go firewall knows iptables alone.
        let firewall = has_firewall() && contender != Contender::Go("nftables");
        let firewall = firewall.then(|| json!({"type":"firewall"}));
        [bridge, portmap].into_iter().chain(firewall).collect()
    }
}

/// The contenders, then how many times faster each of ours is than each of the Go ones.
fn columns(contenders: &[Contender]) -> Vec<String> {
    let chain = if contenders.len() == 3 { Chain::Bridge } else { Chain::Full };
    let name = |contender: &Contender| contender.name(chain);
    let ratios = pairs(contenders).into_iter().map(|(ours, theirs)| {
        format!("{} / {}", name(&contenders[theirs]), name(&contenders[ours]).replace("Berth, ", ""))
    });
    contenders.iter().map(name).chain(ratios).collect()
}

/// Each of ours with each of theirs, by index.
fn pairs(contenders: &[Contender]) -> Vec<(usize, usize)> {
    let of = |ours: bool| (0..contenders.len()).filter(move |at| contenders[*at].is_ours() == ours);
    of(true).flat_map(|one| of(false).map(move |other| (one, other))).collect()
}

fn cells(contenders: &[Contender], samples: &[Vec<f64>], random: &mut Random) -> Vec<String> {
    let mut cells: Vec<String> = samples.iter().map(|samples| format!("{:.2} ms", median(samples))).collect();
    for (ours, theirs) in pairs(contenders) {
        let Ratio { median, low, high } = Ratio::of(&samples[theirs], &samples[ours], random);
        cells.push(format!("**{median:.1}** ({low:.1}–{high:.1})"));
    }
    cells
}

impl Places {
    fn find(containerd: &Containerd) -> Result<Places> {
        let directory = containerd.directory().join("network");
        let (ours, tools) = (directory.join("ours"), directory.join("tools"));
        fs::create_dir_all(&tools)?;
        let mut install = Command::new(version::shim()?);
        install.arg0("berth").args(["cni", "install", "--bin-dir"]).arg(&ours);
        berth_tests::command::run(&mut install, berth_tests::command::DEADLINE)?.success()?;
        let network = version::cache().join("network/usr");
        for name in
            ["iptables", "ip6tables", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"]
        {
            symlink(network.join("sbin/xtables-nft-multi"), tools.join(name))?;
        }
        Ok(Places {
            stage: stage()?,
            ours,
            go: version::cache().join("cni/usr/lib/cni"),
            iptables: tools,
            nft: network.join("sbin"),
            libraries: network.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)),
            directory,
        })
    }

    /// What the stage is told.
    fn play(&self, command: &mut Command, contender: Contender, chain: Chain, leases: usize, name: &str) {
        let bin_dir = if contender.is_ours() { &self.ours } else { &self.go };
        command.arg(self.directory.join(format!("{chain:?}-{name}"))).arg((contender == Contender::Inside).to_string());
        command.arg(bin_dir).arg(leases.to_string()).arg(chain.plugins(contender).to_string());
        // With iptables 1.8.9 at hand, the Go bridge fails to delete what it made by nftables.
        let iptables = (contender == Contender::Go("iptables")).then(|| self.iptables.display().to_string());
        let path = std::env::var("PATH").unwrap_or_default();
        let directories: Vec<_> = iptables.into_iter().chain([self.nft.display().to_string(), path]).collect();
        command.env("PATH", directories.join(":")).env("LD_LIBRARY_PATH", &self.libraries);
        command.env("XTABLES_LIBDIR", self.libraries.join("xtables"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    }
}

/// The program that attaches pods, as optimised as the shim.
fn stage() -> Result<PathBuf> {
    let release = Path::new("target").join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).join("release");
    let program = std::env::var_os("BERTH_STAGE").map_or_else(
        || version::workspace().join(release).join("examples/stage"),
        |named| version::workspace().join(named),
    );
    ensure!(program.exists(), "{} is not built: make bench builds it", program.display());
    Ok(program)
}

/// A contender at work.
struct Stage {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Stage {
    fn start(places: &Places, contender: Contender, chain: Chain, leases: usize, name: &str) -> Result<Stage> {
        let mut command = Command::new(&places.stage);
        places.play(&mut command, contender, chain, leases, name);
        let mut child = command.spawn().context("start the stage")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Stage { child, answers })
    }

    /// So many pods come and go at once.
    fn play(&mut self, count: usize) -> Result<[f64; 3]> {
        writeln!(self.child.stdin.as_mut().context("no stdin")?, "{count}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let times: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        times.try_into().map_err(|_| anyhow::anyhow!("the stage failed; what it said is above"))
    }

    /// It fails where something of the pods is left.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the stage ended with {status}; what it said is above");
        }
        Ok(())
    }
}

/// Which programs are executed for one ADD and one DEL.
fn programs(places: &Places, contender: Contender, chain: Chain) -> Result<String> {
    let trace = places.directory.join(format!("trace-{chain:?}-{contender:?}"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "200", "-e", "trace=execve,execveat", "-e", "signal=none", "-o"]).arg(&trace);
    command.arg(&places.stage);
    places.play(&mut command, contender, chain, LEASES[0], &format!("counted-{contender:?}"));
    let Ok(mut child) = command.stdout(Stdio::null()).spawn() else {
        return Ok("strace is not there: programs executed were not counted.".to_owned());
    };
    child.stdin.take().context("no stdin")?.write_all(b"1\n")?;
    ensure!(child.wait()?.success(), "the traced stage failed; what it said is above");
    let mut programs = counts::executed(&fs::read_to_string(&trace)?);
    programs.remove("stage");
    let mut text = format!(
        "Programs executed for one ADD and DEL, {}: {}",
        contender.name(chain),
        programs.values().sum::<usize>()
    );
    for (at, (program, count)) in programs.iter().enumerate() {
        write!(text, "{} {program} × {count}", if at == 0 { " –" } else { "," })?;
    }
    Ok(text + ".")
}
