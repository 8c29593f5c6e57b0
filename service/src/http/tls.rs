//! Settings of TLS, the same at both services: the files of the server, and those of the clients inside
//! of it. Only the command line parser reads the environment; no file is opened here.

use std::path::PathBuf;

use tls::{ClientCertificates, ClientFiles, ServerFiles, server::ClientCertMode};

use crate::runtime::settings::{SettingChecks, or};

/// Name of the setting with the certificate of the server.
pub const CERT_FILE: &str = "AURA_CONFIGURATION_TLS_CERT_FILE";
/// Name of the setting with its key.
pub const KEY_FILE: &str = "AURA_CONFIGURATION_TLS_KEY_FILE";
/// Name of the setting with the authorities of client certificates.
pub const CLIENT_CA_FILE: &str = "AURA_CONFIGURATION_TLS_CLIENT_CA_FILE";
/// Name of the setting that says whether client certificates are asked for.
pub const CLIENT_CERT: &str = "AURA_CONFIGURATION_TLS_CLIENT_CERT";
/// Name of the setting with the authorities of servers.
pub const CA_FILE: &str = "AURA_CONFIGURATION_CA_FILE";
/// Name of the setting with the authorities of Redis.
pub const REDIS_CA_FILE: &str = "AURA_REDIS_CA_FILE";
/// Name of the setting with the certificate that is shown to servers.
pub const CLIENT_CERT_FILE: &str = "AURA_CONFIGURATION_CLIENT_CERT_FILE";
/// Name of the setting with its key.
pub const CLIENT_KEY_FILE: &str = "AURA_CONFIGURATION_CLIENT_KEY_FILE";

/// The texts of the settings of a server, and their help.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// File with the certificate of this service and those between it and an authority, in PEM form.
    ///
    /// With it and the key the port takes TLS 1.2 and 1.3 alone. Both files are read again every few
    /// seconds, so a renewed certificate needs no restart.
    #[arg(long, env = CERT_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    tls_cert_file: String,

    /// File with the private key of the certificate, in PEM form.
    #[arg(long, env = KEY_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    tls_key_file: String,

    /// File with the authorities of client certificates, in PEM form.
    #[arg(long, env = CLIENT_CA_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    tls_client_ca_file: String,

    /// Whether clients show a certificate: `none`, `optional` or `required`. Unset:
    /// `optional` where their authorities are named, else `none`
    ///
    /// A certificate of another authority is refused in any case. With `required` a client without one
    /// gets no connection, also a health probe of Kubernetes.
    #[arg(long, env = CLIENT_CERT, value_name = "MODE", default_value = "", hide_default_value = true)]
    tls_client_cert: String,
}

/// The texts of the settings of the clients inside of a service, and their help.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClientTlsArgs {
    /// File with the authorities of the servers that this service connects to by `https://`, in PEM
    /// form. They are trusted instead of those of the system.
    #[arg(long, env = CA_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    ca_file: String,

    /// File with the certificate that this service shows to servers which ask for one, in PEM form.
    #[arg(long, env = CLIENT_CERT_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    client_cert_file: String,

    /// File with the private key of that certificate, in PEM form.
    #[arg(long, env = CLIENT_KEY_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    client_key_file: String,
}

/// The texts of the settings of TLS to Redis, and their help.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RedisTlsArgs {
    /// REDIS: file with the authorities of Redis (`rediss://`), in PEM form. They are trusted instead of
    /// those of the system.
    #[arg(long, env = REDIS_CA_FILE, value_name = "FILE", default_value = "", hide_default_value = true)]
    redis_ca_file: String,

    /// REDIS: file with the certificate that Redis is shown, in PEM form.
    #[arg(
        long,
        env = "AURA_REDIS_CERT_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    redis_cert_file: String,

    /// REDIS: file with the private key of that certificate, in PEM form.
    #[arg(
        long,
        env = "AURA_REDIS_KEY_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    redis_key_file: String,
}

