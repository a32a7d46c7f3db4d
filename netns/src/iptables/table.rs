//! What iptables-save says and iptables-restore reads. Pure.

use std::fmt;

use crate::cni::fault::{Code, Fault};

/// The words of a rule behind its chain, in the order in which iptables-save says them: what is not in this order is
/// not found again.
pub(crate) type Rule = Vec<String>;

/// A change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// A chain of many, made where it is missing.
    Chain(String),
    /// A chain of one, empty. What led to it does not any more.
    Renew(String),
    /// A rule before the others of its chain, if it is not among them.
    Prepend(String, Rule),
    /// A rule behind the others of its chain, if it is not among them.
    Append(String, Rule),
    /// A rule goes, if it is there.
    Remove(String, Rule),
    /// A chain goes, if it is there, with what leads to it.
    Drop(String),
}

impl Edit {
    /// The chain that it is about.
    pub(super) fn chain(&self) -> &str {
        match self {
            Self::Chain(chain)
            | Self::Renew(chain)
            | Self::Prepend(chain, _)
            | Self::Append(chain, _)
            | Self::Remove(chain, _)
            | Self::Drop(chain) => chain,
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(chain) | Self::Renew(chain) => write!(f, "-N {chain}"),
            Self::Prepend(chain, rule) => write!(f, "-I {chain} {}", quoted(rule)),
            Self::Append(chain, rule) => write!(f, "-A {chain} {}", quoted(rule)),
            Self::Remove(chain, rule) => write!(f, "-D {chain} {}", quoted(rule)),
            Self::Drop(chain) => write!(f, "-X {chain}"),
        }
    }
}

/// A table as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    chains: Vec<String>,
    rules: Vec<(String, Rule)>,
}

impl Table {
    pub(super) fn parse(text: &str) -> Self {
        let mut table = Self::default();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                table.chains.extend(chain.split(' ').next().map(str::to_owned));
            }
            if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = words(rule).into_iter();
                table.rules.extend(words.next().map(|chain| (chain, words.collect())));
            }
        }
        table
    }

    /// The rules, with their chains.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.rules.iter().map(|(chain, rule)| (chain.as_str(), rule.as_slice()))
    }

    /// The lines that make these edits; none where all is as it is to be.
    pub(super) fn lines(mut self, edits: &[Edit]) -> Vec<String> {
        let mut lines = Vec::new();
        for edit in edits {
            self.edit(edit, &mut lines);
        }
        lines
    }

    fn edit(&mut self, edit: &Edit, lines: &mut Vec<String>) {
        match edit {
            Edit::Chain(chain) if self.chains.contains(chain) => {}
            Edit::Renew(chain) if self.chains.contains(chain) => {
                self.leave(chain, lines);
                lines.push(format!("-F {chain}"));
            }
            // Not `:chain`, which would empty one that somebody else makes at this moment.
            Edit::Chain(chain) | Edit::Renew(chain) => {
                lines.push(format!("-N {chain}"));
                self.chains.push(chain.clone());
            }
            Edit::Prepend(chain, rule) => self.add("-I", chain, rule, lines),
            Edit::Append(chain, rule) => self.add("-A", chain, rule, lines),
            Edit::Remove(chain, rule) => self.remove(|one, its| one == chain && its == rule, lines),
            Edit::Drop(chain) if self.chains.contains(chain) => {
                self.leave(chain, lines);
                lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
                self.chains.retain(|one| one != chain);
            }
            Edit::Drop(_) => {}
        }
    }

    fn add(&mut self, how: &str, chain: &str, rule: &[String], lines: &mut Vec<String>) {
        if !self.rules.iter().any(|(one, its)| one == chain && its == rule) {
            lines.push(format!("{how} {chain} {}", quoted(rule)));
            self.rules.push((chain.to_owned(), rule.to_vec()));
        }
    }

    fn remove(&mut self, is_it: impl Fn(&str, &Rule) -> bool, lines: &mut Vec<String>) {
        let (gone, left) = self.rules.drain(..).partition(|(chain, rule)| is_it(chain, rule));
        self.rules = left;
        lines.extend(gone.into_iter().map(|(chain, rule): (String, Rule)| format!("-D {chain} {}", quoted(&rule))));
    }

    /// What leads to a chain goes, and what is in it is forgotten.
    fn leave(&mut self, chain: &str, lines: &mut Vec<String>) {
        self.rules.retain(|(one, _)| one != chain);
        let leads =
            |rule: &Rule| rule.windows(2).any(|pair| ["-j", "-g"].contains(&pair[0].as_str()) && pair[1] == chain);
        self.remove(|_, rule| leads(rule), lines);
    }
}

