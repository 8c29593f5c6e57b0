//! Settings of TLS, the same at both services: the files of the server, and those of the clients inside
//! of it. The files are read here, so that one that cannot be used is a wrong setting as any other.
//! Only the command line parser reads the environment.

use std::path::{Path, PathBuf};

use tls::{
    ClientCertificates, ClientFiles, ClientTls, ServerFiles, ServerTls, server::ClientCertMode,
};

use crate::runtime::settings::{SettingChecks, or, warn_of_open_key};

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
/// Name of the setting with the certificate that Redis is shown.
const REDIS_CERT_FILE: &str = "AURA_REDIS_CERT_FILE";
/// Name of the setting with its key.
const REDIS_KEY_FILE: &str = "AURA_REDIS_KEY_FILE";
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
        env = REDIS_CERT_FILE,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    redis_cert_file: String,

    /// REDIS: file with the private key of that certificate, in PEM form.
    #[arg(
        long,
        env = REDIS_KEY_FILE,
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
        let names = [REDIS_CA_FILE, REDIS_CERT_FILE, REDIS_KEY_FILE];
        // Redis reads them again for each connection, so what was opened is not kept.
        client(checks, names, files.map(String::as_str)).map(|(files, _opened)| files)
    }
}

impl TlsArgs {
    /// Whether connections are taken with TLS only, if the settings are right.
    pub fn is_on(&self) -> bool {
        !self.tls_cert_file.is_empty()
    }

    /// Checks the settings, and reads the files: `Some(None)` without TLS, `None` when an error was
    /// recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<Option<ServerTls>> {
        let Some(files) = self.files(checks)? else {
            return Some(None);
        };
        warn_of_open_key(KEY_FILE, &files.key);
        let opened = ServerTls::open(files).map_err(|error| {
            let path = |text| Some(Path::new(text));
            let name = error.name_of([
                (CERT_FILE, path(&self.tls_cert_file)),
                (KEY_FILE, path(&self.tls_key_file)),
                (CLIENT_CA_FILE, path(&self.tls_client_ca_file)),
            ]);
            checks.error(name, error);
        });
        opened.ok().map(Some)
    }

    fn files(&self, checks: &mut SettingChecks) -> Option<Option<ServerFiles>> {
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
                checks.missing(missing, HALF);
                return None;
            }
        };
        let clients = match (mode?, ca) {
            (ClientCertMode::None, _) => ClientCertificates::None,
            (ClientCertMode::Optional, Some(ca)) => ClientCertificates::Optional(ca),
            (ClientCertMode::Required, Some(ca)) => ClientCertificates::Required(ca),
            (_, None) => {
                checks.missing(CLIENT_CA_FILE, format_args!("{CLIENT_CERT} needs it"));
                return None;
            }
        };
        let Some((certificate, key)) = pair else {
            if clients != ClientCertificates::None {
                checks.missing(CERT_FILE, "client certificates need TLS");
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
    /// Checks the settings, and reads the files; `None` when an error was recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<ClientTls> {
        let names = [CA_FILE, CLIENT_CERT_FILE, CLIENT_KEY_FILE];
        let files = [&self.ca_file, &self.client_cert_file, &self.client_key_file];
        client(checks, names, files.map(String::as_str)).map(|(_files, opened)| opened)
    }
}

/// The files of a client, and what they have; `None` when an error was recorded. `names` and `texts`
/// are those of the authorities, the certificate and its key.
fn client(
    checks: &mut SettingChecks,
    names: [&str; 3],
    texts: [&str; 3],
) -> Option<(ClientFiles, ClientTls)> {
    let [ca, certificate, key] = texts.map(path);
    let missing = if certificate.is_some() {
        names[2]
    } else {
        names[1]
    };
    let files = ClientFiles::new(ca, certificate, key)
        .map_err(|_half| checks.missing(missing, HALF))
        .ok()?;
    if let Some((_certificate, key)) = &files.identity {
        warn_of_open_key(names[2], key);
    }
    let opened = ClientTls::open(files.clone()).map_err(|error| {
        let [ca, certificate, key] = [0, 1, 2].map(|at| (names[at], Some(Path::new(texts[at]))));
        checks.error(error.name_of([certificate, key, ca]), error);
    });
    Some((files, opened.ok()?))
}

/// Why a setting is missed where only one of a pair is set.
const HALF: &str = "a certificate needs its key, and a key its certificate";

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: TlsArgs) -> Result<Option<ServerFiles>, String> {
        let mut checks = SettingChecks::default();
        let files = args.files(&mut checks);
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

    #[test]
    fn a_file_that_cannot_be_used_is_a_wrong_setting() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let authority = tls::testing::Authority::new();
        let [one, two] = ["one", "two"].map(|name| authority.issue(&[name]));
        let certificate = file("one.pem", &one.certificate);
        let [key, other] = [file("one.key", &one.key), file("two.key", &two.key)];
        let none = file("none.pem", "no PEM");
        let sealed = file("sealed.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----");
        for (files, wrong) in [
            (["/no/file", &key, ""], CERT_FILE),
            ([&certificate, "/no/file", ""], KEY_FILE),
            ([&key, &certificate, ""], CERT_FILE),
            ([&certificate, &certificate, ""], KEY_FILE),
            ([&certificate, &other, ""], KEY_FILE),
            ([&certificate, &sealed, ""], KEY_FILE),
            ([&certificate, &key, &none], CLIENT_CA_FILE),
        ] {
            let mut checks = SettingChecks::default();
            let found = args(files, "").check(&mut checks);
            let error = checks.finish(found).expect_err(wrong).to_string();
            assert!(error.contains(&format!("  {wrong}=")), "{error}");
            assert_eq!(error.contains("is encrypted"), files[1] == sealed);
        }
        let mut checks = SettingChecks::default();
        let clients = ClientTlsArgs {
            ca_file: none.clone(),
            ..ClientTlsArgs::default()
        };
        assert!(clients.check(&mut checks).is_none());
        let redis = RedisTlsArgs {
            redis_cert_file: certificate,
            redis_key_file: other,
            ..RedisTlsArgs::default()
        };
        assert!(redis.check(&mut checks).is_none());
        let error = checks.finish::<()>(None).expect_err("two").to_string();
        for name in [CA_FILE, REDIS_KEY_FILE] {
            assert!(error.contains(&format!("  {name}=")), "{error}");
        }
    }
}
