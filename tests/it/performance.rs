//! What measures, as far as it can be tested without measuring.

use std::process::Command;

fn python(arguments: &[&str]) {
    let output = Command::new("python3")
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn results_become_tables_and_plots() {
    python(&["-m", "unittest", "discover", "benches/chain"]);
}

#[test]
fn the_pages_are_what_the_kept_results_give() {
    python(&["benches/chain", "report", "--check"]);
}
