//! A plugin as a process of its own, what pkg/skel is to the Go plugins: the environment and standard input say what to
//! do, standard output has the answer, and an error is JSON there with exit code 1.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Map, Value, json};

use super::fault::{Code, Fault};
use super::version::Version;
use crate::Afterwards;
use crate::plugin::{self, Call, Command, Native, Places, parse_args, validate};

/// The version of the Go plugins whose behaviour ours have. Whoever asks a plugin who it is wants to know what it can:
/// nerdctl, for one, isolates bridges only where firewall is new enough.
const LIKE: &str = "1.9.1";

/// Names the plugin that has been handed over. The next of ours must not hand over again: two copies of our program in
/// two directories would do so for ever.
const HANDED_OVER: &str = "BERTH_CNI_HANDED_OVER";

/// Whoever executes a plugin has his own patience.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the environment asks for.
#[derive(Debug, PartialEq)]
enum Asked {
    /// Nothing: somebody wants to know who this is.
    About,
    Version,
    Call(Request),
}

/// A call, as it came.
#[derive(Debug, PartialEq)]
struct Request {
    command: Command,
    container_id: String,
    netns: String,
    if_name: String,
    args: Vec<(String, String)>,
    bin_dirs: Vec<PathBuf>,
    /// CNI_NETNS may be the namespace where we are.
    any_netns: bool,
    config: Map<String, Value>,
    input: Vec<u8>,
}

/// Answers as the plugin of that name; None: it is none of ours.
pub fn run(name: &OsStr) -> Option<ExitCode> {
    let native = plugin::native(name.to_str()?)?;
    let environment = |name: &str| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
    let input = || {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    };
    let afterwards = Afterwards::default();
    let answered = asked(environment, input).and_then(|asked| match asked {
        Asked::About => {
            eprint!("{}", about(native));
            Ok(String::new())
        }
        Asked::Version => Ok(format!("{}\n", versions(native))),
        Asked::Call(request) => request.answer(native, &afterwards),
    });
    let (text, code) = match answered {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(fault) => (format!("{:#}\n", fault.to_json()), ExitCode::FAILURE),
    };
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    afterwards.detach();
    Some(match written {
        Ok(()) => code,
        Err(error) => {
            eprintln!("write the answer: {error}");
            ExitCode::FAILURE
        }
    })
}

fn about(native: &Native) -> String {
    let versions: Vec<_> = native.versions().collect();
    format!(
        "CNI {} plugin v{LIKE}\nCNI protocol versions supported: {}\nBerth {}\n",
        native.kind(),
        versions.join(", "),
        env!("CARGO_PKG_VERSION")
    )
}

fn versions(native: &Native) -> Value {
    let versions: Vec<_> = native.versions().collect();
    json!({ "cniVersion": Version::NEWEST.to_string(), "supportedVersions": versions })
}

/// What is asked for; the environment is looked at before standard input is read.
fn asked(environment: impl Fn(&str) -> String, input: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Asked, Fault> {
    let command = environment("CNI_COMMAND");
    match command.as_str() {
        "" => return Ok(Asked::About),
        "VERSION" => return Ok(Asked::Version),
        _ => {}
    }
    let unknown = || Fault::new(Code::ENVIRONMENT, format!("unknown CNI_COMMAND: {command}"));
    let command = Command::parse(&command).ok_or_else(unknown)?;
    let variables = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].map(&environment);
    let [container_id, netns, if_name, path] = variables;
    validate::complete(command, &[("CNI_PATH", &path)], &container_id, &netns, &if_name)?;
    let input = input().map_err(|error| Fault::io("error reading from stdin", &error))?;
    let config = serde_json::from_slice(&input)
        .map_err(|error| Fault::new(Code::DECODE, format!("error unmarshall network config: {error}")))?;
    Ok(Asked::Call(Request {
        command,
        container_id,
        netns,
        if_name,
        args: parse_args(&environment("CNI_ARGS"))?,
        bin_dirs: std::env::split_paths(&path).collect(),
        any_netns: matches!(environment("CNI_NETNS_OVERRIDE").to_uppercase().as_str(), "1" | "TRUE"),
        config,
        input,
    }))
}

impl Request {
    /// Does it, here or by the binary that can, and answers what is to be printed.
    fn answer(&self, native: &Native, afterwards: &Afterwards) -> Result<String, Fault> {
        let call = Call {
            command: self.command,
            container_id: &self.container_id,
            netns: &self.netns,
            if_name: &self.if_name,
            args: &self.args,
            config: &self.config,
            bin_dirs: &self.bin_dirs,
            native: true,
            places: &Places::default(),
            deadline: Instant::now() + PATIENCE,
            afterwards,
        };
        validate::valid_network_name(&call.network()?)?;
        let handed_over = std::env::var_os(HANDED_OVER).is_some_and(|kind| kind == native.kind());
        if let Some(other) = native.other(&call).filter(|_| !handed_over) {
            return Err(self.hand_over(native, &other));
        }
        // The Go plugins say so when the harm is done.
        if !self.any_netns && is_own_namespace(&self.netns) {
            let message = "plugin's netns and netns from CNI_NETNS should not be the same";
            return Err(Fault::new(Code::NETNS, message));
        }
        match native.run(&call)? {
            Some(outcome) => Ok(format!("{:#}\n", outcome.to_json(&call.version()?)?)),
            None => Ok(String::new()),
        }
    }

