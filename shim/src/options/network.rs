//! `[network]`: whether containers get a network from us, and how.

use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Who makes a container's network.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not us.
    #[default]
    None,
    /// We, by CNI; for a container of a pod that has one, it is the pod's.
    Cni,
    /// It is that of the pod that the container belongs to.
    Pod,
}

/// The table. A key that is not among these is a mistake.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// For containers whose annotations do not say.
    pub mode: Mode,
    /// The networks' names; none: the first of `conf_dir` by file name.
    pub networks: Vec<String>,
    /// Where networks' configurations are.
    pub conf_dir: PathBuf,
    /// Where plugins' binaries are, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// What is attached. One of our own: whoever shares it shares garbage collection.
    pub cache_dir: PathBuf,
    /// Plugins that we have ourselves run in this process.
    pub native: bool,
    /// How many seconds one plugin may take.
    pub timeout: u32,
}

/// Where records of pods and results are unless the options say otherwise; `berth net` looks there.
pub const CACHE_DIR: &str = "/var/lib/berth/cni";

impl Default for Network {
    fn default() -> Network {
        Network {
            mode: Mode::None,
            networks: Vec::new(),
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: CACHE_DIR.into(),
            native: true,
            timeout: 60,
        }
    }
}

impl Network {
    /// How long one plugin may take.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}
