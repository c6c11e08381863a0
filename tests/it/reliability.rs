//! What the documents say that is proven is: each scenario that docs/reliability.md names is there, and runs with all others
//! unless it is said what runs it.

use std::path::Path;

/// Stands behind a scenario that `cargo test` passes over.
const RUN_ELSEWHERE: &str = " (run by `.ci/run`)";

/// Whether the attributes above the function that begins behind `before` have it passed over.
fn is_ignored(before: &str) -> bool {
    let above = before.lines().rev().skip(1).map(str::trim_start);
    above.take_while(|line| line.starts_with("#[")).any(|line| line.starts_with("#[ignore"))
}

#[test]
fn every_scenario_that_is_named_is_there_and_runs_where_it_is_said_to() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    let mut rest = include_str!("../../docs/reliability.md");
    while let Some((word, behind)) = rest.split_once('`') {
        rest = behind;
        let Some((file, name)) = word.split_once("::") else { continue };
        named += 1;
        let path = if file.starts_with("src/") { root.join(file) } else { root.join("tests/it").join(file) };
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = source.split_once(&format!("fn {name}("));
        let (before, _) = found.unwrap_or_else(|| panic!("{file} has no {name}"));
        assert_eq!(
            rest.starts_with(RUN_ELSEWHERE),
            is_ignored(before),
            "{name}: {RUN_ELSEWHERE} marks what is ignored"
        );
    }
    assert!(named > 80, "{named}");
}
