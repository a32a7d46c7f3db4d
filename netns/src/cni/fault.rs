//! Errors in CNI's own format: a code for machines, a message and details for people, and whose it is.

use std::fmt;
use std::io;

use rustix::io::Errno;
use serde_json::{Map, Value};

use super::json::Fields;

/// The number of an error: CNI specification 1.1.0, section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// The versions of configuration and plugin do not meet.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field whose value is not supported.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// CNI_COMMAND, CNI_CONTAINERID and the like.
    pub const ENVIRONMENT: Self = Self(4);
    /// Input or output failed.
    pub const IO: Self = Self(5);
    /// What was read is not what it should be.
    pub const DECODE: Self = Self(6);
    /// The network's configuration is wrong.
    pub const CONFIG: Self = Self(7);
    /// The network namespace is unfit.
    pub const NETNS: Self = Self(8);
    /// Come back later.
    pub const TRY_AGAIN: Self = Self(11);
    /// STATUS: no ADD can succeed.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// Everything else.
    pub const INTERNAL: Self = Self(999);
}

/// Why a network operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// What kind.
    pub code: Code,
    /// In words.
    pub message: String,
    /// More of them; often empty.
    pub details: String,
    /// The type of the plugin and the command that it failed at, where it was one.
    pub plugin: Option<(String, &'static str)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((plugin, command)) = &self.plugin {
            write!(f, "plugin type={plugin:?} failed ({command}): ")?;
        }
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", self.details) }
    }
}

impl Fault {
    /// One without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new(), plugin: None }
    }

    /// The same, with more to say.
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }

    /// The same, of that plugin at that command. What a plugin said of another one, stays.
    pub(crate) fn of(self, plugin: &str, command: &'static str) -> Self {
        match self.plugin {
            Some(_) => self,
            None => Self { plugin: Some((plugin.to_owned(), command)), ..self },
        }
    }

    /// A system call's: `act` names what it was for.
    pub(crate) fn errno(act: impl fmt::Display, errno: Errno) -> Self {
        Self::new(Code::INTERNAL, format!("{act}: {errno}"))
    }

    /// A file's.
    pub(crate) fn io(act: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(Code::IO, format!("{act}: {error}"))
    }

    /// What a plugin prints when it fails.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("code".to_owned(), self.code.0.into());
        object.insert("msg".to_owned(), self.message.as_str().into());
        if !self.details.is_empty() {
            object.insert("details".to_owned(), self.details.as_str().into());
        }
        Value::Object(object)
    }

    /// What a plugin printed when it failed, if it is that.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let fields = Fields(value.as_object()?);
        let code = match fields.get("code") {
            Some(code) => u32::try_from(code.as_u64()?).ok()?,
            None => 0,
        };
        Some(Self {
            code: Code(code),
            message: fields.string("msg").ok()?.unwrap_or_default(),
            details: fields.string("details").ok()?.unwrap_or_default(),
            plugin: None,
        })
    }
}

impl From<crate::Error> for Fault {
    fn from(error: crate::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(Code::NETNS, format!("{error}{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_plugin_and_command_once() {
        let fault = Fault::new(Code::CONFIG, "no subnet").with_details("ranges is empty");
        let fault = fault.of("host-local", "add").of("bridge", "add");
        assert_eq!(fault.to_string(), "plugin type=\"host-local\" failed (add): no subnet; ranges is empty");
        let fault = Fault { plugin: None, ..fault };
        assert_eq!(Fault::from_json(&fault.to_json()), Some(fault));
    }
}
