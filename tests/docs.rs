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
