//! What every plugin's frame refuses before the plugin is asked, in the words of cni's pkg/skel.

use super::{Call, Command, Native};
use crate::cni::fault::{Code, Fault};
use crate::cni::version::Version;

impl Call<'_> {
    /// The version, the network's name, and what the command has to be told.
    pub(super) fn validate(&self, native: &Native) -> Result<(), Fault> {
        let version = self.version()?;
        let spoken = if version.is_empty() { "0.1.0" } else { &version };
        if !native.versions().any(|known| known == spoken) {
            let known: Vec<_> = native.versions().collect();
            let details = format!("config is {spoken:?}, plugin supports {known:?}");
            return Err(Fault::new(Code::INCOMPATIBLE_VERSION, "incompatible CNI versions").with_details(details));
        }
        if Version::parse(spoken)? < self.command.since() {
            let message = format!("config version does not allow {}", self.command.name());
            return Err(Fault::new(Code::INCOMPATIBLE_VERSION, message));
        }
        valid_network_name(&self.network()?)?;
        complete(self.command, &[], self.container_id, self.netns, self.if_name)
    }
}

/// Whether a command is told what it needs. `also`: further variables that no command does without.
pub(crate) fn complete(
    command: Command,
    also: &[(&str, &str)],
    container_id: &str,
    netns: &str,
    if_name: &str,
) -> Result<(), Fault> {
    let attached = matches!(command, Command::Add | Command::Delete | Command::Check);
    let of_attachment = [
        ("CNI_CONTAINERID", container_id, attached),
        ("CNI_NETNS", netns, attached && command != Command::Delete),
        ("CNI_IFNAME", if_name, attached),
    ];
    let required = of_attachment.into_iter().chain(also.iter().map(|(name, value)| (*name, *value, true)));
    let missing: Vec<_> =
        required.filter(|(_, value, needed)| *needed && value.is_empty()).map(|(name, ..)| name).collect();
    if !missing.is_empty() {
        let message = format!("required env variables [{}] missing", missing.join(","));
        return Err(Fault::new(Code::ENVIRONMENT, message));
    }
    if attached {
        valid_container_id(container_id)?;
        valid_interface_name(if_name)?;
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().next().is_some_and(plain) && text.bytes().all(|byte| plain(byte) || b"_.-".contains(&byte))
}

pub(crate) fn valid_container_id(id: &str) -> Result<(), Fault> {
    if is_name(id) {
        return Ok(());
    }
    Err(Fault::new(Code::ENVIRONMENT, format!("invalid characters in containerID {id:?}")))
}

pub(crate) fn valid_network_name(name: &str) -> Result<(), Fault> {
    if is_name(name) {
        return Ok(());
    }
    Err(Fault::new(Code::CONFIG, format!("invalid characters found in network name {name:?}")))
}

pub(crate) fn valid_interface_name(name: &str) -> Result<(), Fault> {
    let bad = |letter: char| letter == '/' || letter == ':' || letter.is_whitespace() || letter == '\0';
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Fault::new(Code::ENVIRONMENT, format!("invalid interface name {name:?}")));
    }
    Ok(())
}
