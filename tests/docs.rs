//! What the documents say of files and tests is true.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory of tests") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Words of four parts and more are names of tests: nothing else in these documents looks like that.
fn is_test(word: &str) -> bool {
    word.split('_').count() > 3 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_test_that_security_md_names_exists() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let mut text = String::new();
    for directory in ["runtime-core/tests", "runtime-core/src", "tests/suite", "shim/src", "fuzz/tests"] {
        sources(&root().join(directory), &mut text);
    }
    let named: Vec<&str> = quoted(&document).filter(|word| is_test(word)).collect();
    assert!(named.len() > 40, "only {} names of tests: {named:?}", named.len());
    for name in named {
        let known = [format!("(\"{name}\","), format!("fn {name}("), format!("        {name},\n")];
        assert!(known.iter().any(|known| text.contains(known)), "docs/security.md names {name}, which is no test");
    }
}

/// Where the trials of a mark are; those without one are runtime-core's, as root.
fn home_of(mark: &str) -> &'static str {
    match mark {
        "suite" => "tests/suite",
        "cgroup" => "runtime-core/tests/cgroup",
        "shim" => "shim/src",
        _ => "runtime-core/tests/root",
    }
}

/// The tests of a row, each with the mark before it: ``mark: `a`, `b` ``.
fn marked(row: &str) -> Vec<(&str, &str)> {
    let mut parts = row.split('`');
    let mut mark = "";
    let mut tests = Vec::new();
    while let (Some(prose), Some(word)) = (parts.next(), parts.next()) {
        if prose.trim() != "," {
            mark = prose.trim_end().strip_suffix(':').and_then(|said| said.split(' ').next_back()).unwrap_or_default();
        }
        tests.extend(is_test(word).then_some((mark, word)));
    }
    tests
}

#[test]
fn every_test_of_a_vulnerability_is_where_its_mark_says() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let rows = document.lines().filter(|line| line.starts_with("| CVE-") || line.starts_with("| GHSA-"));
    let tests: Vec<_> = rows.flat_map(marked).collect();
    assert!(tests.iter().filter(|(mark, _)| *mark == "suite").count() > 3, "{tests:?}");
    for (mark, test) in tests {
        let mut text = String::new();
        sources(&root().join(home_of(mark)), &mut text);
        assert!(text.contains(test), "docs/security.md: {test} is not in {}", home_of(mark));
    }
}

#[test]
fn what_holds_a_rule_of_security_md_is_in_its_file() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let (_, rules) = document.split_once("\n## Rules").expect("the rules");
    let rows: Vec<&str> = rules.lines().take_while(|line| !line.starts_with("## ")).collect();
    let rows = rows.into_iter().filter(|line| line.contains(".rs`"));
    let mut checked = 0;
    for row in rows {
        let place = row.trim_end_matches(" |").rsplit_once(" | ").map_or(row, |(_, place)| place);
        let (files, names): (Vec<_>, Vec<_>) = quoted(place).partition(|word| word.ends_with(".rs"));
        let text: String = files.iter().filter_map(|file| fs::read_to_string(root().join(file)).ok()).collect();
        for name in names {
            assert!(text.contains(name), "docs/security.md: {name} is not in {files:?}");
            checked += 1;
        }
    }
    assert!(checked > 8, "only {checked} names");
}

#[test]
fn every_row_of_security_md_has_a_test_or_a_reason() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let rows: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| CVE-") || line.starts_with("| GHSA-")).collect();
    assert!(rows.len() >= 20, "{} rows", rows.len());
    for row in rows {
        assert!(quoted(row).any(is_test) || row.contains("cannot apply: "), "{row}");
    }
}

#[test]
fn every_file_that_security_md_names_exists() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    for path in quoted(&document).filter(|word| word.ends_with(".rs") && word.contains('/')) {
        assert!(root().join(path).exists(), "docs/security.md names {path}, which is not there");
    }
}

/// Names of config.json that no prose has: those with a capital inside.
fn fields(cell: &str) -> impl Iterator<Item = &str> {
    let words = cell.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| {
        word.starts_with(|c: char| c.is_ascii_lowercase()) && word.contains(|c: char| c.is_ascii_uppercase())
    })
}

#[test]
fn every_field_of_matrix_md_is_spoken_of_in_a_file_of_its_row() {
    let document = fs::read_to_string(root().join("docs/matrix.md")).expect("docs/matrix.md");
    // As config.json writes it, and as Rust does.
    let plain = |text: &str| text.replace('_', "").to_lowercase();
    let mut checked = 0;
    for row in document.lines().filter(|line| line.starts_with("| ") && line.contains("| `")) {
        let Some((field, rest)) = row.trim_start_matches("| ").split_once(" | ") else { continue };
        let files = rest.split(" | ").nth(1).unwrap_or_default();
        let text: String = quoted(files).filter_map(|file| fs::read_to_string(root().join(file)).ok()).collect();
        for name in fields(field) {
            assert!(plain(&text).contains(&plain(name)), "docs/matrix.md: nothing in {files} speaks of {name}");
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} fields");
}

#[test]
fn every_row_of_matrix_md_has_its_letter_and_files_that_exist() {
    let document = fs::read_to_string(root().join("docs/matrix.md")).expect("docs/matrix.md");
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| ") && line.contains("| `")).collect();
    assert!(rows.len() > 75, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> =
            row.strip_prefix('|').and_then(|row| row.strip_suffix('|')).unwrap_or(row).split('|').collect();
        assert_eq!(cells.len(), 4, "{row}");
        let (letter, files, note) = (cells[1].trim(), cells[2], cells[3].trim());
        assert!(matches!(letter, "S" | "P" | "N"), "{row}");
        assert!(letter != "P" || !note.is_empty(), "what is missing? {row}");
        assert!(quoted(files).next().is_some(), "{row}");
        for file in quoted(files) {
            assert!(root().join(file).is_file(), "docs/matrix.md names {file}, which is not there");
        }
    }
}
