//! The command line containerd gives a shim: Go's single-dash flags, then one action.

use std::ffi::OsString;
use std::path::PathBuf;

/// What we were started to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make sure that a server runs for the container's group, and print its address.
    Start,
    /// Clean up after a shim that is gone, from what is on disk.
    Delete,
    /// Be the server.
    Serve,
    /// Print a `RuntimeInfo`.
    Info,
    /// Print the version.
    Version,
}

/// The parsed command line. A flag that was not given is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// `-namespace`: containerd's namespace.
    pub namespace: String,
    /// `-id`: the container.
    pub id: String,
    /// `-address`: containerd's gRPC socket.
    pub address: String,
    /// `-bundle`: given to `delete`, elsewhere it is the working directory.
    pub bundle: Option<PathBuf>,
    /// `-socket`: where the server listens, given by `start` so that the server can remove it.
    pub socket: Option<PathBuf>,
    /// `-debug`: log more.
    pub debug: bool,
    /// The action.
    pub action: Action,
    /// Flags that nobody here knows. Go's parser would refuse them; a newer containerd may send them.
    pub unknown: Vec<String>,
}

/// A command line that we cannot act upon.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A flag at the end of the line, without its value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// The word after the flags is none of ours.
    #[error("unknown action {0:?}, expected start, delete or serve")]
    UnknownAction(String),
}

const ACTIONS: [&str; 3] = ["start", "delete", "serve"];

/// Parses the arguments that follow the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Args, Error> {
    let mut args = Args {
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        bundle: None,
        socket: None,
        debug: false,
        action: Action::Serve,
        unknown: Vec::new(),
    };
    let mut asked = None;
    let mut rest = arguments.into_iter().map(|word| word.to_string_lossy().into_owned()).peekable();
    while let Some(word) = rest.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|flag| !flag.is_empty())
        else {
            args.action = action(&word)?;
            break;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || inline.clone().or_else(|| rest.next()).ok_or_else(|| Error::NoValue(name.to_owned()));
        match name {
            "namespace" => args.namespace = value()?,
            "id" => args.id = value()?,
            "address" => args.address = value()?,
            // containerd's own binary, for publishing events by exec; ours go over ttrpc.
            "publish-binary" => drop(value()?),
            "bundle" => args.bundle = Some(value()?).filter(|path| !path.is_empty()).map(PathBuf::from),
            "socket" => args.socket = Some(value()?).filter(|path| !path.is_empty()).map(PathBuf::from),
            "debug" => args.debug = is_true(inline.as_deref()),
            "v" | "version" if is_true(inline.as_deref()) => asked = Some(Action::Version),
            "info" if is_true(inline.as_deref()) => asked = Some(Action::Info),
            "v" | "version" | "info" => {}
            _ => {
                args.unknown.push(name.to_owned());
                // A word that is neither a flag nor an action can only be this flag's value.
                if inline.is_none() && rest.peek().is_some_and(|next| is_value(next)) {
                    rest.next();
                }
            }
        }
    }
    args.action = asked.unwrap_or(args.action);
    Ok(args)
}

fn is_value(word: &str) -> bool {
    !word.starts_with('-') && !ACTIONS.contains(&word)
}

fn is_true(value: Option<&str>) -> bool {
    !matches!(value, Some("0" | "f" | "F" | "false" | "FALSE" | "False"))
}

fn action(word: &str) -> Result<Action, Error> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        "serve" | "" => Ok(Action::Serve),
        _ => Err(Error::UnknownAction(word.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, Error> {
        super::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerd_1_6_start_line() {
        let args = parse("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id web start");
        let args = args.unwrap();
        assert_eq!(
            (args.namespace.as_str(), args.id.as_str(), args.address.as_str()),
            ("k8s.io", "web", "/run/c.sock")
        );
        assert_eq!((args.action, args.debug), (Action::Start, false));
    }

    #[test]
    fn delete_line_has_a_bundle() {
        let args = parse("-namespace d -id=web --bundle=/run/b -debug delete").unwrap();
        assert_eq!((args.bundle, args.action, args.debug), (Some(PathBuf::from("/run/b")), Action::Delete, true));
    }

    #[test]
    fn unknown_flags_are_ignored_with_their_values() {
        let args = parse("-new thing -other=1 -flag -id web start").unwrap();
        assert_eq!((args.id.as_str(), args.action), ("web", Action::Start));
        assert_eq!(args.unknown, ["new", "other", "flag"]);
        assert_eq!(parse("-flag start").unwrap().action, Action::Start);
    }

    #[test]
    fn no_action_is_serve() {
        assert_eq!(parse("-id web").unwrap().action, Action::Serve);
    }

    #[test]
    fn version_and_info_win_over_the_action() {
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info start").unwrap().action, Action::Info);
        assert_eq!(parse("-info=false start").unwrap().action, Action::Start);
    }

    #[test]
    fn bad_lines_are_refused() {
        assert_eq!(parse("-id"), Err(Error::NoValue("id".into())));
        assert_eq!(parse("restart"), Err(Error::UnknownAction("restart".into())));
    }
}
