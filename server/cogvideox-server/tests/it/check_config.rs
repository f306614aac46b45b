//! `check-config` as the operator runs it.

use std::process::{Command, Output};

fn check_config(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server"))
        .env_clear()
        .arg("check-config")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_good_configuration_is_printed_as_toml() {
    let output = check_config(&["--set", "server.port=9000"]);
    assert!(output.status.success());
    let printed: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!(printed["server"]["port"].as_integer(), Some(9000));
    assert_eq!(printed["model"]["path"].as_str(), Some("demo"));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_bad_configuration_ends_in_one_line_and_a_failure() {
    let output = check_config(&["--set", "server.prot=9000"]);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: unknown configuration key server.prot in the command line\n"
    );
    let unreadable = String::from_utf8(check_config(&["--config", "/nowhere.toml"]).stderr).unwrap();
    assert_eq!(unreadable.matches("No such file").count(), 1, "{unreadable}");
}

#[test]
fn the_table_tells_of_every_key() {
    let printed = |arguments: &[&str]| String::from_utf8(check_config(arguments).stdout).unwrap();
    let table = printed(&["--table"]);
    let mut keys: Vec<&str> =
        table.lines().skip(2).map(|row| row.split('`').nth(1).expect("a key first")).collect();
    keys.sort_unstable();
    let config: toml::Table = printed(&[]).parse().unwrap();
    let mut expected = Vec::new();
    for (name, value) in &config {
        match value {
            toml::Value::Table(section) => expected.extend(section.keys().map(|key| format!("{name}.{key}"))),
            _ => expected.push(name.clone()),
        }
    }
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert!(table.contains("| `server.port` | `8000` | The port to listen on;"), "{table}");
}
