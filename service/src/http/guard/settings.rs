//! Settings of the guard, the same at both services. Only the command line parser reads the
//! environment.

use super::names::{Host, HostPattern, Origin};
use crate::runtime::settings::{SettingChecks, listed};

/// Name of the setting with the names of the service.
pub const ALLOWED_HOSTS: &str = "AURA_CONFIGURATION_ALLOWED_HOSTS";
/// Name of the setting with the origins whose pages may read.
pub const CORS_ORIGINS: &str = "AURA_CONFIGURATION_CORS_ORIGINS";

/// The texts of the settings, and their help.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GuardArgs {
    /// Host names under which clients reach this service, separated by commas: `name` or
    /// `*.domain`. A request for any other name is refused with 421.
    ///
    /// Not needed for IP addresses and `localhost`. Set it to the name of the Kubernetes service or
    /// of the container, or to the name of a proxy that passes on `Host`. A web page cannot choose
    /// the name, so the list keeps pages away that point a name of their own at this service.
    #[arg(long, env = ALLOWED_HOSTS, value_name = "NAMES", default_value = "", hide_default_value = true)]
    allowed_hosts: String,

    /// Origins whose web pages may read, separated by commas, for example
    /// `https://admin.example`. Pages of other origins are refused, and none may write.
    #[arg(long, env = CORS_ORIGINS, value_name = "ORIGINS", default_value = "", hide_default_value = true)]
    cors_origins: String,
}

/// Which hosts and origins the guard knows. The default knows none besides addresses and loopback.
#[derive(Debug, Clone, Default)]
pub struct GuardSettings {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) origins: Vec<Origin>,
}

impl GuardArgs {
    /// Checks the settings; `None` when an error was recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<GuardSettings> {
        let hosts: Vec<_> = listed(&self.allowed_hosts)
            .map(|name| checks.parse::<HostPattern>(ALLOWED_HOSTS, name))
            .collect();
        let origins: Vec<_> = listed(&self.cors_origins)
            .map(|origin| checks.parse::<Origin>(CORS_ORIGINS, origin))
            .collect();
        Some(GuardSettings {
            hosts: hosts.into_iter().collect::<Option<_>>()?,
            origins: origins.into_iter().collect::<Option<_>>()?,
        })
    }
}

impl GuardSettings {
    /// Whether a text is `HOST` or `HOST:PORT` with a known name, as the guard judges `Host`.
    pub fn knows(&self, host: &str) -> bool {
        host.parse().is_ok_and(|host| self.knows_host(&host))
    }

    pub(super) fn knows_host(&self, host: &Host) -> bool {
        host.is_address_or_loopback() || self.hosts.iter().any(|known| known.matches(host))
    }

    /// The same, with one more name of the service. Nothing for a text that is no host name.
    #[must_use]
    pub fn known_as(mut self, name: &str) -> Self {
        self.hosts.extend(name.parse::<HostPattern>().ok());
        self
    }
}
