//! What no compiler checks of the sources: which way dependencies point, how large files are, and that the
//! catalogue of metrics is complete.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expected"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The crates, lowest first. A crate depends on earlier ones only.
const LAYERS: [&[&str]; 8] = [
    &["settings", "failpoint", "nats-server"],
    &["contract"],
    &["telemetry"],
    &["identity", "database"],
    &["messaging"],
    &["service"],
    &["gateway", WORKERS, "chaos"],
    &["eventboard"],
];

/// Every crate whose name ends like this.
const WORKERS: &str = "-worker";

/// Lines a file may have.
const MAX_LINES: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below `directory`, with its text.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => {
                let text = std::fs::read_to_string(&path).unwrap();
                vec![(path, text)]
            }
            _ => Vec::new(),
        })
        .collect()
}

/// Every source file of every crate.
fn all_sources() -> Vec<(PathBuf, String)> {
    crates().values().flat_map(|directory| sources(&directory.join("src"))).collect()
}

/// Each crate of the workspace, with its directory.
fn crates() -> BTreeMap<String, PathBuf> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members = members.split('"').skip(1).step_by(2).map(|member| root().join(member));
    std::iter::once(root().to_owned())
        .chain(members)
        .map(|directory| {
            let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
            let name = manifest.split("[package]\nname = \"").nth(1).unwrap().split('"').next().unwrap();
            (name.to_owned(), directory)
        })
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let layer = |name: &str| {
        let name = if name.ends_with(WORKERS) { WORKERS } else { name };
        let layer = LAYERS.iter().position(|layer| layer.contains(&name));
        layer.unwrap_or_else(|| panic!("{name} has no layer; give it one"))
    };
    let crates = crates();
    for (name, directory) in &crates {
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        let named: BTreeSet<&str> =
            section.lines().filter_map(|line| line.split(['.', ' ']).next()).collect();
        for dependency in crates.keys().filter(|known| named.contains(known.as_str())) {
            assert!(layer(dependency) < layer(name), "{name} must not depend on {dependency}");
        }
        for (file, text) in sources(&directory.join("src")) {
            for used in text.lines().filter_map(|line| line.trim().strip_prefix("use ")) {
                let used = used.split([':', ';', ' ']).next().unwrap().replace('_', "-");
                let is_above = crates.contains_key(&used) && used != *name && layer(&used) >= layer(name);
                assert!(!is_above, "{} uses {used}", file.display());
            }
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for (file, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, of at most {MAX_LINES}", file.display());
        assert!(text.starts_with("//! "), "{} does not say what it is for", file.display());
    }
}

#[test]
fn every_metric_stands_in_the_catalogue() {
    let handbook = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut seen = 0;
    for (file, text) in all_sources() {
        for name in text.lines().flat_map(metrics_in) {
            assert!(handbook.contains(&name), "docs/operations.md lacks {name} of {}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 25, "only {seen} metrics were found");
}

/// The metrics that a line makes, as Prometheus names them, without unit and suffix: our own by their names, those
/// of the semantic conventions by the constants of their crate.
fn metrics_in(line: &str) -> Vec<String> {
    let is_attribute = ["KeyValue::new", "attribute(", "const "].iter().any(|mark| line.contains(mark));
    let own =
        line.split('"').skip(1).step_by(2).filter(|text| !is_attribute && text.starts_with("eventboard."));
    let constants =
        line.split("metric::").skip(1).map(|rest| rest.split(|c| !is_of_constant(c)).next().unwrap());
    let constants = constants.filter(|name| !name.is_empty()).map(str::to_lowercase);
    own.map(|name| name.replace('.', "_")).chain(constants).collect()
}

fn is_of_constant(character: char) -> bool {
    character.is_ascii_uppercase() || character == '_'
}
