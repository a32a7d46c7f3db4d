//! The CRI log format: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, a line per line, P for one that goes on.

/// One line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the text ends here (F) or goes on in the next line of the stream (P).
    pub full: bool,
    /// What the container wrote, without the newline.
    pub text: String,
}

/// Parses a log; a line that is not in the format is an error.
pub fn parse(log: &str) -> Result<Vec<Line>, String> {
    log.lines().map(line).collect()
}

fn line(raw: &str) -> Result<Line, String> {
    let mut parts = raw.splitn(4, ' ');
    let mut next = || parts.next().ok_or_else(|| format!("not a CRI log line: {raw:?}"));
    let (time, stream, tag, text) = (next()?, next()?, next()?, next()?);
    let timed = time.len() >= 20 && time.as_bytes().get(10) == Some(&b'T');
    if !timed || !["stdout", "stderr"].contains(&stream) || !["F", "P"].contains(&tag) {
        return Err(format!("not a CRI log line: {raw:?}"));
    }
    Ok(Line { stream: stream.to_owned(), full: tag == "F", text: text.to_owned() })
}

/// What a stream wrote, its parts joined.
pub fn text(lines: &[Line], stream: &str) -> String {
    let mut text = String::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        text.push_str(&line.text);
        if line.full {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_joined() {
        let log = "2026-01-02T03:04:05.000000006Z stdout P ab\n2026-01-02T03:04:05.000000006Z stderr F x\n\
                   2026-01-02T03:04:05.000000006Z stdout F c d\n";
        let lines = parse(log).expect("a log");
        assert_eq!(text(&lines, "stdout"), "abc d\n");
        assert_eq!(text(&lines, "stderr"), "x\n");
    }

    #[test]
    fn other_lines_are_refused() {
        assert!(parse("hello world and more\n").is_err());
        assert!(parse("2026-01-02T03:04:05Z stdin F x\n").is_err());
    }
}