/// The words of a line, of which those in quotes have escapes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut begun, mut quoted) = (String::new(), false, false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => (begun, quoted) = (true, !quoted),
            '\\' if quoted => word.extend(letters.next()),
            letter if letter.is_ascii_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            letter => {
                begun = true;
                word.push(letter);
            }
        }
    }
    words.extend(begun.then_some(word));
    words
}

fn quoted(rule: &[String]) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.,:/![]|=+".contains(letter);
    let quote = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    rule.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// A comment of at most 255 letters, as the Go plugins shorten it.
pub(crate) fn trimmed(comment: String) -> String {
    match comment.get(..253) {
        Some(beginning) if comment.len() > 255 => format!("{beginning}..."),
        _ => comment,
    }
}

/// Words that somebody wrote into a configuration: each stays one word of one line.
pub(crate) fn foreign(field: &str, words: &[String]) -> Result<(), Fault> {
    match words.iter().find(|word| word.chars().any(char::is_control)) {
        Some(word) => {
            Err(Fault::new(Code::CONFIG, format!("{field} has {word:?}, which is no word of an iptables rule")))
        }
        None => Ok(()),
    }
}

/// The name of a chain that somebody wrote into a configuration.
pub(crate) fn foreign_chain(field: &str, name: &str) -> Result<(), Fault> {
    let plain = |letter: char| letter.is_ascii_graphic() && !"\"'\\".contains(letter);
    if name.len() <= 28 && !name.starts_with(['-', '!']) && name.chars().all(plain) {
        return Ok(());
    }
    Err(Fault::new(Code::CONFIG, format!("{field} is {name:?}, which is no name of an iptables chain")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:OURS - [0:0]
:SHARED - [1:60]
-A PREROUTING -m addrtype --dst-type LOCAL -j SHARED
-A SHARED -p tcp -m comment --comment "dnat name: \"a\" id: \"b\"" -m multiport --dports 80,81 -j OURS
-A OURS -d 10.0.0.1/32 -j DNAT --to-destination 10.7.0.2:80
COMMIT
"#;

    fn rule(text: &str) -> Rule {
        words(text)
    }

    #[test]
    fn a_rule_comes_back_as_it_was_said() {
        let text = r#"-m comment --comment "name: \"a\" id: \"b\\c\"" ! -d 224.0.0.0/4 -j X"#;
        assert_eq!(rule(text)[3], r#"name: "a" id: "b\c""#);
        assert_eq!(quoted(&rule(text)), text);
        assert_eq!(rule(r#"--comment """#), ["--comment", ""]);
    }

    #[test]
    fn what_is_there_is_not_made_again() {
        let edits = [
            Edit::Chain("SHARED".to_owned()),
            Edit::Append("PREROUTING".to_owned(), rule("-m addrtype --dst-type LOCAL -j SHARED")),
            Edit::Remove("SHARED".to_owned(), rule("-j NOWHERE")),
            Edit::Drop("NONE".to_owned()),
        ];
        assert_eq!(Table::parse(SAVED).lines(&edits), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_made_once_and_in_order() {
        let chain = || Edit::Chain("NEW".to_owned());
        let jump = || Edit::Prepend("SHARED".to_owned(), rule("-j NEW"));
        let fill = Edit::Append("NEW".to_owned(), rule("-j RETURN"));
        let lines = Table::parse(SAVED).lines(&[chain(), chain(), jump(), jump(), fill]);
        assert_eq!(lines, ["-N NEW", "-I SHARED -j NEW", "-A NEW -j RETURN"]);
    }

    #[test]
    fn a_chain_goes_with_what_leads_to_it() {
        let leads =
            r#"-D SHARED -p tcp -m comment --comment "dnat name: \"a\" id: \"b\"" -m multiport --dports 80,81 -j OURS"#;
        let drop = [Edit::Drop("OURS".to_owned()), Edit::Drop("OURS".to_owned())];
        assert_eq!(Table::parse(SAVED).lines(&drop), [leads, "-F OURS", "-X OURS"]);
        let renew = [Edit::Renew("OURS".to_owned()), Edit::Append("OURS".to_owned(), rule("-j RETURN"))];
        assert_eq!(Table::parse(SAVED).lines(&renew), [leads, "-F OURS", "-A OURS -j RETURN"]);
    }

    #[test]
    fn foreign_words_stay_in_their_line() {
        assert!(foreign("conditionsV4", &rule("-s 10.0.0.0/8")).is_ok());
        assert!(foreign("conditionsV4", &["-s\nCOMMIT".to_owned()]).is_err());
        for name in ["-X", "!X", "a b", "a\nb", "a\"b", "more-than-twenty-eight-letters"] {
            assert!(foreign_chain("externalSetMarkChain", name).is_err(), "{name}");
        }
        assert!(foreign_chain("externalSetMarkChain", "KUBE-MARK-MASQ").is_ok());
    }
}
