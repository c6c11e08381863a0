//! What the documents say that is proven is: each scenario that docs/reliability.md names is there.

use std::path::Path;

#[test]
fn every_scenario_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named: Vec<_> =
        include_str!("../../docs/reliability.md").split('`').filter_map(|word| word.split_once("::")).collect();
    assert!(named.len() > 80, "{}", named.len());
    for (file, name) in named {
        let path = if file.starts_with("src/") { root.join(file) } else { root.join("tests/it").join(file) };
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(source.contains(&format!("fn {name}(")), "{file} has no {name}");
    }
}
