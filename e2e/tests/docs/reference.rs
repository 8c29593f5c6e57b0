//! The references of settings and commands are what `--help` says, and so are the names in the Helm chart. The dashboard
//! is what its program prints.
//!
//! Each test makes its part of a page from the programs and compares it with the file. With
//! `UPDATE_DOCS=1` in the environment it writes the file instead.

use std::{collections::BTreeSet, fmt::Write};

use anyhow::{Context, ensure};

use crate::{help, read, root};

const BEGIN: &str = "<!-- generated from --help: begin -->\n";
const END: &str = "<!-- generated from --help: end -->\n";
const UPDATE: &str = "UPDATE_DOCS";

/// Compares what stands between the marks of a page with what should, or puts it there.
fn page_has(path: &str, generated: &str) -> anyhow::Result<()> {
    let page = read(path)?;
    let begin = page.find(BEGIN).context("the mark of the beginning")? + BEGIN.len();
    let end = page.find(END).context("the mark of the end")?;
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        let updated = format!("{}{generated}{}", &page[..begin], &page[end..]);
        return Ok(std::fs::write(root().join(path), updated)?);
    }
    ensure!(
        page[begin..end] == *generated,
        "{path} is not what --help says; {UPDATE}=1 cargo test --package e2e --test docs writes it. Expected:\n{generated}"
    );
    Ok(())
}

/// A setting of one program, as its manual describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    variable: String,
    flag: String,
    default: String,
    meaning: String,
}

/// The settings in a manual: the options that have an environment variable.
fn settings(manual: &str) -> Vec<Setting> {
    // An option begins with its flag at the edge; its text is indented further.
    let is_flag = |line: &&str| line.starts_with("      --") || line.starts_with("  -");
    let mut options: Vec<Vec<&str>> = Vec::new();
    for line in manual.lines().filter(|line| !line.trim().is_empty()) {
        if is_flag(&line) {
            options.push(vec![line.trim()]);
        } else if line.starts_with("       ")
            && let Some(option) = options.last_mut()
        {
            option.push(line.trim());
        }
    }
    options.iter().filter_map(|lines| setting(lines)).collect()
}

/// Reads one option; `None` when no environment variable stands for it.
fn setting(lines: &[&str]) -> Option<Setting> {
    let flag = lines
        .first()?
        .split(' ')
        .find(|word| word.starts_with("--"))?;
    let text = lines.get(1..)?.join(" ");
    let variable = bracketed(&text, "env")?;
    let default = bracketed(&text, "default").unwrap_or_default();
    let meaning = text.split(" [").next()?;
    Some(Setting {
        variable: variable.split('=').next()?.to_owned(),
        flag: flag.to_owned(),
        default: default.to_owned(),
        meaning: meaning.trim().to_owned(),
    })
}

fn bracketed<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.split(&format!("[{name}: ")).nth(1)?;
    rest.split(']').next()
}

/// One table of a program.
fn table(settings: &[Setting]) -> String {
    let mut table = String::from("| variable | flag | default | meaning |\n|---|---|---|---|\n");
    for setting in settings {
        let default = match setting.default.as_str() {
            "" => "none".to_owned(),
            text if text.contains(' ') => text.to_owned(),
            text => format!("`{text}`"),
        };
        // What stands in braces or angle brackets would be read as HTML by some readers of Markdown.
        let meaning = setting.meaning.replace('|', "\\|").replace('<', "&lt;");
        writeln!(
            table,
            "| `{}` | `{}` | {default} | {meaning} |",
            setting.variable, setting.flag
        )
        .expect("a String takes all");
    }
    table
}

#[test]
fn the_reference_of_settings_is_what_help_says() -> anyhow::Result<()> {
    let mut generated = String::new();
    for program in ["publisher", "subscriber"] {
        let settings = settings(&help(program, &[])?);
        ensure!(
            settings.len() > 10,
            "the manual of the {program} has another form"
        );
        writeln!(
            generated,
            "\n## Settings of the {program}\n\n{}",
            table(&settings)
        )?;
    }
    let subscriber = settings(&help("subscriber", &[])?);
    let is_own = |setting: &Setting| {
        let mut others = subscriber.iter();
        others.all(|other| other.variable != setting.variable)
    };
    let own: Vec<_> = settings(&help("confcast-component", &[])?)
        .into_iter()
        .filter(is_own)
        .collect();
    writeln!(
        generated,
        "\n## Settings of the Dapr component\n\n`confcast-component` has those of the subscriber, and these:\n\n{}",
        table(&own)
    )?;
    page_has("docs/reference/settings.md", &generated)
}

