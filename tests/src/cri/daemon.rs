//! A daemon whose CRI plugin runs: handlers `berth` and `runc`, the two images, and a network for pods.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Cri;
use crate::command::poll;
use crate::containerd::{Config, Containerd, IMAGE};
use crate::image::PAUSE;
use crate::scene::Runtime;
use crate::version::{self, Version};

/// containerd's namespace of all that CRI makes.
pub const NAMESPACE: &str = "k8s.io";

/// Starts a daemon that is ready for pods.
pub fn start(version: Version) -> Result<Containerd> {
    start_with(version, |containerd| network(containerd.directory()))
}

/// The same, with a network that is the caller's: plugins in `cni/bin` and a configuration in `cni/net.d`, below the
/// daemon's directory.
pub fn start_with(version: Version, network: impl FnOnce(&Containerd) -> Result<()>) -> Result<Containerd> {
    let containerd = Containerd::start(version, &Config { cri: true, extra: settings(version)?, env: Vec::new() })?;
    containerd.import(NAMESPACE)?;
    network(&containerd).context("set up the pods' network")?;
    let cri = Cri::new(&containerd.socket())?;
    // The images come to CRI by events, the network by a watch on its directory.
    let ready = poll(Duration::from_secs(20), || {
        let network = cri.conditions().ok()?.iter().any(|c| c.r#type == "NetworkReady" && c.status);
        let images = [IMAGE, PAUSE].iter().all(|image| cri.has_image(image).unwrap_or_default());
        (network && images).then_some(())
    });
    ready.with_context(|| {
        format!("CRI of {version} did not see its images and network; its log:\n{}", containerd.log(""))
    })?;
    Ok(containerd)
}

/// The CRI plugin's settings. The daemon's working directory is its own, so `cni` is below it. The handler `berth` is that
/// of the file in `examples/containerd`, as a user would merge it. Beside it and `runc` there is Berth with options, which
/// come to it as TOML in a runtimeoptions.v1.Options, and Berth by its path under runc's name, which gets runc's Options.
fn settings(version: Version) -> Result<String> {
    let (berth, path) = (Runtime::Berth.name(), version::shim()?);
    let path = path.display();
    let streams = "stream_server_address = \"127.0.0.1\"\n  stream_server_port = \"0\"";
    // What 1.x has in one table, 2.x has in three.
    let (plugin, head, bins) = match version {
        Version::V1_6 | Version::V1_7 => (
            "io.containerd.grpc.v1.cri",
            format!("[plugins.'io.containerd.grpc.v1.cri']\n  sandbox_image = \"{PAUSE}\"\n  {streams}"),
            "bin_dir = \"cni/bin\"",
        ),
        Version::V2 => (
            "io.containerd.cri.v1.runtime",
            format!(
                "[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = \"{PAUSE}\"\n\
                 [plugins.'io.containerd.grpc.v1.cri']\n  {streams}\n[plugins.'io.containerd.cri.v1.runtime']"
            ),
            "bin_dirs = [\"cni/bin\"]",
        ),
    };
    let example = example(version)?.replace("io.containerd.berth.v2", &berth);
    Ok(format!(
        r#"
{head}
  restrict_oom_score_adj = true
  [plugins.'{plugin}'.cni]
    {bins}
    conf_dir = "cni/net.d"
  [plugins.'{plugin}'.containerd]
    default_runtime_name = "runc"
    [plugins.'{plugin}'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins.'{plugin}'.containerd.runtimes.berth-options]
      runtime_type = "{berth}"
      [plugins.'{plugin}'.containerd.runtimes.berth-options.options]
        NoNewKeyring = true
        SystemdCgroup = false
        Unheard = "of"
        # A pod's namespace is wired already: nothing is looked for there.
        [plugins.'{plugin}'.containerd.runtimes.berth-options.options.network]
          mode = "cni"
          conf_dir = "/not/there"
    [plugins.'{plugin}'.containerd.runtimes.berth-path]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = "{path}"
      [plugins.'{plugin}'.containerd.runtimes.berth-path.options]
        NoNewKeyring = true
{example}"#
    ))
}

/// The example that users merge into their configuration, but for its version, which the daemon's has said already.
fn example(version: Version) -> Result<String> {
    let name = match version {
        Version::V1_6 => "config-1.6.toml",
        Version::V1_7 => "config-1.7.toml",
        Version::V2 => "config-2.toml",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/containerd").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().filter(|line| !line.starts_with("version")).collect::<Vec<_>>().join("\n"))
}

/// A network that reaches nothing: `eth0` is one end of a pair whose other end is in the same namespace. CRI wants an
/// interface of that name with an address, and a plugin for `lo`; this script is both.
fn network(directory: &Path) -> Result<()> {
    let script = format!(
        r#"#!/bin/sh
busybox={busybox}
[ "$CNI_COMMAND" = VERSION ] && echo '{{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}}'
[ "$CNI_COMMAND" = ADD ] || exit 0
version=$($busybox sed -n 's/.*"cniVersion" *: *"\([^"]*\)".*/\1/p')
inside() {{ $busybox nsenter --net="$CNI_NETNS" "$@"; }}
address=127.0.0.1/8
if [ "$CNI_IFNAME" != lo ]; then
    address=10.88.0.2/24
    inside ip link add "$CNI_IFNAME" type veth peer name peer0 >&2
    inside $busybox ip addr add $address dev "$CNI_IFNAME" >&2
fi
inside $busybox ip link set "$CNI_IFNAME" up >&2
echo "{{\"cniVersion\":\"$version\",\"interfaces\":[{{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}}],\
\"ips\":[{{\"version\":\"4\",\"interface\":0,\"address\":\"$address\"}}]}}"
"#,
        busybox = version::busybox().display()
    );
    let programs = directory.join("cni/bin");
    fs::create_dir_all(&programs)?;
    for name in ["loopback", "pair"] {
        fs::write(programs.join(name), &script)?;
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755))?;
    }
    configure(directory, r#"{"cniVersion":"0.4.0","name":"pods","plugins":[{"type":"pair"}]}"#)
}

/// The pods' network from now on.
pub fn configure(directory: &Path, list: &str) -> Result<()> {
    let settings = directory.join("cni/net.d");
    fs::create_dir_all(&settings)?;
    // Renamed into place, so that the watch never reads half of it.
    fs::write(settings.join("10-pods.part"), list)?;
    fs::rename(settings.join("10-pods.part"), settings.join("10-pods.conflist"))?;
    Ok(())
}
