//! systemd's manager, on the system bus. org.freedesktop.systemd1(5)

use std::time::{Duration, Instant};

use rustbus::connection::Timeout;
use rustbus::connection::ll_conn::force_finish_on_error;
use rustbus::message_builder::{MarshalledMessage, MarshalledMessageBody};
use rustbus::wire::ObjectPath;
use rustbus::wire::errors::MarshalError;
use rustbus::{MessageBuilder, MessageType, RpcConn, standard_messages};

use super::properties::Property;

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The sender is left out: it is a unique name in the signal, which is no use to filter by before it is known.
const JOBS: &str = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
/// How long an answer, or a job, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// systemd is not what runs this host.
    #[error("systemd does not run here: /run/systemd/system is missing")]
    NoSystemd,
    /// The system bus.
    #[error("the system bus: {0}")]
    Bus(#[from] rustbus::connection::Error),
    /// A message that could not be written.
    #[error("the system bus: {0}")]
    Message(#[from] MarshalError),
    /// An answer that is none.
    #[error("the system bus: the answer to {method} cannot be read")]
    Answer {
        /// What was called.
        method: &'static str,
    },
    /// It said no.
    #[error("{message}")]
    Refused {
        /// By D-Bus' name for it.
        name: String,
        /// In systemd's words.
        message: String,
    },
    /// It tried.
    #[error("its job ended with {result:?}")]
    Job {
        /// `failed`, `canceled`, `timeout`, …
        result: String,
    },
}

impl Error {
    /// Whether systemd's error has this name.
    pub(in crate::cgroup) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name.strip_prefix(SERVICE) == Some(wanted))
    }
}

/// A connection to systemd.
pub(super) struct Manager {
    bus: RpcConn,
    /// systemd tells us of jobs.
    subscribed: bool,
}

impl Manager {
    /// Connects.
    pub(super) fn connect() -> Result<Self, Error> {
        // sd_booted(3)
        if !std::path::Path::new("/run/systemd/system").is_dir() {
            return Err(Error::NoSystemd);
        }
        Ok(Self { bus: RpcConn::system_conn(Timeout::Duration(PATIENCE))?, subscribed: false })
    }

    /// systemd's version; zero if it says nothing of the kind.
    pub(super) fn version(&mut self) -> Result<u32, Error> {
        let mut call = MessageBuilder::new().call("Get").at(SERVICE).on(OBJECT);
        call = call.with_interface("org.freedesktop.DBus.Properties");
        let mut call = call.build();
        call.body.push_param2(MANAGER, "Version")?;
        let answer = self.send(&mut call)?;
        let version = answer.body.parser().get::<rustbus::wire::unmarshal::traits::Variant<'_, '_>>();
        let text = version.ok().and_then(|version| version.get::<String>().ok()).unwrap_or_default();
        // `257`, `257.9-1~deb13u1`, `v252-rc1`
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// Starts a transient unit, and returns when it has started.
    pub(super) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let no_others: &[(&str, &[Property])] = &[];
        self.job("StartTransientUnit", |body| {
            body.push_param2(unit, "fail")?;
            body.push_param2(properties, no_others)
        })
    }

    /// Stops a unit, and returns when it has stopped.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), Error> {
        self.job("StopUnit", |body| body.push_param2(unit, "replace"))
    }

    /// Has a failed unit forgotten.
    pub(super) fn reset_failed(&mut self, unit: &str) -> Result<(), Error> {
        self.call("ResetFailedUnit", |body| body.push_param(unit)).map(drop)
    }

    /// Changes properties until the next boot, and returns when they are in force.
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        const RUNTIME: bool = true;
        self.call("SetUnitProperties", |body| body.push_param3(unit, RUNTIME, properties))?;
        // The answer comes when they are known; the cgroup's files are written before the next message is read.
        self.call("GetUnit", |body| body.push_param(unit)).map(drop)
    }

    /// Calls a method that answers with a job, and waits for the job's end.
    fn job(
        &mut self,
        method: &'static str,
        arguments: impl FnOnce(&mut MarshalledMessageBody) -> Result<(), MarshalError>,
    ) -> Result<(), Error> {
        if !self.subscribed {
            self.send(&mut standard_messages::add_match(JOBS))?;
            self.call("Subscribe", |_| Ok(()))?;
            self.subscribed = true;
        }
        let answer = self.call(method, arguments)?;
        let job = answer.body.parser().get::<ObjectPath<&str>>().map_err(|_| Error::Answer { method })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let signal = self.bus.wait_signal(Timeout::Duration(left))?;
            if signal.dynheader.member.as_deref() != Some("JobRemoved") {
                continue;
            }
            let removed = signal.body.parser().get4::<u32, ObjectPath<&str>, &str, &str>();
            match removed.map_err(|_| Error::Answer { method })? {
                (_, removed, ..) if removed != job => {}
                (.., "done") => return Ok(()),
                (.., result) => return Err(Error::Job { result: result.to_owned() }),
            }
        }
    }

    fn call(
        &mut self,
        method: &'static str,
        arguments: impl FnOnce(&mut MarshalledMessageBody) -> Result<(), MarshalError>,
    ) -> Result<MarshalledMessage, Error> {
        let mut call = MessageBuilder::new().call(method).at(SERVICE).on(OBJECT).with_interface(MANAGER).build();
        arguments(&mut call.body)?;
        self.send(&mut call)
    }

    fn send(&mut self, call: &mut MarshalledMessage) -> Result<MarshalledMessage, Error> {
        let sending = self.bus.send_message(call)?;
        let serial = sending.write_all().map_err(force_finish_on_error)?;
        let answer = self.bus.wait_response(serial, Timeout::Duration(PATIENCE))?;
        if answer.typ != MessageType::Error {
            return Ok(answer);
        }
        let message = answer.body.parser().get::<&str>().unwrap_or_default().to_owned();
        Err(Error::Refused { name: answer.dynheader.error_name.unwrap_or_default(), message })
    }
}
