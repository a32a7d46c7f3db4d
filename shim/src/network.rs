//! A container's network, where it is ours to make: asked for by options or annotations, and by nobody else made.
//!
//! ```text
//! Create: wish (pure) ─▶ bundle/network → record ─▶ namespace, ADD ─▶ files ─▶ the spec names them ─▶ container
//! Delete: container ─▶ DEL, namespace ─▶ record ─▶ bundle/network
//! delete: the same from bundle/network alone, if nobody owns the record
//! ```
//!
//! Wiring runs on the thread of Create or Delete, so that nothing else waits for it.

mod annotations;
mod error;
mod files;
mod wish;

pub use error::Error;
pub use wish::Wish;

use crate::options::Network as Options;
use annotations::Asked;
use files::Shown;
use netns::cni::conflist::NetworkList;
use netns::cni::fault::Fault;
use netns::cni::result::Outcome;
use netns::pod::{Pod, Pods, Wanted};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use runtime_core::children::Children;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// In a bundle: a link to the pod's record.
const LINK: &str = "network";
/// For `delete`, which containerd gives five seconds for everything.
const HURRY: Duration = Duration::from_secs(3);

/// A network that a container of this server has made, and others may share.
#[derive(Debug)]
pub struct Network {
    namespace: PathBuf,
    hostname: Option<String>,
    files: Vec<Shown>,
    link: PathBuf,
    /// None when it has been taken away.
    pod: Mutex<Option<Pod>>,
}

/// Whose network it will be.
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
}

impl Network {
    /// Makes the network and changes the spec to live in it. On error nothing is left.
    pub fn create(
        owner: &Owner<'_>,
        asked: &Asked,
        options: &Options,
        spec: &mut Spec,
        children: &Children,
    ) -> Result<Network, Error> {
        let networks = wish::attachments(asked, load(asked, options)?)?;
        let mut pods = Pods::new(&options.cache_dir);
        pods.timeout = options.patience();
        // As ctr and nerdctl name theirs.
        let id = format!("{}-{}", owner.namespace, owner.id);
        let link = owner.bundle.join(LINK);
        symlink(pods.path(&id), &link).map_err(|source| Error::Write { path: link.clone(), source })?;
        let wanted = Wanted {
            id,
            bundle: owner.bundle.to_owned(),
            bin_dirs: options.bin_dirs.clone(),
            native: options.native,
            networks,
        };
        // Plugins are children of this process that netns waits for itself.
        let made = children.apart(|| pods.create(wanted)).map_err(Error::from);
        let (pod, outcomes) = made.inspect_err(|_| unlink(&link))?;
        let hostname = asked.hostname.clone().or_else(|| spec.hostname().clone()).filter(|name| !name.is_empty());
        let shown = refuse_others(asked, pod.record().networks[0].0.name.as_str(), &outcomes)
            .and_then(|()| files::write(owner.bundle, &outcomes, &asked.dns, hostname.as_deref()));
        let namespace = pod.record().namespace.clone();
        let network = Network { namespace, hostname, files: Vec::new(), link, pod: Mutex::new(Some(pod)) };
        match shown {
            Ok(files) => {
                let network = Network { files, ..network };
                network.join(spec);
                Ok(network)
            }
            Err(error) => {
                // What stays has its record.
                let _ = network.remove(children);
                Err(error)
            }
        }
    }

    /// Changes a spec to live in the network.
    pub fn join(&self, spec: &mut Spec) {
        files::mount(&self.files, spec);
        let mut own_name = false;
        if let Some(namespaces) = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut()) {
            own_name = namespaces.iter().any(|one| one.typ() == LinuxNamespaceType::Uts && one.path().is_none());
            for namespace in namespaces.iter_mut().filter(|one| one.typ() == LinuxNamespaceType::Network) {
                namespace.set_path(Some(self.namespace.clone()));
            }
        }
        if own_name && spec.hostname().is_none() {
            spec.set_hostname(self.hostname.clone());
        }
    }

    /// Takes it away. On error its record stays, for `berth net gc`.
    pub fn remove(&self, children: &Children) -> Result<(), Fault> {
        let pod = self.pod.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(pod) = pod else { return Ok(()) };
        children.apart(|| pod.remove())?;
        unlink(&self.link);
        Ok(())
    }
}

fn unlink(link: &Path) {
    // It dangles, and goes with the bundle.
    let _ = std::fs::remove_file(link);
}

fn load(asked: &Asked, options: &Options) -> Result<Vec<NetworkList>, Error> {
    let names = if asked.networks.is_empty() { &options.networks } else { &asked.networks };
    if names.is_empty() {
        return Ok(NetworkList::load_first(&options.conf_dir, 1)?);
    }
    Ok(names.iter().map(|name| NetworkList::load(&options.conf_dir, name)).collect::<Result<_, _>>()?)
}

/// Not every plugin looks at what it is asked for.
fn refuse_others(asked: &Asked, network: &str, outcomes: &[Outcome]) -> Result<(), Error> {
    let refuse = |wanted: &str| Err(Error::NotGiven { network: network.to_owned(), wanted: wanted.to_owned() });
    let first = outcomes.first().cloned().unwrap_or_default();
    for wanted in &asked.ips {
        let address = wanted.split('/').next().unwrap_or(wanted).parse().ok();
        if !first.ips.iter().any(|ip| Some(ip.address.address) == address) {
            return refuse(wanted);
        }
    }
    match &asked.mac {
        Some(mac) if !first.interfaces.iter().any(|interface| interface.mac.eq_ignore_ascii_case(mac)) => refuse(mac),
        _ => Ok(()),
    }
}

/// Takes away what a dead server left of the network of a bundle's container. A live owner's is left alone.
pub fn clean_up(bundle: &Path) -> Result<(), Fault> {
    let link = bundle.join(LINK);
    let record = match std::fs::read_link(&link) {
        // None was made, or somebody else's file has the name.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => return Ok(()),
        record => record
            .map_err(|error| Fault::new(netns::cni::fault::Code::IO, format!("read {}: {error}", link.display())))?,
    };
    let (Some(cache_dir), Some(id)) = (record.ancestors().nth(2), record.file_stem().and_then(|id| id.to_str())) else {
        return Ok(());
    };
    let pods = Pods { timeout: HURRY, ..Pods::new(cache_dir) };
    if let Some(pod) = pods.open(id)? {
        pod.remove()?;
    }
    unlink(&link);
    Ok(())
}
