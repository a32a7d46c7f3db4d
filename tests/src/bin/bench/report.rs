//! The table.

use berth_tests::containerd::Containerd;
use std::fs;

use crate::contender::Contender;
use crate::statistics::Ratio;

/// What was measured, row by row.
pub struct Report {
    head: Vec<String>,
    names: Vec<&'static str>,
    rows: Vec<String>,
    notes: Vec<String>,
    /// Ticks since boot at the begin: all, and stolen by the hypervisor.
    begin: Option<(u64, u64)>,
}

impl Report {
    pub fn new(
        containerd: &Containerd,
        contenders: &[Contender],
        blocks: usize,
        containers: usize,
        seed: usize,
    ) -> Report {
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.map(|line| line.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
        };
        let daemon = containerd.program("containerd").arg("--version").output();
        let daemon = daemon.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let mut head = vec![
            format!(
                "{processors} × {}, Linux {}",
                first("/proc/cpuinfo", "model name"),
                first("/proc/sys/kernel/osrelease", "")
            ),
            daemon,
        ];
        head.extend(contenders.iter().filter_map(Contender::version));
        head.push(format!("{blocks} blocks per series, {containers} containers for memory, seed {seed}"));
        Report {
            head,
            names: contenders.iter().map(|contender| contender.name).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
            begin: ticks(),
        }
    }

    /// A row of medians in milliseconds, Berth's first, with Berth's ratio to each of the others.
    pub fn latencies(&mut self, what: String, medians: &[f64], ratios: Vec<Ratio>) {
        let values = medians.iter().map(|median| format!("{median:.1} ms"));
        let ratios = ratios.iter().map(|ratio| format!("**{:.2}** ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high));
        self.row(what, values.chain(ratios).collect());
    }

    /// A row of amounts, Berth's first.
    pub fn amounts(&mut self, what: String, values: &[f64]) {
        let number = |value: f64| {
            if value.fract() == 0.0 || value > 99.0 { format!("{value:.0}") } else { format!("{value:.1}") }
        };
        let cells = values.iter().map(|value| number(*value));
        let ratios = values[1..].iter().map(|theirs| match values[0] / theirs {
            ratio if ratio.is_finite() => format!("**{ratio:.2}**"),
            _ => "–".to_owned(),
        });
        self.row(what, cells.chain(ratios).collect());
    }

    fn row(&mut self, what: String, cells: Vec<String>) {
        let row = format!("| {what} | {} |", cells.join(" | "));
        eprintln!("  {row}");
        self.rows.push(row);
    }

    /// A sentence below the table.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Prints the whole in Markdown.
    pub fn print(mut self) {
        if let (Some(begin), Some(end)) = (self.begin, ticks()) {
            let stolen = 100.0 * (end.1 - begin.1) as f64 / (end.0 - begin.0).max(1) as f64;
            self.note(format!("Of the processors' time {stolen:.1} % was stolen by the hypervisor during the run."));
        }
        println!("{}\n", self.head.join("; "));
        let ratios = self.names[1..].iter().map(|name| format!("{} / {name}", self.names[0]));
        let columns: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).chain(ratios).collect();
        println!("| | {} |", columns.join(" | "));
        println!("|---|{}", "---:|".repeat(columns.len()));
        self.rows.iter().for_each(|row| println!("{row}"));
        println!();
        self.notes.iter().for_each(|note| println!("- {note}"));
    }
}

/// All processors' ticks since boot, and those stolen. proc_stat(5)
fn ticks() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    Some((fields.iter().sum(), *fields.get(7)?))
}