/// The Helm chart refuses a setting that its program does not know, by the names in its schema.
#[test]
fn the_helm_chart_knows_the_settings_of_help() -> anyhow::Result<()> {
    const SCHEMA: &str = "deploy/helm/confcast/values.schema.json";
    let names = |program: &str| -> anyhow::Result<BTreeSet<String>> {
        let variables = settings(&help(program, &[])?)
            .into_iter()
            .map(|setting| setting.variable);
        // They have no flag. Those of OpenTelemetry are a pattern in the schema.
        let without_flag = ["AURA_CONFIGURATION_LOG_FORMAT", "RUST_LOG"].map(str::to_owned);
        Ok(variables.chain(without_flag).collect())
    };
    let (publisher, subscriber) = (names("publisher")?, names("subscriber")?);
    let shared = publisher.union(&subscriber).cloned().collect();
    for (definition, names) in [
        ("publisherSettings", publisher),
        ("subscriberSettings", subscriber),
        ("sharedSettings", shared),
    ] {
        let lines: Vec<_> = names
            .iter()
            .map(|name| format!("        \"{name}\": true"))
            .collect();
        let generated = format!("{}\n      ", lines.join(",\n"));
        let schema = read(SCHEMA)?;
        let begin = format!(
            "\"{definition}\": {{\n      \"additionalProperties\": false,\n      \"properties\": {{\n"
        );
        let begin = schema.find(&begin).context("no names")? + begin.len();
        let end = begin + schema[begin..].find('}').context("no end of the names")?;
        if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
            let updated = format!("{}{generated}{}", &schema[..begin], &schema[end..]);
            std::fs::write(root().join(SCHEMA), updated)?;
        } else {
            ensure!(
                schema[begin..end] == generated,
                "{SCHEMA} has other {definition} than --help; {UPDATE}=1 cargo test --package e2e --test docs writes them"
            );
        }
    }
    Ok(())
}

#[test]
fn the_dashboard_is_what_its_program_prints() -> anyhow::Result<()> {
    const PROGRAM: &str = "tools/dashboard/dashboard.py";
    const DASHBOARD: &str = "deploy/grafana/confcast.json";
    let output = std::process::Command::new("python3")
        .arg(root().join(PROGRAM))
        .output()?;
    ensure!(
        output.status.success(),
        "{PROGRAM}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let generated = String::from_utf8(output.stdout)?;
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        return Ok(std::fs::write(root().join(DASHBOARD), generated)?);
    }
    ensure!(
        read(DASHBOARD)? == generated,
        "{DASHBOARD} is not what {PROGRAM} prints; {UPDATE}=1 cargo test --package e2e --test docs writes it"
    );
    Ok(())
}

/// The commands that a manual lists.
pub(crate) fn commands(manual: &str) -> Vec<String> {
    let list = manual.split("Commands:\n").nth(1).unwrap_or_default();
    list.lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// A manual as a block of text, without spaces at line ends and without values of variables.
fn block(manual: &str) -> String {
    let lines = manual
        .lines()
        .map(|line| line.trim_end().replace("=]", "]"));
    format!(
        "```text\n{}\n```\n",
        lines.collect::<Vec<_>>().join("\n").trim_end()
    )
}

#[test]
fn the_reference_of_commands_is_what_help_says() -> anyhow::Result<()> {
    let manual = help("confcast", &[])?;
    let names = commands(&manual);
    ensure!(names.len() > 10, "the manual has another form: {manual}");
    let mut generated = format!("\n{}", block(&manual));
    for name in names {
        let manual = help("confcast", &[&name])?;
        write!(generated, "\n## confcast {name}\n\n{}", block(&manual))?;
        for inner in commands(&manual) {
            let manual = help("confcast", &[&name, &inner])?;
            write!(
                generated,
                "\n### confcast {name} {inner}\n\n{}",
                block(&manual)
            )?;
        }
    }
    generated.push('\n');
    page_has("docs/reference/cli.md", &generated)
}

#[test]
fn a_manual_is_read_by_options() {
    let manual = "Options:\n      --listen <A>\n          Address [env: L=] [default: 1:2]\n  -h, --help\n          Print help\n";
    let expected = Setting {
        variable: "L".to_owned(),
        flag: "--listen".to_owned(),
        default: "1:2".to_owned(),
        meaning: "Address".to_owned(),
    };
    assert_eq!(settings(manual), [expected]);
}
