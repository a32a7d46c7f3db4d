//! What containerd says about a process's stdio, as values. Pure.

use std::path::PathBuf;

use super::Error;

/// Where the output of a process goes. The scheme of stdout's URI decides for all of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// Nowhere: every stream is /dev/null.
    Null,
    /// To a fifo (or a file that exists) per stream; a stream without one is /dev/null.
    Streams { stdout: Option<PathBuf>, stderr: Option<PathBuf> },
    /// Both into one file, which is created.
    File(PathBuf),
    /// To a logging process.
    Logger(LoggerCommand),
}

/// How a logging process is started.
#[derive(Debug, PartialEq, Eq)]
pub struct LoggerCommand {
    /// The program, from the URI's path.
    pub program: PathBuf,
    /// Keys and values of the URI's query, in turn; of a repeated key the first.
    pub arguments: Vec<String>,
    /// `binary-v2`: closing the wait pipe without a byte means failure, not readiness.
    pub must_say_ready: bool,
}

impl Route {
    /// Reads the three strings of a Create or Exec request.
    pub fn parse(stdin: &str, stdout: &str, stderr: &str) -> Result<Self, Error> {
        if stdin.is_empty() && stdout.is_empty() && stderr.is_empty() {
            return Ok(Self::Null);
        }
        let (scheme, rest) = split_scheme(stdout);
        match scheme.as_deref() {
            None | Some("fifo") => Ok(Self::Streams { stdout: path(stdout)?, stderr: path(stderr)? }),
            Some("file") => Ok(Self::File(url_path(rest, stdout)?)),
            Some("binary") => Ok(Self::Logger(logger(rest, stdout, false)?)),
            Some("binary-v2") => Ok(Self::Logger(logger(rest, stdout, true)?)),
            Some(scheme) => Err(Error::Scheme { scheme: scheme.to_owned() }),
        }
    }
}

/// The path that a stream's string names, with or without `fifo://`; none where it is empty.
pub fn path(stream: &str) -> Result<Option<PathBuf>, Error> {
    match split_scheme(stream) {
        _ if stream.is_empty() => Ok(None),
        (Some(scheme), rest) if scheme == "fifo" => url_path(rest, stream).map(Some),
        _ => Ok(Some(PathBuf::from(stream))),
    }
}

/// RFC 3986 section 3.1: a letter, then letters, digits, `+`, `-` and `.`, up to the colon.
fn split_scheme(uri: &str) -> (Option<String>, &str) {
    let Some((scheme, rest)) = uri.split_once(':') else { return (None, uri) };
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if valid { (Some(scheme.to_ascii_lowercase()), rest) } else { (None, uri) }
}

fn logger(rest: &str, uri: &str, must_say_ready: bool) -> Result<LoggerCommand, Error> {
    let program = url_path(rest, uri)?;
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, true).ok_or_else(|| Error::Uri { uri: uri.to_owned() })?;
        let value = decode(value, true).ok_or_else(|| Error::Uri { uri: uri.to_owned() })?;
        if !pairs.iter().any(|(known, _)| *known == key) {
            pairs.push((key, value));
        }
    }
    let arguments = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
    Ok(LoggerCommand { program, arguments, must_say_ready })
}

/// The absolute path of `//<host><path>[?…][#…]`; a host is skipped, as Go's shim does.
fn url_path(rest: &str, uri: &str) -> Result<PathBuf, Error> {
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let hierarchy = &rest[..end];
    let path = match hierarchy.strip_prefix("//") {
        Some(authority) => authority.find('/').map_or("", |slash| &authority[slash..]),
        None => hierarchy,
    };
    match decode(path, false) {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(Error::Uri { uri: uri.to_owned() }),
    }
}

/// Undoes percent-encoding, and `+` for a space in a query. None where an escape is broken or the result is not UTF-8.
fn decode(text: &str, query: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(stdout: &str, stderr: &str) -> Route {
        let some = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        Route::Streams { stdout: some(stdout), stderr: some(stderr) }
    }

    #[test]
    fn all_empty_is_null() {
        assert_eq!(Route::parse("", "", "").unwrap(), Route::Null);
    }

    #[test]
    fn paths_and_fifo_uris_are_streams() {
        assert_eq!(Route::parse("", "/a%b", "").unwrap(), streams("/a%b", ""));
        assert_eq!(Route::parse("", "fifo:///a%20b", "fifo:///c").unwrap(), streams("/a b", "/c"));
        assert_eq!(Route::parse("/in", "", "").unwrap(), streams("", ""));
        assert_eq!(Route::parse("", "", "/err").unwrap(), streams("", "/err"));
    }

    #[test]
    fn file_names_one_file() {
        assert_eq!(Route::parse("", "file:///var/log/x?y=z", "").unwrap(), Route::File("/var/log/x".into()));
    }

    #[test]
    fn logger_takes_its_arguments_from_the_query() {
        let route = Route::parse("", "binary:///bin/logger?--id=a%2Fb+c&x&--id=second", "").unwrap();
        let arguments = ["--id", "a/b c", "x", ""].map(str::to_owned).to_vec();
        let command = LoggerCommand { program: "/bin/logger".into(), arguments, must_say_ready: false };
        assert_eq!(route, Route::Logger(command));
        let Route::Logger(command) = Route::parse("", "binary-v2:///l", "").unwrap() else { panic!("not a logger") };
        assert!(command.must_say_ready && command.arguments.is_empty());
    }

    #[test]
    fn unknown_schemes_and_broken_uris_are_refused() {
        let error = Route::parse("", "smoke://signals", "").unwrap_err();
        assert_eq!(error.to_string(), "unknown STDIO scheme smoke");
        assert!(matches!(Route::parse("", "file://%zz", ""), Err(Error::Uri { .. })));
        assert!(matches!(Route::parse("", "binary:///l?a=%f", ""), Err(Error::Uri { .. })));
        assert!(matches!(Route::parse("", "file:relative", ""), Err(Error::Uri { .. })));
    }
}