impl RedisTlsArgs {
    /// Checks the settings; `None` when an error was recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<ClientFiles> {
        let files = [
            &self.redis_ca_file,
            &self.redis_cert_file,
            &self.redis_key_file,
        ];
        let [ca, certificate, key] = files.map(|text| path(text));
        let missing = match certificate {
            Some(_) => "AURA_REDIS_KEY_FILE",
            None => "AURA_REDIS_CERT_FILE",
        };
        ClientFiles::new(ca, certificate, key)
            .map_err(|error| checks.error(missing, format_args!("it is not set: {error}")))
            .ok()
    }
}

impl TlsArgs {
    /// Checks the settings: `Some(None)` without TLS, `None` when an error was recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<Option<ServerFiles>> {
        let ca = path(&self.tls_client_ca_file);
        let default = if ca.is_some() { "optional" } else { "none" };
        let mode = checks.parse::<ClientCertMode>(CLIENT_CERT, or(&self.tls_client_cert, default));
        let pair = match (path(&self.tls_cert_file), path(&self.tls_key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (certificate, _) => {
                let missing = if certificate.is_some() {
                    KEY_FILE
                } else {
                    CERT_FILE
                };
                checks.error(
                    missing,
                    "it is not set: a certificate needs its key, and a key its certificate",
                );
                return None;
            }
        };
        let clients = match (mode?, ca) {
            (ClientCertMode::None, _) => ClientCertificates::None,
            (ClientCertMode::Optional, Some(ca)) => ClientCertificates::Optional(ca),
            (ClientCertMode::Required, Some(ca)) => ClientCertificates::Required(ca),
            (_, None) => {
                checks.error(
                    CLIENT_CA_FILE,
                    format_args!("it is not set, and {CLIENT_CERT} needs it"),
                );
                return None;
            }
        };
        let Some((certificate, key)) = pair else {
            if clients != ClientCertificates::None {
                checks.error(CERT_FILE, "it is not set: client certificates need TLS");
                return None;
            }
            return Some(None);
        };
        Some(Some(ServerFiles {
            certificate,
            key,
            clients,
        }))
    }
}

impl ClientTlsArgs {
    /// Checks the settings; `None` when an error was recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<ClientFiles> {
        let [ca, certificate, key] =
            [&self.ca_file, &self.client_cert_file, &self.client_key_file].map(|text| path(text));
        let missing = if certificate.is_some() {
            CLIENT_KEY_FILE
        } else {
            CLIENT_CERT_FILE
        };
        ClientFiles::new(ca, certificate, key)
            .map_err(|error| checks.error(missing, format_args!("it is not set: {error}")))
            .ok()
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: TlsArgs) -> Result<Option<ServerFiles>, String> {
        let mut checks = SettingChecks::default();
        let files = args.check(&mut checks);
        checks.finish(files).map_err(|errors| errors.to_string())
    }

    fn args(files: [&str; 3], mode: &str) -> TlsArgs {
        let [cert, key, ca] = files.map(str::to_owned);
        TlsArgs {
            tls_cert_file: cert,
            tls_key_file: key,
            tls_client_ca_file: ca,
            tls_client_cert: mode.to_owned(),
        }
    }

    #[test]
    fn authorities_alone_make_client_certificates_optional() {
        let clients = |ca, mode| {
            let files = check(args(["c", "k", ca], mode)).expect("valid");
            files.expect("TLS").clients
        };
        assert_eq!(clients("", ""), ClientCertificates::None);
        assert_eq!(clients("ca", ""), ClientCertificates::Optional("ca".into()));
        assert_eq!(clients("ca", "none"), ClientCertificates::None);
        assert_eq!(
            clients("ca", "Required"),
            ClientCertificates::Required("ca".into())
        );
        assert_eq!(check(TlsArgs::default()), Ok(None));
    }

    #[test]
    fn half_of_what_belongs_together_is_refused_with_the_name_of_the_rest() {
        for (files, mode, missing) in [
            (["c", "", ""], "", KEY_FILE),
            (["", "k", ""], "", CERT_FILE),
            (["c", "k", ""], "required", CLIENT_CA_FILE),
            (["", "", "ca"], "", CERT_FILE),
            (["c", "k", "ca"], "always", CLIENT_CERT),
        ] {
            let error = check(args(files, mode)).expect_err(missing);
            assert!(error.contains(missing), "{error}");
        }
    }
}
