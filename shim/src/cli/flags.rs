//! The words of a command line, against a table: the same table parses, and prints the help.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lexopt::{Arg, Parser};

use super::Error;

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// `--long`.
    pub long: &'static str,
    /// `-s`.
    pub short: Option<char>,
    /// What its value is called in the help; `None` if it has none.
    pub value: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

/// A flag without a value.
pub const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, value: None, help }
}

/// A flag with one; given more than once, the last counts, unless all are asked for.
pub const fn value(long: &'static str, short: Option<char>, name: &'static str, help: &'static str) -> Flag {
    Flag { long, short, value: Some(name), help }
}

/// What was given.
#[derive(Debug, Default)]
pub struct Given {
    flags: HashMap<&'static str, Vec<OsString>>,
    /// What is no flag.
    pub words: Vec<OsString>,
}

/// Where the flags end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// They may stand anywhere.
    End,
    /// Before the first: all are words.
    Start,
    /// Before the first word that is none; it and all after it are words.
    Word,
}

/// Parses. `-h` and `--help` are in every table, and end the parsing.
pub fn parse(table: &[Flag], until: Until, words: impl IntoIterator<Item = OsString>) -> Result<Given, Error> {
    let mut given = Given::default();
    if until == Until::Start {
        given.words.extend(words);
        let asks = given.words.first().is_some_and(|word| word == "-h" || word == "--help");
        return if asks { Err(Error::Help) } else { Ok(given) };
    }
    let mut parser = Parser::from_args(words);
    let usage = |error: lexopt::Error| Error::Usage(error.to_string());
    while let Some(arg) = parser.next().map_err(usage)? {
        let found = match &arg {
            Arg::Long("help") | Arg::Short('h') => return Err(Error::Help),
            Arg::Long(name) => table.iter().find(|flag| flag.long == *name),
            Arg::Short(letter) => table.iter().find(|flag| flag.short == Some(*letter)),
            Arg::Value(word) => {
                given.words.push(word.clone());
                if until == Until::Word {
                    given.words.extend(parser.raw_args().map_err(usage)?);
                    break;
                }
                continue;
            }
        };
        let Some(flag) = found else { return Err(Error::Usage(arg.unexpected().to_string())) };
        let value = match flag.value {
            Some(_) => parser.value().map_err(usage)?,
            None => parser.optional_value().unwrap_or_else(|| "true".into()),
        };
        given.flags.entry(flag.long).or_default().push(value);
    }
    Ok(given)
}

impl Given {
    /// Whether a switch is on.
    pub fn is_on(&self, flag: &str) -> bool {
        self.value(flag).is_some_and(|value| !matches!(value.to_str(), Some("false" | "False" | "FALSE" | "f" | "0")))
    }

    /// A value as it was given.
    pub fn value(&self, flag: &str) -> Option<&OsStr> {
        self.flags.get(flag).and_then(|values| values.last()).map(OsString::as_os_str)
    }

    /// A path; an empty one is none.
    pub fn path(&self, flag: &str) -> Option<PathBuf> {
        self.value(flag).filter(|value| !value.is_empty()).map(|value| Path::new(value).to_owned())
    }

    /// A text; an empty one is none.
    pub fn text(&self, flag: &str) -> Result<Option<&str>, Error> {
        self.value(flag).filter(|value| !value.is_empty()).map(|value| text(value)).transpose()
    }

    /// All texts that were given for a flag.
    pub fn texts(&self, flag: &str) -> Result<Vec<&str>, Error> {
        self.flags.get(flag).into_iter().flatten().map(|value| text(value)).collect()
    }

    /// A number.
    pub fn number<T: FromStr>(&self, flag: &'static str) -> Result<Option<T>, Error> {
        let parse = |value: &str| {
            value.parse().map_err(|_| Error::Value { flag, value: value.to_owned(), wanted: "a number in range" })
        };
        self.text(flag)?.map(parse).transpose()
    }

    /// The words, as many as a command takes.
    pub fn words<const N: usize>(&self, command: &str) -> Result<[&str; N], Error> {
        let texts = self.words.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
        texts.try_into().map_err(|_| Error::Usage(format!("berth: {command:?} requires exactly {N} argument(s)")))
    }
}

/// A word that has to be Unicode.
pub fn text(word: &OsStr) -> Result<&str, Error> {
    word.to_str().ok_or_else(|| Error::Usage(format!("{}: not Unicode", word.to_string_lossy())))
}

/// The flags of a table, for the help.
pub fn help(table: &[Flag]) -> String {
    let mut text = String::new();
    for flag in table {
        let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let name = format!("{short}--{}{}", flag.long, flag.value.map(|value| format!(" {value}")).unwrap_or_default());
        // Writing to a string does not fail.
        let _ = writeln!(text, "   {name:<32} {}", flag.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        switch("detach", Some('d'), ""),
        value("env", Some('e'), "NAME=VALUE", ""),
        value("memory-swap", None, "BYTES", ""),
    ];

    fn parsed(until: Until, line: &str) -> Result<Given, Error> {
        parse(TABLE, until, line.split(' ').map(OsString::from))
    }

    #[test]
    fn flags_stand_anywhere_or_before_the_first_word() {
        let given = parsed(Until::End, "box --memory-swap -1 -d").unwrap();
        assert_eq!((given.number("memory-swap").unwrap(), given.is_on("detach")), (Some(-1), true));
        assert_eq!(given.words::<1>("update").unwrap(), ["box"]);
        let given = parsed(Until::Word, "-e A=1 -eB=2 --env=C=3 box sh -d -x").unwrap();
        assert_eq!(given.texts("env").unwrap(), ["A=1", "B=2", "C=3"]);
        assert_eq!(given.words, ["box", "sh", "-d", "-x"]);
        assert!(!given.is_on("detach"));
    }

    #[test]
    fn help_is_asked_for_where_nothing_else_is_a_flag() {
        assert!(matches!(parsed(Until::Start, "--help"), Err(Error::Help)));
        assert_eq!(parsed(Until::Start, "--file x -h").unwrap().words, ["--file", "x", "-h"]);
    }

    #[test]
    fn switches_can_be_turned_off() {
        assert!(!parsed(Until::End, "--detach=false").unwrap().is_on("detach"));
        assert!(parsed(Until::End, "--detach=true").unwrap().is_on("detach"));
    }

    #[test]
    fn bad_lines_are_refused() {
        assert!(matches!(parsed(Until::End, "--nonsense"), Err(Error::Usage(_))));
        assert!(matches!(parsed(Until::End, "--env"), Err(Error::Usage(_))));
        assert!(matches!(parsed(Until::End, "a b").unwrap().words::<1>("state"), Err(Error::Usage(_))));
        assert!(parsed(Until::End, "--memory-swap x").unwrap().number::<i64>("memory-swap").is_err());
    }
}
