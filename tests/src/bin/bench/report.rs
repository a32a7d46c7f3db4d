//! The tables.

use berth_tests::containerd::Containerd;
use std::fs;

use crate::contender::Contender;
use crate::statistics::{Random, Ratio, median};

/// What was measured, table by table.
pub struct Report {
    head: Vec<String>,
    names: Vec<&'static str>,
    tables: Vec<Table>,
    /// The machine's load averages at the begin.
    load: String,
    /// Ticks since boot at the begin: all, and stolen by the hypervisor.
    begin: Option<(u64, u64)>,
}

/// Rows, and what is said below them.
#[derive(Default)]
struct Table {
    title: Option<String>,
    /// Those of a table that is not about the report's contenders.
    columns: Option<Vec<String>>,
    rows: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// A report with one table, which has no title.
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
            tables: vec![Table::default()],
            load: load(),
            begin: ticks(),
        }
    }

    /// Begins another table.
    pub fn table(&mut self, title: String) {
        eprintln!("{title}");
        self.tables.push(Table { title: Some(title), ..Table::default() });
    }

    /// Begins another table, which has columns of its own.
    pub fn table_of(&mut self, title: String, columns: Vec<String>) {
        self.table(title);
        self.last().columns = Some(columns);
    }

    /// A row of medians in milliseconds, Berth's first, with Berth's ratio to each of the others; the medians.
    pub fn latencies(&mut self, what: String, samples: &[Vec<f64>], random: &mut Random) -> Vec<f64> {
        let medians: Vec<f64> = samples.iter().map(|samples| median(samples)).collect();
        let ratios: Vec<Ratio> = samples[1..].iter().map(|theirs| Ratio::of(&samples[0], theirs, random)).collect();
        let values = medians.iter().map(|median| milliseconds(*median));
        let ratios = ratios.iter().map(|ratio| format!("**{:.2}** ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high));
        self.row(what, values.chain(ratios).collect());
        medians
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

    /// A row, one cell for each column.
    pub fn row(&mut self, what: String, cells: Vec<String>) {
        let row = format!("| {what} | {} |", cells.join(" | "));
        eprintln!("  {row}");
        self.last().rows.push(row);
    }

    /// A sentence below the last table.
    pub fn note(&mut self, note: String) {
        self.last().notes.push(note);
    }

    fn last(&mut self) -> &mut Table {
        if self.tables.is_empty() {
            self.tables.push(Table::default());
        }
        let last = self.tables.len() - 1;
        &mut self.tables[last]
    }

    /// Prints the whole in Markdown.
    pub fn print(mut self) {
        if let (Some(begin), Some(end)) = (self.begin, ticks()) {
            let stolen = 100.0 * (end.1 - begin.1) as f64 / (end.0 - begin.0).max(1) as f64;
            self.head.push(format!("{stolen:.1} % of the processors' time stolen by the hypervisor"));
        }
        self.head.push(format!("load {} before and {} after", self.load, load()));
        println!("{}\n", self.head.join("; "));
        let ratios = self.names[1..].iter().map(|name| format!("{} / {name}", self.names[0]));
        let columns: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).chain(ratios).collect();
        for table in &self.tables {
            if let Some(title) = &table.title {
                println!("\n### {title}\n");
            }
            let columns = table.columns.as_ref().unwrap_or(&columns);
            println!("| | {} |", columns.join(" | "));
            println!("|---|{}", "---:|".repeat(columns.len()));
            table.rows.iter().for_each(|row| println!("{row}"));
            println!();
            table.notes.iter().for_each(|note| println!("- {note}"));
        }
    }
}

fn milliseconds(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.2} ms") } else { format!("{value:.1} ms") }
}

/// The load averages of the last 1, 5 and 15 minutes. proc_loadavg(5)
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// All processors' ticks since boot, and those stolen. proc_stat(5)
fn ticks() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    Some((fields.iter().sum(), *fields.get(7)?))
}
