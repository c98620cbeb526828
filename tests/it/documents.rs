//! The documents keep up with the code.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{Args, Command};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every text between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_path_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec!["ARCHITECTURE.md".to_owned(), "README.md".to_owned()];
    for directory in ["docs", "docs/adr"] {
        let entries = std::fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.path().is_file());
        documents.extend(files.map(|file| format!("{directory}/{}", file.file_name().to_str().unwrap())));
    }
    let tops =
        ["shared/", "gateway/", "auth-worker/", "events-worker/", "src/", "tests/", "scripts/", "docs/"];
    let mut seen = 0;
    for document in documents {
        let text = read(&document);
        for path in quoted(&text).filter(|path| tops.iter().any(|top| path.starts_with(top))) {
            assert!(root.join(path).exists(), "{document} names {path}");
            seen += 1;
        }
        let directory = root.join(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            let is_here = file.is_empty() || file.contains("://") || directory.join(file).exists();
            assert!(is_here, "{document} links to {link}");
        }
    }
    assert!(seen > 50, "the documents name only {seen} paths");
}

#[test]
fn every_test_that_proves_a_guarantee_exists() {
    let readme = read("README.md");
    let mut seen = 0;
    for command in quoted(&readme).filter_map(|text| text.strip_prefix("cargo test --test it -- ")) {
        for suite in command.split(' ') {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/{suite}.rs"));
            assert!(file.exists(), "the README names the suite {suite}");
            seen += 1;
        }
    }
    assert!(seen > 10, "the README names only {seen} suites");
}

#[test]
fn every_setting_has_help_and_stands_in_the_list() {
    let settings = read("docs/settings.md");
    let named: BTreeSet<&str> = quoted(&settings).filter(|name| name.starts_with("EVENTBOARD_")).collect();
    let mut known = BTreeSet::new();
    let services = [
        eventboard::runner::Config::augment_args(Command::new("eventboard")),
        gateway::Config::augment_args(Command::new("gateway")),
        auth_worker::Config::augment_args(Command::new("auth-worker")),
        events_worker::Config::augment_args(Command::new("events-worker")),
        eventboard::trace::Config::augment_args(Command::new("trace")),
    ];
    for service in &services {
        for argument in service.get_arguments() {
            let Some(variable) = argument.get_env() else {
                // What is asked for is said each time.
                assert_eq!(service.get_name(), "trace", "{} has no variable", argument.get_id());
                continue;
            };
            let variable = variable.to_str().unwrap().to_owned();
            assert!(argument.get_help().is_some(), "{variable} has no help");
            assert!(named.contains(variable.as_str()), "docs/settings.md lacks {variable}");
            known.insert(variable);
        }
    }
    for name in named {
        assert!(known.contains(name), "docs/settings.md names {name}, which nothing reads");
    }
}