    /// Becomes the other binary, with the same environment and the same input; answers why that failed.
    fn hand_over(&self, native: &Native, other: &Path) -> Fault {
        let input = || -> io::Result<File> {
            let mut file = File::from(memfd_create("cni", MemfdFlags::CLOEXEC)?);
            file.write_all(&self.input)?;
            file.rewind()?;
            Ok(file)
        };
        let error = match input() {
            Ok(input) => process::Command::new(other).stdin(input).env(HANDED_OVER, native.kind()).exec(),
            Err(error) => error,
        };
        Fault::io(format!("run {}", other.display()), &error)
    }
}

/// Whether a path is the network namespace where we are.
fn is_own_namespace(path: &str) -> bool {
    let identity = |path: &str| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(path).is_some_and(|its| Some(its) == identity("/proc/thread-self/ns/net"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "pod"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/a:/b"),
    ];

    fn ask(variables: &[(&str, &str)], input: &str) -> Result<Asked, Fault> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let environment = move |name: &str| {
            variables.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        asked(environment, || Ok(input.as_bytes().to_vec()))
    }

    /// The environment of an ADD with one variable changed.
    fn but(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        ADD.into_iter().chain([(name, value)]).collect()
    }

    #[test]
    fn a_request_is_environment_and_input() {
        let mut variables = but("CNI_ARGS", "IgnoreUnknown=1;IP=10.0.0.9");
        variables.push(("CNI_NETNS_OVERRIDE", "true"));
        let Ok(Asked::Call(request)) = ask(&variables, r#"{"name":"net","x":1}"#) else { panic!("no request") };
        assert_eq!(request.command, Command::Add);
        assert_eq!(request.bin_dirs, [Path::new("/a"), Path::new("/b")]);
        assert_eq!(request.args[1], ("IP".to_owned(), "10.0.0.9".to_owned()));
        assert_eq!(request.config["x"], 1);
        assert!(request.any_netns);
    }

    #[test]
    fn who_asks_nothing_wants_to_know_who_this_is() {
        assert_eq!(ask(&[], "").unwrap(), Asked::About);
        assert_eq!(ask(&[("CNI_COMMAND", "VERSION")], "").unwrap(), Asked::Version);
        let text = about(plugin::native("bridge").unwrap());
        assert!(text.starts_with("CNI bridge plugin v1.9.1\nCNI protocol versions supported: 0.1.0, 0.2.0, "));
        let versions = versions(plugin::native("loopback").unwrap());
        assert_eq!(versions["cniVersion"], "1.1.0");
        assert_eq!(versions["supportedVersions"][6], "1.1.0");
    }

    #[test]
    fn each_command_needs_its_own_variables() {
        for (command, missing) in [
            ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
            ("GC", "CNI_PATH"),
            ("STATUS", "CNI_PATH"),
        ] {
            let fault = ask(&[("CNI_COMMAND", command)], "{}").unwrap_err();
            assert_eq!(fault.code, Code::ENVIRONMENT);
            assert_eq!(fault.message, format!("required env variables [{missing}] missing"));
        }
    }

    #[test]
    fn bad_requests_have_skels_codes() {
        for (name, value, code) in [
            ("CNI_COMMAND", "PAINT", Code::ENVIRONMENT),
            ("CNI_CONTAINERID", "a/b", Code::ENVIRONMENT),
            ("CNI_IFNAME", "sixteen-letters-", Code::ENVIRONMENT),
            ("CNI_ARGS", "a=b=c", Code::ENVIRONMENT),
        ] {
            assert_eq!(ask(&but(name, value), r#"{"name":"net"}"#).unwrap_err().code, code, "{name}={value}");
        }
        assert_eq!(ask(&ADD, "[]").unwrap_err().code, Code::DECODE);
        assert_eq!(ask(&ADD, "").unwrap_err().code, Code::DECODE);
        for (config, code) in [
            (r#"{}"#, Code::CONFIG),
            (r#"{"name":"a b"}"#, Code::CONFIG),
            (r#"{"name":7}"#, Code::DECODE),
            (r#"{"name":"net","cniVersion":"7.0.0"}"#, Code::INCOMPATIBLE_VERSION),
        ] {
            let Ok(Asked::Call(request)) = ask(&ADD, config) else { panic!("{config}") };
            assert_eq!(
                request.answer(plugin::native("loopback").unwrap(), &Afterwards::default()).unwrap_err().code,
                code,
                "{config}"
            );
        }
        let Ok(Asked::Call(request)) = ask(&but("CNI_COMMAND", "CHECK"), r#"{"name":"net","cniVersion":"0.3.1"}"#)
        else {
            panic!("no request")
        };
        let fault = request.answer(plugin::native("loopback").unwrap(), &Afterwards::default()).unwrap_err();
        assert_eq!(
            (fault.code, fault.message.as_str()),
            (Code::INCOMPATIBLE_VERSION, "config version does not allow CHECK")
        );
    }

    #[test]
    fn the_own_namespace_is_never_wired() {
        let Ok(Asked::Call(request)) = ask(&but("CNI_NETNS", "/proc/self/ns/net"), r#"{"name":"net"}"#) else {
            panic!("no request")
        };
        let fault = request.answer(plugin::native("loopback").unwrap(), &Afterwards::default()).unwrap_err();
        assert_eq!(fault.code, Code::NETNS);
    }
}
