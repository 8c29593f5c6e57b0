//! `confcast doctor`: what an upgrade to the version of this program would meet. It asks publishers,
//! and replicas by the list of a publisher, and changes nothing. `findings` holds the rules.

mod findings;
#[cfg(test)]
mod tests;

use anyhow::ensure;
use client::Endpoint;
use comfy_table::Color;
use contract::{SecretUrl, formats, release::ReleaseVersion};
use futures_util::future::join_all;
use serde::Serialize;

use self::findings::{Finding, FleetFacts, PublisherFacts, Verdict};
use super::restore;
use crate::{
    credentials::CredentialArgs,
    output::{self, Cell},
    target::{Unshown, endpoint, service_url},
};

/// Say what an upgrade to the version of this program would meet
///
/// Run the confcast of the version that you want to run next: a newer one before an upgrade, an older one
/// before you go back. It asks each publisher for its version, its store and the names of its settings,
/// and the first one that answers for its replicas, as they were at their last check-in. It changes nothing.
///
/// Each line is ok, a warning, or blocks the upgrade, and has its remedy. --json prints an object:
/// `version`, `protocol` and `storeFormat` of this program, `verdict` (the worst one), and
/// `findings`, each with `verdict`, `part`, `check`, `found` and, unless it is ok, `remedy`.
///
/// The exit code is 0 unless something blocks the upgrade; with --strict unless there is a warning.
/// Values of settings are checked by the programs themselves: `publisher --check-settings`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Base URLs of all publishers, separated by commas
    #[arg(
        long = "publisher",
        value_name = "URL",
        env = "AURA_CONFIGURATION_API_URL",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_parser = Unshown(service_url)
    )]
    publishers: Vec<SecretUrl>,
    /// Fail also on warnings
    #[arg(long)]
    strict: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    version: ReleaseVersion,
    protocol: u32,
    store_format: u64,
    verdict: Verdict,
    findings: Vec<Finding>,
}

impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publishers = self.publishers.iter();
        let publishers = publishers
            .map(|url| endpoint(url, &self.credentials))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let report = Report::gather(&publishers).await;
        if self.json {
            output::json(&report)?;
        } else {
            report.print()?;
        }
        let allowed = if self.strict {
            Verdict::Ok
        } else {
            Verdict::Warning
        };
        // The error of the command is the summary as well.
        ensure!(report.verdict <= allowed, "{}", report.summary());
        if !self.json {
            output::result(report.summary())?;
        }
        Ok(())
    }
}

impl Report {
    async fn gather(publishers: &[Endpoint]) -> Self {
        let facts = join_all(publishers.iter().map(publisher_facts)).await;
        let mut findings: Vec<Finding> = facts.iter().flat_map(PublisherFacts::findings).collect();
        if let Some(fleet) = first_fleet(publishers, &facts).await {
            findings.extend(fleet.findings());
        }
        let verdict = findings.iter().map(|finding| finding.verdict).max();
        Self {
            version: ReleaseVersion::own(),
            protocol: formats::PROTOCOL,
            store_format: formats::STORE,
            verdict: verdict.unwrap_or(Verdict::Ok),
            findings,
        }
    }

    fn print(&self) -> anyhow::Result<()> {
        let Self {
            version,
            protocol,
            store_format,
            ..
        } = self;
        output::result(format_args!(
            "This is version {version}: protocol {protocol}, store format {store_format}"
        ))?;
        let mut table = output::wrapping_table(["", "part", "check", "found", "remedy"]);
        for finding in &self.findings {
            let verdict = finding.verdict;
            let colour = match verdict {
                Verdict::Ok => Color::Green,
                Verdict::Warning => Color::Yellow,
                Verdict::Blocks => Color::Red,
            };
            table.add_row([
                output::coloured(verdict.as_str(), colour),
                Cell::from(&finding.part),
                Cell::from(finding.check),
                Cell::from(&finding.found),
                Cell::from(finding.remedy.as_deref().unwrap_or_default()),
            ]);
        }
        output::result_table(&table)?;
        Ok(())
    }

    fn summary(&self) -> String {
        let count = |verdict| {
            let findings = self.findings.iter();
            findings
                .filter(|finding| finding.verdict == verdict)
                .count()
        };
        let plural = |number: usize| if number == 1 { "" } else { "s" };
        let warnings = count(Verdict::Warning);
        let warnings = format!("{warnings} warning{}", plural(warnings));
        match count(Verdict::Blocks) {
            0 => format!("Nothing blocks running this version; {warnings}"),
            1 => format!("1 finding blocks running this version; {warnings}"),
            blocks => format!("{blocks} findings block running this version; {warnings}"),
        }
    }
}

async fn publisher_facts(publisher: &Endpoint) -> PublisherFacts {
    let release = publisher.version().await;
    let readiness = match &release {
        // What gives no version is asked no further.
        Err(_unknown) => Ok(None),
        Ok(_release) => publisher.readiness().await,
    };
    PublisherFacts {
        url: publisher.base().to_owned(),
        release: release.map_err(|error| error.to_string()),
        readiness: readiness.map_err(|error| error.to_string()),
    }
}

/// What the first publisher says that lists the replicas: they share a store, so each of them knows all.
/// Where none does, what the first one says that was asked.
async fn first_fleet(publishers: &[Endpoint], facts: &[PublisherFacts]) -> Option<FleetFacts> {
    let mut known = None;
    for (publisher, facts) in publishers.iter().zip(facts) {
        if !facts.may_know_replicas() {
            continue;
        }
        let fleet = fleet_facts(publisher).await;
        if matches!(fleet.replicas, Ok(Some(_))) {
            return Some(fleet);
        }
        if known.is_none() {
            known = Some(fleet);
        }
    }
    known
}

async fn fleet_facts(publisher: &Endpoint) -> FleetFacts {
    FleetFacts {
        replicas: publisher
            .replicas()
            .await
            .map_err(|error| error.to_string()),
        unfinished_restores: restore::unfinished(publisher)
            .await
            .map(|marks| marks.iter().map(restore::described).collect())
            .map_err(|error| format!("{error:#}")),
    }
}
